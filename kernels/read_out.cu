// Read out: levels or counts become floats, (l s) factor. Mirrors src/op/read_out.rs and src/cpu/read_out.rs.
//
// Launch: one CTA of 128 threads for each 4096 elements of each item.
// Every element is written: as NaN where the guard counts non-finite elements, and what would become infinite as the largest
// finite number. Determinism: cross-backend. Bytes an element: output + bits / 8 + 2 / block.
#include "level.cuh"
#include "output.cuh"

struct ReadOut {
    uint32_t block_shift;  // log2 of the block
    uint32_t factor;       // f32 bits
    uint32_t scale_limit;  // f32 bits: under scales up to this nothing can become infinite
    uint32_t pad;
};

// One tensor of levels or counts to read out.
struct ReadOutItem {
    const uint32_t* levels;  // bits ceil(n / 32) words of planes (2 bits) or fields
    const uint16_t* scales;
    void* out;
    const Report* guard;     // or null
    uint64_t n;
    uint32_t begin;
    uint32_t pad;
};

struct ReadOutF32 {
    uint32_t factor;  // f32 bits
    uint32_t pad;
};

// One tensor of floats to read out.
struct ReadOutF32Item {
    const uint32_t* sum;  // f32 bits
    void* out;
    const Report* guard;  // or null
    uint64_t n;
    uint32_t begin;
    uint32_t pad;
};

__device__ __forceinline__ bool refused(const Report* guard) {
    return guard != nullptr && *reinterpret_cast<volatile const unsigned long long*>(&guard->non_finite) != 0;
}

// A piece of floats. SATURATE: any may be too large for an E.
template <class E, bool SATURATE>
__device__ __forceinline__ uint4 piece_of(const float (&v)[PER<E>], bool refuse) {
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (E::SIZE == 4) {
            w[i] = refuse ? E::NAN_BITS : __float_as_uint(v[i]);
        } else if (SATURATE) {
            const uint32_t low = from_f32_saturating<E>(__float_as_uint(v[2 * i % PER<E>]));
            const uint32_t high = from_f32_saturating<E>(__float_as_uint(v[(2 * i + 1) % PER<E>]));
            w[i] = refuse ? E::NAN_BITS * 0x10001u : low | high << 16;
        } else {
            w[i] = refuse ? E::NAN_BITS * 0x10001u : pair_of<E>(v[2 * i % PER<E>], v[(2 * i + 1) % PER<E>]);
        }
    }
    return make_uint4(w[0], w[1], w[2], w[3]);
}

__device__ __forceinline__ uint32_t scale_at(const ReadOutItem& item, uint64_t block) {
    return static_cast<uint32_t>(item.scales[block]) << 16;
}

// Planes: a lane loads the pair of its group and makes its two values, and pieces take what they need from the owners.
template <class E>
__device__ __forceinline__ void read_out_planes(const ReadOut& p, const ReadOutItem& item) {
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_TILE + warp_id() * TILE;
    const uint64_t own = start + 32 * lane_id();
    uint2 pair = make_uint2(0, 0);
    uint32_t scale = 0;
    if (own < item.n) {
        pair = load_pair(item.levels, own >> 5);
        scale = scale_at(item, own >> p.block_shift);
    }
    const float factor = __uint_as_float(p.factor);
    const uint32_t own_value = from_f32_saturating<E>(__float_as_uint(read_out(1, scale, factor)));
    uint32_t own_zero = from_f32_saturating<E>(__float_as_uint(read_out(0, scale, factor)));
    if (refused(item.guard)) {
        pair = make_uint2(0, 0);
        own_zero = E::NAN_BITS;
    }
    const bool aligned = aligned_to(item.out, 16), whole = aligned && start + TILE <= item.n;
#pragma unroll
    for (int i = 0; i < PIECES_PER_GROUP<E>; ++i) {
        const int piece = 32 * i + lane_id();
        const int owner = piece / PIECES_PER_GROUP<E>;
        const int bit = piece % PIECES_PER_GROUP<E> * PER<E>;
        const uint32_t plus = __shfl_sync(ALL, pair.x, owner) >> bit;
        const uint32_t minus = __shfl_sync(ALL, pair.y, owner) >> bit;
        const uint32_t value = __shfl_sync(ALL, own_value, owner), zero = __shfl_sync(ALL, own_zero, owner);
        store_piece<E>(item.out, start + piece * PER<E>, item.n, aligned, piece_of_trits<E>(plus, minus, value, zero), whole);
    }
}

// How a piece's levels lie: in WORDS words, or in a part of one.
template <class E, int BITS>
constexpr int PIECE_WORDS = PER<E> * BITS < 32 ? 1 : PER<E> * BITS / 32;

// The alignment that lets them be loaded in wide pieces.
template <class E, int BITS>
constexpr int PIECE_ALIGNMENT = PIECE_WORDS<E, BITS> < 4 ? 4 * PIECE_WORDS<E, BITS> : 16;

