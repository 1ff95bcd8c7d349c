// Read out: levels or counts become floats, (l s) factor. Mirrors src/op/read_out.rs and src/cpu/read_out.rs.
//
// Launch: one CTA of 128 threads for each 4096 elements of each item.
// Item: x = bits ceil(n / 32) words of planes (2 bits) or fields; a = n elements; b = one bf16 scale a block;
// report = the guard, or null. Every element is written: as NaN where the guard counts non-finite elements.
// Determinism: cross-backend. Bytes an element: output + bits / 8 + 2 / block.
#include "output.cuh"

struct ReadOut {
    uint32_t block_shift;  // log2 of the block
    uint32_t factor;       // f32 bits
};

__device__ __forceinline__ bool refused(const Item& item) {
    return item.report != nullptr && *reinterpret_cast<volatile const unsigned long long*>(&item.report->non_finite) != 0;
}

// A piece of floats.
template <class E>
__device__ __forceinline__ uint4 piece_of(const float (&v)[PER<E>], bool refuse) {
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (E::SIZE == 4) {
            w[i] = refuse ? E::NAN_BITS : __float_as_uint(v[i]);
        } else {
            w[i] = refuse ? E::NAN_BITS * 0x10001u : pair_of<E>(v[2 * i % PER<E>], v[(2 * i + 1) % PER<E>]);
        }
    }
    return make_uint4(w[0], w[1], w[2], w[3]);
}

__device__ __forceinline__ uint32_t scale_at(const Item& item, uint64_t block) {
    return static_cast<uint32_t>(static_cast<const uint16_t*>(item.b)[block]) << 16;
}

// Planes: a lane loads the pair of its group and makes its two values, and pieces take what they need from the owners.
template <class E>
__device__ __forceinline__ void read_out_planes(const ReadOut& p, const Item& item) {
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_TILE + warp_id() * TILE;
    const uint64_t own = start + 32 * lane_id();
    uint2 pair = make_uint2(0, 0);
    uint32_t scale = 0;
    if (own < item.n) {
        pair = load_pair(item.x, own >> 5);
        scale = scale_at(item, own >> p.block_shift);
    }
    const float s = __uint_as_float(scale), factor = __uint_as_float(p.factor);
    const uint32_t own_value = E::from_f32(__float_as_uint(__fmul_rn(s, factor)));
    uint32_t own_zero = E::from_f32(__float_as_uint(__fmul_rn(__fmul_rn(0.0f, s), factor)));
    if (refused(item)) {
        pair = make_uint2(0, 0);
        own_zero = E::NAN_BITS;
    }
    const bool aligned = aligned_to(item.a, 16), whole = aligned && start + TILE <= item.n;
#pragma unroll
    for (int i = 0; i < PIECES_PER_GROUP<E>; ++i) {
        const int piece = 32 * i + lane_id();
        const int owner = piece / PIECES_PER_GROUP<E>;
        const int bit = piece % PIECES_PER_GROUP<E> * PER<E>;
        const uint32_t plus = __shfl_sync(ALL, pair.x, owner) >> bit;
        const uint32_t minus = __shfl_sync(ALL, pair.y, owner) >> bit;
        const uint32_t value = __shfl_sync(ALL, own_value, owner), zero = __shfl_sync(ALL, own_zero, owner);
        store_piece<E>(item.a, start + piece * PER<E>, item.n, aligned, piece_of_trits<E>(plus, minus, value, zero), whole);
    }
}

// How a piece's levels lie: in WORDS words, or in a part of one.
template <class E, int BITS>
constexpr int PIECE_WORDS = PER<E> * BITS < 32 ? 1 : PER<E> * BITS / 32;

template <class E, int BITS>
__device__ __forceinline__ void load_piece(const Item& item, uint64_t at, bool wide, uint32_t (&w)[PIECE_WORDS<E, BITS>]) {
    constexpr int WORDS = PIECE_WORDS<E, BITS>;
    const uint32_t* from = static_cast<const uint32_t*>(item.x) + at * BITS / 32;
    if (WORDS == 4 && wide) {
        const uint4 q = __ldcs(reinterpret_cast<const uint4*>(from));
        w[0] = q.x;
        w[1 % WORDS] = q.y;
        w[2 % WORDS] = q.z;
        w[3 % WORDS] = q.w;
    } else if (WORDS == 2 && wide) {
        const uint2 q = __ldcs(reinterpret_cast<const uint2*>(from));
        w[0] = q.x;
        w[1 % WORDS] = q.y;
    } else {
#pragma unroll
        for (int j = 0; j < WORDS; ++j) {
            w[j] = __ldcs(from + j);
        }
    }
}

