// Update: weights follow their gradients by SGD or AdamW, straight out of levels and scales. Mirrors src/op/update.rs,
// src/cpu/update.rs and src/numerics/update.rs.
//
// Launch: one CTA of 512 threads for each 4096 elements of each item; a lane takes 4 elements at a time.
// Item: x = bits ceil(n / 32) words of planes (2 bits) or fields, or n floats where b is null; b = one bf16 scale a
// block; a = n weights, read and written; c, report = n floats of state each (momentum; first and second moment), null
// where there is none; first = index of element 0. Nothing is written where any guard counts non-finite elements.
// Determinism: equal to the CPU, every operation being one rounded f32 operation in a stated order.
// Bytes an element: bits / 8 + 2 / block + twice the weight and its state.
#include "draw.cuh"
#include "output.cuh"

constexpr int THREADS = 512;  // seven streams of memory: fewer and larger CTAs keep each of them closer together

struct Update {
    Draw draw;
    const Report* guards;
    uint64_t guard_count;
    float factor;
    uint32_t bits;
    uint32_t block_shift;
    uint32_t nesterov;
    float terms[10];
};

// Whether the step is to be skipped: the same for all threads of the CTA.
__device__ __forceinline__ bool skipped(const Update& p) {
    bool found = false;
    for (uint64_t i = threadIdx.x; i < p.guard_count; i += THREADS) {
        found |= *reinterpret_cast<volatile const unsigned long long*>(&p.guards[i].non_finite) != 0;
    }
    return __syncthreads_or(found);
}

// Four floats from element `at` on; zeros past n.
__device__ __forceinline__ void load4(const void* from, uint64_t at, uint64_t n, float (&v)[4]) {
    const float* src = static_cast<const float*>(from) + at;
    if (aligned_to(from, 16) && at + 4 <= n) {
        const float4 q = *reinterpret_cast<const float4*>(src);
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        v[e] = at + e < n ? src[e] : 0.0f;
    }
}

__device__ __forceinline__ void store4(void* to, uint64_t at, uint64_t n, const float (&v)[4]) {
    float* dst = static_cast<float*>(to) + at;
    if (aligned_to(to, 16) && at + 4 <= n) {
        *reinterpret_cast<float4*>(dst) = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        if (at + e < n) {
            dst[e] = v[e];
        }
    }
}

__device__ __forceinline__ void load4_bf16(const void* from, uint64_t at, uint64_t n, float (&v)[4]) {
    const uint16_t* src = static_cast<const uint16_t*>(from) + at;
    uint2 q = make_uint2(0, 0);
    if (aligned_to(from, 8) && at + 4 <= n) {
        q = *reinterpret_cast<const uint2*>(src);
    } else {
        uint32_t h[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            h[e] = at + e < n ? src[e] : 0;
        }
        q = make_uint2(h[0] | (h[1] << 16), h[2] | (h[3] << 16));
    }
    v[0] = __uint_as_float(q.x << 16);
    v[1] = __uint_as_float(q.x & 0xffff0000u);
    v[2] = __uint_as_float(q.y << 16);
    v[3] = __uint_as_float(q.y & 0xffff0000u);
}

// f32 bits rounded stochastically to bf16 by the upper 16 bits of a draw.
__device__ __forceinline__ uint32_t to_bf16(uint32_t bits, uint32_t upper) {
    if ((bits & 0x7f800000u) == 0x7f800000u) {
        return (bits >> 16) | (bits & 0x007fffffu ? 0x40u : 0u);
    }
    return (bits >> 16) + (upper < (bits & 0xffffu) ? 1u : 0u);
}

// Stores four weights, rounded by the draws of elements e0 to e0 + 3 of their group, e0 a multiple of 4.
//
// The eight halves of a Philox call form a ring; element e = 8 q + j takes half j, for q > 0 XOR half j + q.
__device__ __forceinline__ void store4_bf16(void* to, uint64_t at, uint64_t n, const float (&v)[4], uint4 random, uint32_t e0) {
    const uint64_t low = random.x | (static_cast<uint64_t>(random.y) << 32);
    const uint64_t high = random.z | (static_cast<uint64_t>(random.w) << 32);
    const uint32_t q = e0 / 8, j = e0 % 8, from = (j + q) % 8, turn = 16 * (from % 4);
    const uint64_t a = from < 4 ? low : high, b = from < 4 ? high : low;
    const uint64_t other = turn == 0 ? a : (a >> turn) | (b << (64 - turn));
    const uint64_t halves = (j == 0 ? low : high) ^ (q == 0 ? 0 : other);
    const uint32_t shared = shared_bits(random) >> 7;
    uint32_t w[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        const uint32_t x = static_cast<uint32_t>(halves >> (16 * e)) & 0x7fffu;
        w[e] = to_bf16(__float_as_uint(v[e]), x << 1 | shared);
    }
    uint16_t* dst = static_cast<uint16_t*>(to) + at;
    if (aligned_to(to, 8) && at + 4 <= n) {
        *reinterpret_cast<uint2*>(dst) = make_uint2(w[0] | (w[1] << 16), w[2] | (w[3] << 16));
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        if (at + e < n) {
            dst[e] = static_cast<uint16_t>(w[e]);
        }
    }
}

