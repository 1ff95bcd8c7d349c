// Update: weights follow their gradients by SGD or AdamW, straight out of levels and scales. Mirrors src/op/update.rs,
// src/cpu/update.rs and src/numerics/update.rs.
//
// Launch: one CTA of 128 threads for each 1024 elements of each item; a lane takes 4 elements at a time.
// Item: x = bits ceil(n / 32) words of planes (2 bits) or fields, or n floats where b is null; b = one bf16 scale a
// block; a = n weights, read and written; c, report = n floats of state each (momentum; first and second moment), null
// where there is none; first = index of element 0. Nothing is written where any guard counts non-finite elements.
// Determinism: equal to the CPU, every operation being one rounded f32 operation in a stated order.
// Bytes an element: bits / 8 + 2 / block + twice the weight and its state.
#include "draw.cuh"
#include "output.cuh"

constexpr uint32_t THREADS = 128;
constexpr uint32_t ROUND = 4 * THREADS;  // elements that the CTA takes at a time,
constexpr uint32_t ROUNDS = 2;           // and how often: all loads come first
constexpr uint32_t CTA_ELEMENTS = ROUND * ROUNDS;

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
#pragma unroll 1
    for (uint64_t i = threadIdx.x; i < p.guard_count; i += THREADS) {
        found |= *reinterpret_cast<volatile const unsigned long long*>(&p.guards[i].non_finite) != 0;
    }
    return __syncthreads_or(found);
}

// Four elements from `at` on, zeros past n. `whole`: known to exist and to be aligned.
__device__ __forceinline__ void load4(const void* from, uint64_t at, uint64_t n, bool whole, float (&v)[4]) {
    const float* src = static_cast<const float*>(from) + at;
    if (whole || (aligned_to(from, 16) && at + 4 <= n)) {
        const float4 q = *reinterpret_cast<const float4*>(src);
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        v[e] = at + e < n ? src[e] : 0.0f;
    }
}

// Stores say that they are one: for a plain one the compiler would take four.
__device__ __forceinline__ void store4(void* to, uint64_t at, uint64_t n, bool whole, const float (&v)[4]) {
    float* dst = static_cast<float*>(to) + at;
    if (whole || (aligned_to(to, 16) && at + 4 <= n)) {
        __stwb(reinterpret_cast<float4*>(dst), make_float4(v[0], v[1], v[2], v[3]));
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        if (at + e < n) {
            dst[e] = v[e];
        }
    }
}

// The same for bf16, as two words.
__device__ __forceinline__ uint2 load4_bf16(const void* from, uint64_t at, uint64_t n, bool whole) {
    const uint16_t* src = static_cast<const uint16_t*>(from) + at;
    if (whole || (aligned_to(from, 8) && at + 4 <= n)) {
        return *reinterpret_cast<const uint2*>(src);
    }
    uint32_t h[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        h[e] = at + e < n ? src[e] : 0;
    }
    return make_uint2(h[0] | (h[1] << 16), h[2] | (h[3] << 16));
}

__device__ __forceinline__ void store4_bf16(void* to, uint64_t at, uint64_t n, bool whole, uint2 w) {
    uint16_t* dst = static_cast<uint16_t*>(to) + at;
    if (whole || (aligned_to(to, 8) && at + 4 <= n)) {
        __stwb(reinterpret_cast<uint2*>(dst), w);
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        if (at + e < n) {
            dst[e] = static_cast<uint16_t>((e < 2 ? w.x : w.y) >> (16 * (e % 2)));
        }
    }
}

// What rounds the weights of a CTA: the upper 16 bits of each element's draw, inverted, two to a word. Made once a group:
// eight lanes share one, and a Philox call in each of them was a third of the instructions.
struct Rounders {
    uint4 piece[CTA_ELEMENTS / 32][4];

    __device__ __forceinline__ void fill(const Update& p, const Item& item, uint64_t start) {
        const uint32_t group = threadIdx.x;
        if (group >= CTA_ELEMENTS / 32) {
            return;
        }
        const uint32_t first = static_cast<uint32_t>((item.first + start) >> 5);
        const Uppers u = expand_uppers(call<PHILOX_ROUNDS>(p.draw, item.tensor, first + group));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const auto inverted = [&](int word) { return ~(u.one(word) ^ u.other(word)); };
            piece[group][i] = make_uint4(inverted(4 * i), inverted(4 * i + 1), inverted(4 * i + 2), inverted(4 * i + 3));
        }
    }

    // Those of elements e to e + 3 of the CTA, e a multiple of 4.
    __device__ __forceinline__ uint2 of(uint32_t e) const {
        return reinterpret_cast<const uint2*>(piece)[e / 4];
    }
};

// f32 bits that are infinite or NaN as bf16.
__device__ __forceinline__ uint32_t odd_to_bf16(uint32_t bits) { return (bits >> 16) | (bits & 0x007fffffu ? 0x40u : 0u); }