template <class E, int BITS>
__device__ __forceinline__ void load_piece(const ReadOutItem& item, uint64_t at, bool wide, uint32_t (&w)[PIECE_WORDS<E, BITS>]) {
    constexpr int WORDS = PIECE_WORDS<E, BITS>;
    const uint32_t* from = item.levels + at * BITS / 32;
    if (WORDS >= 4 && wide) {
#pragma unroll
        for (int j = 0; j < WORDS; j += 4) {
            const uint4 q = __ldcs(reinterpret_cast<const uint4*>(from + j));
            w[j] = q.x;
            w[(j + 1) % WORDS] = q.y;
            w[(j + 2) % WORDS] = q.z;
            w[(j + 3) % WORDS] = q.w;
        }
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

// CAREFUL: scales may be so large that something becomes infinite.
template <class E, int BITS, bool CAREFUL>
__device__ __forceinline__ uint4 fields_piece(const uint32_t (&words)[PIECE_WORDS<E, BITS>], uint64_t at, uint32_t scale, float factor,
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
        v[e] = CAREFUL ? read_out(level, scale, factor) : read_out_fast(level, scale, factor);
    }
    return piece_of<E, CAREFUL>(v, refuse);
}

// Fields: a lane loads the words of its pieces, of whole tiles all before the first is written.
template <class E, int BITS>
__device__ __forceinline__ void read_out_fields(const ReadOut& p, const ReadOutItem& item) {
    constexpr int PIECES = PIECES_PER_GROUP<E>;
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_TILE + warp_id() * TILE;
    const bool wide = aligned_to(item.levels, PIECE_ALIGNMENT<E, BITS>), aligned = aligned_to(item.out, 16);
    const float factor = __uint_as_float(p.factor);
    if (start + TILE <= item.n && wide && aligned) {
        uint32_t w[PIECES][PIECE_WORDS<E, BITS>];
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            load_piece<E, BITS>(item, start + (32 * i + lane_id()) * PER<E>, true, w[i]);
        }
        const uint32_t scale = scale_at(item, (start + 32 * lane_id()) >> p.block_shift);
        const bool refuse = refused(item.guard);
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            const int piece = 32 * i + lane_id();
            const uint64_t at = start + piece * PER<E>;
            const uint32_t s = __shfl_sync(ALL, scale, piece / PIECES);
            store_piece<E>(item.out, at, item.n, true, fields_piece<E, BITS, false>(w[i], at, s, factor, refuse), true);
        }
        // Asked only now, so that nothing waits for it: the rare tile is written a second time, every piece by the same lane.
        if (!__any_sync(ALL, scale > p.scale_limit)) {
            return;
        }
    }
    const bool refuse = refused(item.guard);
#pragma unroll 1
    for (int i = 0; i < PIECES; ++i) {
        const uint64_t at = start + (32 * i + lane_id()) * PER<E>;
        if (at < item.n) {
            uint32_t w[PIECE_WORDS<E, BITS>];
            load_piece<E, BITS>(item, at, wide, w);
            const uint32_t s = scale_at(item, at >> p.block_shift);
            store_piece<E>(item.out, at, item.n, aligned, fields_piece<E, BITS, true>(w, at, s, factor, refuse));
        }
    }
}

template <class E>
__device__ __forceinline__ void read_out_f32(const ReadOutF32& p, const ReadOutF32Item& item) {
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_TILE + warp_id() * TILE;
    const float factor = __uint_as_float(p.factor);
    const bool wide = aligned_to(item.sum, 16), aligned = aligned_to(item.out, 16), all = wide && aligned && start + TILE <= item.n;
    const bool refuse = refused(item.guard);
#pragma unroll
    for (int i = 0; i < PIECES_PER_GROUP<E>; ++i) {
        const uint64_t at = start + (32 * i + lane_id()) * PER<E>;
        float v[PER<E>];
#pragma unroll
        for (int e = 0; e < PER<E>; e += 4) {
            uint32_t w[4] = {0, 0, 0, 0};
            if (all) {
                const uint4 q = __ldcs(reinterpret_cast<const uint4*>(item.sum + at + e));
                w[0] = q.x, w[1] = q.y, w[2] = q.z, w[3] = q.w;
            } else {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    w[j] = at + e + j < item.n ? item.sum[at + e + j] : 0u;
                }
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                v[e + j] = saturate(__fmul_rn(__uint_as_float(w[j]), factor));
            }
        }
        store_piece<E>(item.out, at, item.n, aligned, piece_of<E, true>(v, refuse), all);
    }
}

#define KERNEL(bits, E, N, BODY)                                                                                   \
    extern "C" __global__ void __launch_bounds__(128) read_out_##bits##_##E##_##N(                                 \
        const __grid_constant__ ReadOut p, const __grid_constant__ TABLE_##N<ReadOutItem> table) {                 \
        BODY(p, item_of(table, blockIdx.x));                                                                       \
    }
#define PLANES(E) read_out_planes<ELEMENT_##E>
#define FIELDS(E, BITS) read_out_fields<ELEMENT_##E, BITS>
#define KERNELS(E, N)                                                                                              \
    KERNEL(2, E, N, PLANES(E))                                                                                     \
    KERNEL(4, E, N, (FIELDS(E, 4)))                                                                                \
    KERNEL(8, E, N, (FIELDS(E, 8)))                                                                                \
    KERNEL(16, E, N, (FIELDS(E, 16)))                                                                              \
    KERNEL(32, E, N, (FIELDS(E, 32)))                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                                              \
        read_out_f32_##E##_##N(const __grid_constant__ ReadOutF32 p,                                               \
                               const __grid_constant__ TABLE_##N<ReadOutF32Item> table) {                          \
        read_out_f32<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                                  \
    }
KERNELS(f32, one)
KERNELS(f32, many)
KERNELS(f16, one)
KERNELS(f16, many)
KERNELS(bf16, one)
KERNELS(bf16, many)