// The gradient of four elements: (l s) factor, or x factor.
__device__ __forceinline__ void gradient4(const Update& p, const Item& item, uint64_t at, float (&g)[4]) {
    if (item.b == nullptr) {
        load4(item.x, at, item.n, g);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            g[e] = __fmul_rn(g[e], p.factor);
        }
        return;
    }
    const uint32_t* words = static_cast<const uint32_t*>(item.x);
    const float s = __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(item.b)[at >> p.block_shift]) << 16);
    int32_t level[4];
    if (p.bits == 2) {
        const uint2 pair = load_pair(item.x, at >> 5);
        const uint32_t plus = pair.x >> (at % 32), minus = pair.y >> (at % 32);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            level[e] = static_cast<int32_t>((plus >> e) & 1u) - static_cast<int32_t>((minus >> e) & 1u);
        }
    } else if (p.bits == 16) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            level[e] = static_cast<int32_t>(words[at / 2 + e / 2] << (e % 2 ? 0 : 16)) >> 16;
        }
    } else {
        const uint32_t word = words[at * p.bits / 32] >> (at * p.bits % 32);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            level[e] = static_cast<int32_t>(word << (32 - p.bits - p.bits * e)) >> (32 - p.bits);
        }
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        g[e] = __fmul_rn(__fmul_rn(static_cast<float>(level[e]), s), p.factor);
    }
}

// Terms: learning rate, momentum, weight decay.
struct Sgd {
    __device__ static __forceinline__ bool first_state(const Update& p) { return p.terms[1] != 0.0f; }
    static constexpr bool SECOND_STATE = false;
    __device__ static __forceinline__ float apply(const Update& p, float g, float w, float& b, float&) {
        const float rate = p.terms[0], momentum = p.terms[1], decay = p.terms[2];
        const float d = decay == 0.0f ? g : __fadd_rn(g, __fmul_rn(decay, w));
        if (momentum == 0.0f) {
            return __fsub_rn(w, __fmul_rn(rate, d));
        }
        b = __fadd_rn(__fmul_rn(momentum, b), d);
        const float n = p.nesterov ? __fadd_rn(d, __fmul_rn(momentum, b)) : b;
        return __fsub_rn(w, __fmul_rn(rate, n));
    }
};

// Terms: learning rate, beta 1, 1 - beta 1, beta 2, 1 - beta 2, both corrections, eps, keep.
struct AdamW {
    __device__ static __forceinline__ bool first_state(const Update&) { return true; }
    static constexpr bool SECOND_STATE = true;
    __device__ static __forceinline__ float apply(const Update& p, float g, float w, float& m, float& v) {
        m = __fadd_rn(__fmul_rn(m, p.terms[1]), __fmul_rn(g, p.terms[2]));
        v = __fadd_rn(__fmul_rn(v, p.terms[3]), __fmul_rn(__fmul_rn(g, g), p.terms[4]));
        const float root = __fadd_rn(__fsqrt_rn(__fmul_rn(v, p.terms[6])), p.terms[7]);
        const float adjusted = __fdiv_rn(__fmul_rn(m, p.terms[5]), root);
        return __fsub_rn(__fmul_rn(w, p.terms[8]), __fmul_rn(adjusted, p.terms[0]));
    }
};

// Four elements from `at` on.
template <class Rule, class E>
__device__ __forceinline__ void update4(const Update& p, const Item& item, uint64_t at) {
    float g[4], w[4], first[4] = {}, second[4] = {};
    gradient4(p, item, at, g);
    if (E::SIZE == 4) {
        load4(item.a, at, item.n, w);
    } else {
        load4_bf16(item.a, at, item.n, w);
    }
    if (Rule::first_state(p)) {
        load4(item.c, at, item.n, first);
    }
    if (Rule::SECOND_STATE) {
        load4(item.report, at, item.n, second);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        w[e] = Rule::apply(p, g[e], w[e], first[e], second[e]);
    }
    if (Rule::first_state(p)) {
        store4(item.c, at, item.n, first);
    }
    if (Rule::SECOND_STATE) {
        store4(item.report, at, item.n, second);
    }
    if (E::SIZE == 4) {
        store4(item.a, at, item.n, w);
    } else {
        const uint4 random = call<PHILOX_ROUNDS>(p.draw, item.tensor, static_cast<uint32_t>((item.first + at) >> 5));
        store4_bf16(item.a, at, item.n, w, random, at % 32);
    }
}

template <class Rule, class E>
__device__ __forceinline__ void update(const Update& p, const Item& item) {
    if (skipped(p)) {
        return;
    }
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_TILE + 4 * threadIdx.x;
#pragma unroll
    for (uint64_t at = start; at < start + CTA_TILE; at += 4 * THREADS) {
        if (at < item.n) {
            update4<Rule, E>(p, item, at);
        }
    }
}

#define KERNEL(name, Rule, type, E, count, N)                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) update_##name##_##type##_##count(                        \
        const __grid_constant__ Update p, const __grid_constant__ Table<N> table) {                            \
        update<Rule, E>(p, item_of(table, blockIdx.x));                                                        \
    }
KERNEL(sgd, Sgd, f32, F32, one, 1)
KERNEL(sgd, Sgd, f32, F32, many, MANY)
KERNEL(sgd, Sgd, bf16, Bf16, one, 1)
KERNEL(sgd, Sgd, bf16, Bf16, many, MANY)
KERNEL(adamw, AdamW, f32, F32, one, 1)
KERNEL(adamw, AdamW, f32, F32, many, MANY)
KERNEL(adamw, AdamW, bf16, Bf16, one, 1)
KERNEL(adamw, AdamW, bf16, Bf16, many, MANY)
#undef KERNEL
