// Read out: levels or counts become floats, (l s) factor. Mirrors src/op/read_out.rs and src/cpu/read_out.rs.
//
// Launch: one CTA of 128 threads for each 4096 elements of each item; a lane writes 16 bytes at a time.
// Item: x = BITS ceil(n / 32) words of levels (planes for 2 bits); b = bf16 scales, one a block; a = n elements, written;
// report = the guard or null: where it counts non-finite elements, the whole output is NaN.
// Determinism: cross-backend. Bytes an element: output + BITS / 8 + 2 / block.
#include "float.cuh"
#include "store.cuh"

struct ReadOut {
    uint32_t factor;       // f32 bits
    uint32_t block_shift;  // log2 of the block
};

// The words that hold a piece's levels.
template <class E, int BITS>
constexpr int LEVEL_WORDS = BITS == 2 ? 2 : (PER_PIECE<E> * BITS + 31) / 32;

template <class E, int BITS, bool FAST>
__device__ __forceinline__ void load_levels(const void* from, uint64_t i, uint32_t (&w)[LEVEL_WORDS<E, BITS>]) {
    constexpr int COUNT = LEVEL_WORDS<E, BITS>;
    const uint32_t* const words = static_cast<const uint32_t*>(from);
    if constexpr (BITS == 2) {
        const uint32_t* src = words + (i >> 5 << 1);
        if (FAST) {
            const uint2 pair = __ldg(reinterpret_cast<const uint2*>(src));
            w[0] = pair.x & ~pair.y;
            w[1] = pair.y & ~pair.x;
        } else {
            w[0] = src[0] & ~src[1];
            w[1] = src[1] & ~src[0];
        }
    } else if constexpr (PER_PIECE<E> * BITS == 16) {
        w[0] = __ldg(reinterpret_cast<const uint16_t*>(from) + i / PER_PIECE<E>);
    } else if constexpr (FAST && COUNT == 4) {
        const uint4 v = __ldg(reinterpret_cast<const uint4*>(words) + i / PER_PIECE<E>);
        w[0] = v.x;
        w[1] = v.y;
        w[2] = v.z;
        w[3] = v.w;
    } else if constexpr (FAST && COUNT == 2) {
        const uint2 v = __ldg(reinterpret_cast<const uint2*>(words) + i / PER_PIECE<E>);
        w[0] = v.x;
        w[1] = v.y;
    } else {
#pragma unroll
        for (int j = 0; j < COUNT; ++j) {
            w[j] = __ldg(words + i / PER_PIECE<E> * COUNT + j);
        }
    }
}

// Level j of a piece as a float.
template <class E, int BITS>
__device__ __forceinline__ float level(const uint32_t (&w)[LEVEL_WORDS<E, BITS>], int j, int bit) {
    if constexpr (BITS == 2) {
        return static_cast<float>(static_cast<int>(w[0] >> (bit + j) & 1u) - static_cast<int>(w[1] >> (bit + j) & 1u));
    } else {
        // The field with its top bit flipped, l + 2^(BITS - 1), becomes the mantissa of a float from 2^23 up.
        constexpr int PER = 32 / BITS;
        constexpr uint32_t TOP = 1u << (BITS - 1);
        const uint32_t field = (w[j / PER] >> (BITS * (j % PER)) & (2 * TOP - 1)) ^ (TOP | 0x4b000000u);
        return __fsub_rn(__uint_as_float(field), 0x1p23f + TOP);
    }
}

template <class E, int BITS, bool FAST>
__device__ __forceinline__ void read_out_tile(const ReadOut& p, const Item& item) {
    constexpr int PER = PER_PIECE<E>;
    constexpr int ROUNDS = CTA_TILE / (128 * PER);
    const uint64_t start = cta_start(item);
    const bool spoiled = item.report && item.report->non_finite != 0;
    const float factor = __uint_as_float(p.factor);
    uint32_t w[ROUNDS][LEVEL_WORDS<E, BITS>];
    uint32_t s[ROUNDS];
#pragma unroll
    for (int r = 0; r < ROUNDS; ++r) {
        const uint64_t i = start + static_cast<uint32_t>(r * 128 + threadIdx.x) * PER;
        if (FAST || i < item.n) {
            load_levels<E, BITS, FAST>(item.x, i, w[r]);
            s[r] = __ldg(static_cast<const uint16_t*>(item.b) + (i >> p.block_shift));
        }
    }
#pragma unroll
    for (int r = 0; r < ROUNDS; ++r) {
        const uint64_t i = start + static_cast<uint32_t>(r * 128 + threadIdx.x) * PER;
        if (FAST || i < item.n) {
            const float scale = __uint_as_float(s[r] << 16);
            uint32_t raw[PER];
#pragma unroll
            for (int j = 0; j < PER; ++j) {
                const float v = __fmul_rn(__fmul_rn(level<E, BITS>(w[r], j, i & 31), scale), factor);
                raw[j] = spoiled ? E::NAN_BITS : E::from_f32(__float_as_uint(v));
            }
            store_piece<E, FAST>(item.a, i, item.n, raw);
        }
    }
}

template <class E, int BITS>
__device__ __forceinline__ void read_out(const ReadOut& p, const Item& item) {
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(item.x) | reinterpret_cast<uintptr_t>(item.a);
    if (whole(cta_start(item), item.n, addresses, 16)) {
        read_out_tile<E, BITS, true>(p, item);
    } else {
        read_out_tile<E, BITS, false>(p, item);
    }
}

#define KERNEL(BITS, E, N)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        read_out_##BITS##_##E##_##N(const __grid_constant__ ReadOut p, const __grid_constant__ Table<TABLE_##N> table) { \
        read_out<ELEMENT_##E, BITS>(p, item_of(table, blockIdx.x));                                              \
    }
#define EVERY_WIDTH(E, N) KERNEL(2, E, N) KERNEL(4, E, N) KERNEL(8, E, N) KERNEL(16, E, N)
EVERY_WIDTH(f32, one)
EVERY_WIDTH(f32, many)
EVERY_WIDTH(f16, one)
EVERY_WIDTH(f16, many)
EVERY_WIDTH(bf16, one)
EVERY_WIDTH(bf16, many)
