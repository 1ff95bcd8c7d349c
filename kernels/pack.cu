// Pack and convert: i8 trits, separate planes and 2-bit fields, from and to planes. Mirrors src/op/pack.rs,
// src/cpu/pack.rs and src/numerics/pack.rs.
//
// Launch: pack, unpack: one CTA of 128 threads for each 4096 trits; a lane holds 32. The others: one CTA of 128 threads
// for each 512 pairs of words. One item.
// Item: pack: x = n trits (i8), a = 2 ceil(n / 32) words; unpack: x = words, a = n trits; split: x = words, a = plus,
// b = minus, n = pairs; join: x = plus, b = minus, a = words; fields and planes: x = from, a = to.
// Every output is written, bits past n are zero. Determinism: cross-backend.
// Bytes an element: pack, unpack 5/4; the others 1/2.
#include "output.cuh"

struct Convert {
    uint64_t pad;
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

extern "C" __global__ void __launch_bounds__(128)
    pack_trits_one(const __grid_constant__ Convert, const __grid_constant__ Table<1> table) {
    const Item& item = table.items[0];
    const uint64_t own = static_cast<uint64_t>(blockIdx.x) * CTA_TILE + 32 * threadIdx.x;
    const uint8_t* trits = static_cast<const uint8_t*>(item.x) + own;
    uint32_t w[8] = {};
    if (own + 32 <= item.n && aligned_to(item.x, 16)) {
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
        store_pair(item.a, own >> 5, plus, minus);
    }
}

extern "C" __global__ void __launch_bounds__(128)
    pack_untrits_one(const __grid_constant__ Convert, const __grid_constant__ Table<1> table) {
    const Item& item = table.items[0];
    const uint64_t own = static_cast<uint64_t>(blockIdx.x) * CTA_TILE + 32 * threadIdx.x;
    uint2 pair = make_uint2(0, 0);
    if (own < item.n) {
        pair = load_pair(item.x, own >> 5);
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
    uint8_t* trits = static_cast<uint8_t*>(item.a) + own;
    if (own + 32 <= item.n && aligned_to(item.a, 16)) {
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

// Bit i of 16 to bit 2 i.
__device__ __forceinline__ uint32_t spread(uint32_t x) {
    x = (x | (x << 8)) & 0x00ff00ffu;
    x = (x | (x << 4)) & 0x0f0f0f0fu;
    x = (x | (x << 2)) & 0x33333333u;
    return (x | (x << 1)) & 0x55555555u;
}

// Bit 2 i to bit i; odd bits are dropped.
__device__ __forceinline__ uint32_t gather(uint32_t x) {
    x &= 0x55555555u;
    x = (x | (x >> 1)) & 0x33333333u;
    x = (x | (x >> 2)) & 0x0f0f0f0fu;
    x = (x | (x >> 4)) & 0x00ff00ffu;
    return (x | (x >> 8)) & 0xffffu;
}

struct Split {
    __device__ static __forceinline__ void apply(const Item& item, uint64_t i) {
        const uint2 pair = load_pair(item.x, i);
        static_cast<uint32_t*>(item.a)[i] = pair.x;
        static_cast<uint32_t*>(item.b)[i] = pair.y;
    }
};

struct Join {
    __device__ static __forceinline__ void apply(const Item& item, uint64_t i) {
        store_pair(item.a, i, static_cast<const uint32_t*>(item.x)[i], static_cast<const uint32_t*>(item.b)[i]);
    }
};

struct ToFields {
    __device__ static __forceinline__ void apply(const Item& item, uint64_t i) {
        const uint2 pair = load_pair(item.x, i);
        store_pair(item.a, i, spread(pair.x & 0xffffu) | (spread(pair.y & 0xffffu) << 1),
                   spread(pair.x >> 16) | (spread(pair.y >> 16) << 1));
    }
};

struct ToPlanes {
    __device__ static __forceinline__ void apply(const Item& item, uint64_t i) {
        const uint2 fields = load_pair(item.x, i);
        store_pair(item.a, i, gather(fields.x) | (gather(fields.y) << 16),
                   gather(fields.x >> 1) | (gather(fields.y >> 1) << 16));
    }
};

template <class Op>
__device__ __forceinline__ void each_pair(const Item& item) {
    const uint64_t start = static_cast<uint64_t>(blockIdx.x) * PAIRS_PER_CTA + threadIdx.x;
#pragma unroll
    for (int i = 0; i < PAIRS_PER_CTA / 128; ++i) {
        if (start + 128 * i < item.n) {
            Op::apply(item, start + 128 * i);
        }
    }
}

#define KERNEL(name, Op)                                                                                    \
    extern "C" __global__ void __launch_bounds__(128)                                                       \
        name(const __grid_constant__ Convert, const __grid_constant__ Table<1> table) {                     \
        each_pair<Op>(table.items[0]);                                                                      \
    }
KERNEL(pack_split_one, Split)
KERNEL(pack_join_one, Join)
KERNEL(pack_to_fields_one, ToFields)
KERNEL(pack_to_planes_one, ToPlanes)
#undef KERNEL