// Two weights rounded stochastically: up, as the 16 bits that go are above the draw's, where the sum with its inverse carries.
__device__ __forceinline__ uint32_t pair_to_bf16(float low, float high, uint32_t rounders) {
    const uint32_t a = __float_as_uint(low), b = __float_as_uint(high);
    return __byte_perm(a + (rounders & 0xffffu), b + (rounders >> 16), 0x7632);
}

__device__ __forceinline__ uint2 to_bf16(const float (&v)[4], uint2 rounders) {
    const float zero = __fmaf_rn(v[0], 0.0f, __fmaf_rn(v[1], 0.0f, __fmaf_rn(v[2], 0.0f, __fmul_rn(v[3], 0.0f))));
    uint2 w = make_uint2(pair_to_bf16(v[0], v[1], rounders.x), pair_to_bf16(v[2], v[3], rounders.y));
    if (zero != 0.0f) {  // NaN: one of them is infinite or NaN
        uint32_t h[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const uint32_t bits = __float_as_uint(v[e]), rounded = (e < 2 ? w.x : w.y) >> (16 * (e % 2)) & 0xffffu;
            h[e] = (bits & 0x7f800000u) == 0x7f800000u ? odd_to_bf16(bits) : rounded;
        }
        w = make_uint2(h[0] | (h[1] << 16), h[2] | (h[3] << 16));
    }
    return w;
}

// Terms: learning rate, momentum, weight decay.
struct Sgd {
    __device__ static __forceinline__ bool first_state(const Update& p) { return p.terms[1] != 0.0f; }
    static constexpr bool SECOND_STATE = false;
    __device__ static __forceinline__ void apply(const Update& p, const float (&g)[4], float (&w)[4], float (&b)[4], float (&)[4]) {
        const float rate = p.terms[0], momentum = p.terms[1], decay = p.terms[2];
        float d[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            d[e] = decay == 0.0f ? g[e] : __fadd_rn(g[e], __fmul_rn(decay, w[e]));
        }
        if (momentum != 0.0f) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                b[e] = __fadd_rn(__fmul_rn(momentum, b[e]), d[e]);
                d[e] = p.nesterov ? __fadd_rn(d[e], __fmul_rn(momentum, b[e])) : b[e];
            }
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            w[e] = __fsub_rn(w[e], __fmul_rn(rate, d[e]));
        }
    }
};

// x / by. Where x is zero, as first moments are at first, the division itself would take its slow way.
__device__ __forceinline__ float quotient(float x, float by) {
    const bool zero = x == 0.0f && by > 0.0f;
    const float q = __fdiv_rn(zero ? by : x, by);
    return zero ? x : q;
}

// Terms: learning rate, beta 1, 1 - beta 1, beta 2, 1 - beta 2, both corrections, eps, keep.
struct AdamW {
    __device__ static __forceinline__ bool first_state(const Update&) { return true; }
    static constexpr bool SECOND_STATE = true;
    __device__ static __forceinline__ void apply(const Update& p, const float (&g)[4], float (&w)[4], float (&m)[4], float (&v)[4]) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            m[e] = __fadd_rn(__fmul_rn(m[e], p.terms[1]), __fmul_rn(g[e], p.terms[2]));
            v[e] = __fadd_rn(__fmul_rn(v[e], p.terms[3]), __fmul_rn(__fmul_rn(g[e], g[e]), p.terms[4]));
            const float by = __fadd_rn(__fsqrt_rn(__fmul_rn(v[e], p.terms[6])), p.terms[7]);
            const float adjusted = quotient(__fmul_rn(m[e], p.terms[5]), by);
            w[e] = __fsub_rn(__fmul_rn(w[e], p.terms[8]), __fmul_rn(adjusted, p.terms[0]));
        }
    }
};

// Four elements from `at` on. DENSE: the gradient is floats.
template <class Rule, class E, bool DENSE>
struct Four {
    float x[DENSE ? 4 : 1];
    uint2 levels;
    uint32_t s;
    float w[E::SIZE == 4 ? 4 : 1];
    uint2 w_bf16;
    float first[4], second[4];

    __device__ __forceinline__ void load(const Update& p, const Item& item, uint64_t at, bool whole) {
        if constexpr (DENSE) {
            load4(item.x, at, item.n, whole, x);
        } else {
            // Words of levels are whole and aligned everywhere.
            const char* const from = static_cast<const char*>(item.x) + (p.bits == 2 ? at / 32 * 8 : at / 4 * (p.bits / 2));
            if (p.bits == 4) {
                levels.x = *reinterpret_cast<const uint16_t*>(from);
            } else if (p.bits == 8) {
                levels.x = *reinterpret_cast<const uint32_t*>(from);
            } else {
                levels.x = reinterpret_cast<const uint32_t*>(from)[0];
                levels.y = reinterpret_cast<const uint32_t*>(from)[1];
            }
            s = static_cast<const uint16_t*>(item.b)[at >> p.block_shift];
        }
        if constexpr (E::SIZE == 4) {
            load4(item.a, at, item.n, whole, w);
        } else {
            w_bf16 = load4_bf16(item.a, at, item.n, whole);
        }
        if (Rule::first_state(p)) {
            load4(item.c, at, item.n, whole, first);
        }
        if (Rule::SECOND_STATE) {
            load4(item.report, at, item.n, whole, second);
        }
    }