template <class E, int BITS>
__device__ __forceinline__ uint4 fields_piece(const uint32_t (&words)[PIECE_WORDS<E, BITS>], uint64_t at, float s, float factor,
                                              bool refuse) {
    constexpr int IN_WORD = 32 / BITS;
    float v[PER<E>];
#pragma unroll
    for (int e = 0; e < PER<E>; ++e) {
        uint32_t w = words[e / IN_WORD % PIECE_WORDS<E, BITS>];
        if (PER<E> * BITS < 32) {
            w >>= at * BITS % 32;
        }
        const int32_t level = static_cast<int32_t>(w << (32 - BITS - BITS * (e % IN_WORD))) >> (32 - BITS);
        v[e] = __fmul_rn(__fmul_rn(static_cast<float>(level), s), factor);
    }
    return piece_of<E>(v, refuse);
}

// Fields: a lane loads the words of its pieces, of whole tiles all before the first is written.
template <class E, int BITS>
__device__ __forceinline__ void read_out_fields(const ReadOut& p, const Item& item) {
    constexpr int PIECES = PIECES_PER_GROUP<E>;
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_TILE + warp_id() * TILE;
    const bool wide = aligned_to(item.x, 4 * PIECE_WORDS<E, BITS>), aligned = aligned_to(item.a, 16);
    const float factor = __uint_as_float(p.factor);
    if (start + TILE <= item.n && wide && aligned) {
        uint32_t w[PIECES][PIECE_WORDS<E, BITS>];
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            load_piece<E, BITS>(item, start + (32 * i + lane_id()) * PER<E>, true, w[i]);
        }
        const uint32_t scale = scale_at(item, (start + 32 * lane_id()) >> p.block_shift);
        const bool refuse = refused(item);
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            const int piece = 32 * i + lane_id();
            const uint64_t at = start + piece * PER<E>;
            const float s = __uint_as_float(__shfl_sync(ALL, scale, piece / PIECES));
            store_piece<E>(item.a, at, item.n, true, fields_piece<E, BITS>(w[i], at, s, factor, refuse), true);
        }
        return;
    }
    const bool refuse = refused(item);
#pragma unroll 1
    for (int i = 0; i < PIECES; ++i) {
        const uint64_t at = start + (32 * i + lane_id()) * PER<E>;
        if (at < item.n) {
            uint32_t w[PIECE_WORDS<E, BITS>];
            load_piece<E, BITS>(item, at, wide, w);
            const float s = __uint_as_float(scale_at(item, at >> p.block_shift));
            store_piece<E>(item.a, at, item.n, aligned, fields_piece<E, BITS>(w, at, s, factor, refuse));
        }
    }
}

#define KERNEL(bits, type, count, N, BODY)                                                                         \
    extern "C" __global__ void __launch_bounds__(128) read_out_##bits##_##type##_##count(                          \
        const __grid_constant__ ReadOut p, const __grid_constant__ Table<N> table) {                               \
        BODY(p, item_of(table, blockIdx.x));                                                                       \
    }
#define PLANES(E) read_out_planes<E>
#define FIELDS(E, BITS) read_out_fields<E, BITS>
#define KERNELS(type, E, count, N)                    \
    KERNEL(2, type, count, N, PLANES(E))              \
    KERNEL(4, type, count, N, (FIELDS(E, 4)))         \
    KERNEL(8, type, count, N, (FIELDS(E, 8)))         \
    KERNEL(16, type, count, N, (FIELDS(E, 16)))
KERNELS(f32, F32, one, 1)
KERNELS(f32, F32, many, MANY)
KERNELS(f16, F16, one, 1)
KERNELS(f16, F16, many, MANY)
KERNELS(bf16, Bf16, one, 1)
KERNELS(bf16, Bf16, many, MANY)
