// Writing floats: a lane makes 16-byte pieces of the output, piece p of a warp's tile by lane p mod 32, so that every
// store instruction covers 512 consecutive bytes.
#pragma once
#include "item.cuh"

// Elements in a piece, and pieces in a group of 32.
template <class E>
constexpr int PER = 16 / E::SIZE;
template <class E>
constexpr int PIECES_PER_GROUP = 32 / PER<E>;

// Two floats as one word of 16-bit elements, the first in the low half; nearest even.
template <class E>
__device__ __forceinline__ uint32_t pair_of(float low, float high) {
    return E::from_f32(__float_as_uint(low)) | (E::from_f32(__float_as_uint(high)) << 16);
}

#if __CUDA_ARCH__ >= 800
// One instruction for both. It writes another NaN than `from_f32`, which no scale and factor in range can give.
template <>
__device__ __forceinline__ uint32_t pair_of<Bf16>(float low, float high) {
    uint32_t w;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(high), "f"(low));
    return w;
}

template <>
__device__ __forceinline__ uint32_t pair_of<F16>(float low, float high) {
    uint32_t w;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(high), "f"(low));
    return w;
}
#endif

// A piece of trits: element e is `value`, `value` with its sign turned, or `zero`, both as bits of an E.
template <class E>
__device__ __forceinline__ uint4 piece_of_trits(uint32_t plus, uint32_t minus, uint32_t value, uint32_t zero) {
    const uint32_t nonzero = plus ^ minus;
    uint32_t w[4] = {0, 0, 0, 0};
#pragma unroll
    for (int e = 0; e < PER<E>; ++e) {
        const uint32_t keep = 0u - ((nonzero >> e) & 1u);
        const uint32_t sign = ((minus >> e) & 1u) << (8 * E::SIZE - 1);
        const uint32_t bits = ((value ^ sign) & keep) | (zero & ~keep);
        w[E::SIZE == 4 ? e % 4 : e / 2 % 4] |= bits << (E::SIZE == 4 ? 0 : 16 * (e % 2));
    }
    return make_uint4(w[0], w[1], w[2], w[3]);
}

// Stores a piece that starts at element `at`: at once where it is whole and aligned, else element by element. `whole`: known
// to be both.
template <class E>
__device__ __forceinline__ void store_piece(void* out, uint64_t at, uint64_t n, bool aligned, uint4 piece,
                                            bool whole = false) {
    typename E::Scalar* to = static_cast<typename E::Scalar*>(out) + at;
    if (whole || (aligned && at + PER<E> <= n)) {
        __stcs(reinterpret_cast<uint4*>(to), piece);
        return;
    }
    const uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
    for (int e = 0; e < PER<E>; ++e) {
        if (at + e < n) {
            to[e] = static_cast<typename E::Scalar>(E::SIZE == 4 ? words[e % 4] : words[e / 2 % 4] >> (16 * (e % 2)));
        }
    }
}

__device__ __forceinline__ bool aligned_to(const void* p, uint32_t bytes) {
    return (reinterpret_cast<uintptr_t>(p) & (bytes - 1)) == 0;
}

// The pair of plane words of a group.
__device__ __forceinline__ uint2 load_pair(const void* words, uint64_t group) {
    const uint32_t* from = static_cast<const uint32_t*>(words) + 2 * group;
    if (aligned_to(words, 8)) {
        return __ldcs(reinterpret_cast<const uint2*>(from));
    }
    return make_uint2(from[0], from[1]);
}
