// Pack and convert: i8 trits, separate planes and 2-bit fields, from and to planes. Mirrors src/op/pack.rs,
// src/cpu/pack.rs and src/numerics/pack.rs.
//
// Launch: pack, unpack: one CTA of 128 threads for each 4096 trits; a lane holds 32. The others: one CTA of 128 threads
// for each 512 pairs of words.
// Every output is written, bits past n are zero. Determinism: cross-backend.
// Bytes an element: pack, unpack 5/4; the others 1/2.
#include "output.cuh"
#include "pack.cuh"

struct Convert {
    uint64_t pad;
};

// One tensor of trits, to or from planes.
struct TritsItem {
    uint8_t* trits;   // i8
    uint32_t* words;  // planes
    Report* report;
    uint64_t n;
    uint32_t begin;
    uint32_t pad;
};

// Interleaved planes and two separate ones; n = pairs.
struct PlanesItem {
    uint32_t* words;
    uint32_t* plus;
    uint32_t* minus;
    uint64_t n;
    uint32_t begin;
    uint32_t pad;
};

// Planes and 2-bit fields; n = pairs.
struct FieldsItem {
    uint32_t* words;
    uint32_t* fields;
    uint64_t n;
    uint32_t begin;
    uint32_t pad;
};

constexpr int PAIRS_PER_CTA = 512;
constexpr uint32_t ONES = 0x01010101u;

// Bit k of the result is the lowest bit of byte k.
__device__ __forceinline__ uint32_t bits_of_bytes(uint32_t w) { return ((w & ONES) * 0x10204080u) >> 28; }

// The lowest bit of byte k is bit k of the lowest four.
__device__ __forceinline__ uint32_t bytes_of_bits(uint32_t nibble) { return ((nibble & 15u) * 0x00204081u) & ONES; }

__device__ __forceinline__ void store_pair(void* words, uint64_t pair, uint32_t plus, uint32_t minus) {
    uint32_t* to = static_cast<uint32_t*>(words) + 2 * pair;
    if (aligned_to(words, 8)) {
        __stcs(reinterpret_cast<uint2*>(to), make_uint2(plus, minus));
    } else {
        to[0] = plus;
        to[1] = minus;
    }
}

__device__ __forceinline__ void pack_trits(const TritsItem& item) {
    const uint64_t own = cta_start(item) + 32 * threadIdx.x;
    const uint8_t* trits = item.trits + own;
    uint32_t w[8] = {};
    if (own + 32 <= item.n && aligned_to(item.trits, 16)) {
        const uint4 low = __ldcs(reinterpret_cast<const uint4*>(trits));
        const uint4 high = __ldcs(reinterpret_cast<const uint4*>(trits) + 1);
        w[0] = low.x, w[1] = low.y, w[2] = low.z, w[3] = low.w;
        w[4] = high.x, w[5] = high.y, w[6] = high.z, w[7] = high.w;
    } else {
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            if (own + e < item.n) {
                w[e / 4] |= static_cast<uint32_t>(trits[e]) << (8 * (e % 4));
            }
        }
    }
    uint32_t plus = 0, minus = 0, invalid = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const uint32_t is_plus = __vcmpeq4(w[i], ONES), is_minus = __vcmpeq4(w[i], 0xffffffffu);
        plus |= bits_of_bytes(is_plus) << (4 * i);
        minus |= bits_of_bytes(is_minus) << (4 * i);
        invalid |= bits_of_bytes(~(is_plus | is_minus | __vcmpeq4(w[i], 0))) << (4 * i);
    }
    if (__any_sync(ALL, invalid)) {
        report(item.report, __popc(invalid), invalid ? own + __ffs(invalid) - 1 : ~0ull, 0);
    }
    if (own < item.n) {
        store_pair(item.words, own >> 5, plus, minus);
    }
}

__device__ __forceinline__ void pack_untrits(const TritsItem& item) {
    const uint64_t own = cta_start(item) + 32 * threadIdx.x;
    uint2 pair = make_uint2(0, 0);
    if (own < item.n) {
        pair = load_pair(item.words, own >> 5);
    }
    const uint32_t within = own + 32 <= item.n ? ~0u : own < item.n ? (1u << (item.n - own)) - 1 : 0u;
    const uint32_t invalid = pair.x & pair.y & within;
    if (__any_sync(ALL, invalid)) {
        report(item.report, __popc(invalid), invalid ? own + __ffs(invalid) - 1 : ~0ull, 0);
    }
    const uint32_t plus = pair.x & ~pair.y, minus = pair.y & ~pair.x;
    uint32_t w[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        w[i] = bytes_of_bits(plus >> (4 * i)) | (bytes_of_bits(minus >> (4 * i)) * 0xffu);
    }
    uint8_t* trits = item.trits + own;
    if (own + 32 <= item.n && aligned_to(item.trits, 16)) {
        __stcs(reinterpret_cast<uint4*>(trits), make_uint4(w[0], w[1], w[2], w[3]));
        __stcs(reinterpret_cast<uint4*>(trits) + 1, make_uint4(w[4], w[5], w[6], w[7]));
    } else {
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            if (own + e < item.n) {
                trits[e] = static_cast<uint8_t>(w[e / 4] >> (8 * (e % 4)));
            }
        }
    }
}

struct Split {
    using Item = PlanesItem;
    __device__ static __forceinline__ void apply(const Item& item, uint64_t i) {
        const uint2 pair = load_pair(item.words, i);
        item.plus[i] = pair.x;
        item.minus[i] = pair.y;
    }
};

struct Join {
    using Item = PlanesItem;
    __device__ static __forceinline__ void apply(const Item& item, uint64_t i) {
        store_pair(item.words, i, item.plus[i], item.minus[i]);
    }
};

struct ToFields {
    using Item = FieldsItem;
    __device__ static __forceinline__ void apply(const Item& item, uint64_t i) {
        const uint2 pair = load_pair(item.words, i), fields = planes_to_fields(pair.x, pair.y);
        store_pair(item.fields, i, fields.x, fields.y);
    }
};

struct ToPlanes {
    using Item = FieldsItem;
    __device__ static __forceinline__ void apply(const Item& item, uint64_t i) {
        const uint2 planes = fields_to_planes(load_pair(item.fields, i));
        store_pair(item.words, i, planes.x, planes.y);
    }
};

template <class Op>
__device__ __forceinline__ void each_pair(const typename Op::Item& item) {
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * PAIRS_PER_CTA + threadIdx.x;
#pragma unroll
    for (int i = 0; i < PAIRS_PER_CTA / 128; ++i) {
        if (start + 128 * i < item.n) {
            Op::apply(item, start + 128 * i);
        }
    }
}

#define KERNEL(name, I, body, N)                                                                            \
    extern "C" __global__ void __launch_bounds__(128)                                                       \
        name##_##N(const __grid_constant__ Convert, const __grid_constant__ TABLE_##N<I> table) {           \
        body(item_of(table, blockIdx.x));                                                                   \
    }
#define KERNELS(name, I, body) KERNEL(name, I, body, one) KERNEL(name, I, body, many)
KERNELS(pack_trits, TritsItem, pack_trits)
KERNELS(pack_untrits, TritsItem, pack_untrits)
KERNELS(pack_split, PlanesItem, each_pair<Split>)
KERNELS(pack_join, PlanesItem, each_pair<Join>)
KERNELS(pack_to_fields, FieldsItem, each_pair<ToFields>)
KERNELS(pack_to_planes, FieldsItem, each_pair<ToPlanes>)