    // (l s) factor, or x factor.
    __device__ __forceinline__ void gradient(const Update& p, float (&g)[4]) const {
        if constexpr (DENSE) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                g[e] = __fmul_rn(x[e], p.factor);
            }
        } else {
            int32_t level[4];
            if (p.bits == 2) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const uint32_t bit = 4 * threadIdx.x % 32 + e;
                    level[e] = static_cast<int32_t>(levels.x >> bit & 1u) - static_cast<int32_t>(levels.y >> bit & 1u);
                }
            } else if (p.bits == 4) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    level[e] = static_cast<int32_t>(levels.x << (28 - 4 * e)) >> 28;
                }
            } else if (p.bits == 8) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    level[e] = static_cast<int32_t>(levels.x << (24 - 8 * e)) >> 24;
                }
            } else {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    level[e] = static_cast<int32_t>((e < 2 ? levels.x : levels.y) << (e % 2 ? 0 : 16)) >> 16;
                }
            }
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                g[e] = __fmul_rn(__fmul_rn(static_cast<float>(level[e]), __uint_as_float(s << 16)), p.factor);
            }
        }
    }

    __device__ __forceinline__ void update(const Update& p, const Item& item, uint64_t at, bool whole, const Rounders& rounders) {
        float g[4];
        gradient(p, g);
        if constexpr (E::SIZE == 4) {
            Rule::apply(p, g, w, first, second);
            store4(item.a, at, item.n, whole, w);
        } else {
            float v[4] = {__uint_as_float(w_bf16.x << 16), __uint_as_float(w_bf16.x & 0xffff0000u),
                          __uint_as_float(w_bf16.y << 16), __uint_as_float(w_bf16.y & 0xffff0000u)};
            Rule::apply(p, g, v, first, second);
            store4_bf16(item.a, at, item.n, whole, to_bf16(v, rounders.of(static_cast<uint32_t>(at) % CTA_ELEMENTS)));
        }
        if (Rule::first_state(p)) {
            store4(item.c, at, item.n, whole, first);
        }
        if (Rule::SECOND_STATE) {
            store4(item.report, at, item.n, whole, second);
        }
    }
};

// The elements of a CTA from `start` on. `all`: whether they exist and are aligned: then every load is under way before anything
// waits for one; the draws are made and the guards looked at meanwhile.
template <class Rule, class E, bool DENSE>
__device__ __forceinline__ void update(const Update& p, const Item& item, uint64_t start, bool all, Rounders& rounders) {
    const uint64_t own = start + 4 * threadIdx.x;
    Four<Rule, E, DENSE> four[ROUNDS];
    if (all) {
#pragma unroll
        for (uint32_t r = 0; r < ROUNDS; ++r) {
            four[r].load(p, item, own + r * ROUND, true);
        }
    }
    if (E::SIZE == 2) {
        rounders.fill(p, item, start);
    }
    if (skipped(p)) {
        return;
    }
    if (all) {
#pragma unroll
        for (uint32_t r = 0; r < ROUNDS; ++r) {
            four[r].update(p, item, own + r * ROUND, true, rounders);
        }
        return;
    }
#pragma unroll 1
    for (uint64_t at = own; at < min(start + CTA_ELEMENTS, item.n); at += ROUND) {
        four[0].load(p, item, at, false);
        four[0].update(p, item, at, false, rounders);
    }
}

template <class Rule, class E>
__device__ __forceinline__ void update(const Update& p, const Item& item) {
    __shared__ Rounders rounders;
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_ELEMENTS;
    const bool dense = item.b == nullptr;
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(item.a) << (E::SIZE == 2 ? 1 : 0) | reinterpret_cast<uintptr_t>(item.c) |
                                reinterpret_cast<uintptr_t>(item.report) | (dense ? reinterpret_cast<uintptr_t>(item.x) : 0);
    const bool all = whole(start, CTA_ELEMENTS, item.n, addresses, 16);
    if (dense) {
        update<Rule, E, true>(p, item, start, all, rounders);
    } else {
        update<Rule, E, false>(p, item, start, all, rounders);
    }
}

// Eight CTAs on an SM, for 64 registers a thread.
#define KERNEL(name, Rule, type, E, count, N)                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) update_##name##_##type##_##count(                     \
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
