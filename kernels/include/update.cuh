// What updates share: the gradient of four elements, where they lie, the draws of a CTA, and AdamW. Mirrors src/cpu/update.rs
// and src/numerics/update.rs.
#pragma once
#include "draw.cuh"
#include "level.cuh"
#include "output.cuh"

constexpr uint32_t THREADS = 128;
constexpr uint32_t ROUND = 4 * THREADS;  // elements that the CTA takes at a time,
constexpr uint32_t ROUNDS = 2;           // and how often: all loads come first
constexpr uint32_t CTA_ELEMENTS = ROUND * ROUNDS;

// What every update shares: how the gradient is read, and where bf16 weights draw.
struct Source {
    Draw draw;
    const Report* guards;
    uint64_t guard_count;
    float factor;
    uint32_t bits;
    uint32_t block_shift;
    uint32_t scale_limit;  // bf16 bits: under scales up to this no gradient can become infinite
};

struct AdamWTerms {
    float learning_rate, beta1, rest1, beta2, rest2, correct1, correct2, eps, keep;
};

struct SgdTerms {
    float learning_rate, momentum, weight_decay;
};

// Terms under a state: SgdTerms::under and AdamWTerms::under in src/numerics/update.rs.
__device__ __forceinline__ void follow(SgdTerms& terms, const uint32_t* state) {
    terms.learning_rate = __fmul_rn(__uint_as_float(state[STATE_RATE]), terms.learning_rate);
}

__device__ __forceinline__ void follow(AdamWTerms& terms, const uint32_t* state) {
    const float rate = __uint_as_float(state[STATE_RATE]);
    terms.learning_rate = __fmul_rn(rate, terms.learning_rate);
    terms.keep = __fsub_rn(1.0f, __fmul_rn(rate, __fsub_rn(1.0f, terms.keep)));
    terms.correct1 = __uint_as_float(state[STATE_CORRECT1]);
    terms.correct2 = __uint_as_float(state[STATE_CORRECT2]);
}

// Parameters of an update as the state puts them, for all threads of the CTA; false where it says that the step is skipped. In
// kernels of their own, so that those that follow none read their parameters as constants.
template <class P>
__device__ __forceinline__ bool follow(const P& given, P& p) {
    const uint32_t* const state = given.source.draw.state;
    for (uint32_t i = threadIdx.x; i < sizeof(P) / 4; i += THREADS) {
        reinterpret_cast<uint32_t*>(&p)[i] = reinterpret_cast<const uint32_t*>(&given)[i];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        const uint2 now = moment(given.source.draw);
        p.source.draw.step = now.x;
        p.source.draw.high = now.y;
        p.source.draw.state = nullptr;
        p.source.factor = __uint_as_float(state[STATE_FACTOR]);
        // With levels up to 2^(bits - 1) and a factor below 2^(exponent - 126), this power of two keeps the product below 2^127.
        const uint32_t exponent = max(state[STATE_FACTOR] >> 23 & 0xffu, 127u);
        p.source.scale_limit = (381u - p.source.bits - exponent) << 7;
        follow(p.terms, state);
    }
    __syncthreads();
    return state[STATE_SKIP] == 0;
}

// Whether the step is to be skipped: the same for all threads of the CTA.
__device__ __forceinline__ bool skipped(const Source& source) {
    bool found = false;
#pragma unroll 1
    for (uint64_t i = threadIdx.x; i < source.guard_count; i += THREADS) {
        found |= *reinterpret_cast<volatile const unsigned long long*>(&source.guards[i].non_finite) != 0;
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

    template <class I>
    __device__ __forceinline__ void fill(const Draw& draw, const I& item, uint64_t start) {
        const uint32_t group = threadIdx.x;
        if (group >= CTA_ELEMENTS / 32) {
            return;
        }
        const uint32_t first = static_cast<uint32_t>((item.first + start) >> 5);
        put(group, call<PHILOX_ROUNDS>(draw, item.tensor, first + group));
    }

    // Those of a group of the CTA, from its Philox call.
    __device__ __forceinline__ void put(uint32_t group, uint4 random) {
        const Uppers u = expand_uppers(random);
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

// Two finite weights rounded stochastically: up, as the 16 bits that go are above the draw's, where the sum with its inverse
// carries.
__device__ __forceinline__ uint32_t pair_to_bf16(float low, float high, uint32_t rounders) {
    const uint32_t a = __float_as_uint(low), b = __float_as_uint(high);
    return __byte_perm(a + (rounders & 0xffffu), b + (rounders >> 16), 0x7632);
}

__device__ __forceinline__ uint2 to_bf16(const float (&v)[4], uint2 rounders) {
    return make_uint2(pair_to_bf16(v[0], v[1], rounders.x), pair_to_bf16(v[2], v[3], rounders.y));
}

// x / by. Where x is zero, as first moments are at first, the division itself would take its slow way.
__device__ __forceinline__ float quotient(float x, float by) {
    const bool zero = x == 0.0f && by > 0.0f;
    const float q = __fdiv_rn(zero ? by : x, by);
    return zero ? x : q;
}

// Whether all of four are finite and at most `most` in magnitude.
__device__ __forceinline__ bool all_within(const float (&v)[4], float most) {
    return (fabsf(v[0]) <= most) & (fabsf(v[1]) <= most) & (fabsf(v[2]) <= most) & (fabsf(v[3]) <= most);
}

constexpr float MOST_F32 = 0x1.fffffep127f;

// AdamW on N elements, each on its own: new weights and moments.
template <int N>
__device__ __forceinline__ void adamw(const AdamWTerms& t, const float (&g)[N], float (&w)[N], float (&m)[N], float (&v)[N]) {
#pragma unroll
    for (int e = 0; e < N; ++e) {
        m[e] = __fadd_rn(__fmul_rn(m[e], t.beta1), __fmul_rn(g[e], t.rest1));
        v[e] = __fadd_rn(__fmul_rn(v[e], t.beta2), __fmul_rn(__fmul_rn(g[e], g[e]), t.rest2));
        const float by = __fadd_rn(__fsqrt_rn(__fmul_rn(v[e], t.correct2)), t.eps);
        const float adjusted = quotient(__fmul_rn(m[e], t.correct1), by);
        w[e] = __fsub_rn(__fmul_rn(w[e], t.keep), __fmul_rn(adjusted, t.learning_rate));
    }
}

// The level of element `at`.
__device__ __forceinline__ int32_t level_at(const uint32_t* words, uint32_t bits, uint64_t at) {
    if (bits == 2) {
        const uint32_t bit = at % 32;
        return static_cast<int32_t>(words[at / 32 * 2] >> bit & 1u) - static_cast<int32_t>(words[at / 32 * 2 + 1] >> bit & 1u);
    }
    const uint32_t per_word = 32 / bits, shift = static_cast<uint32_t>(at % per_word) * bits;
    return static_cast<int32_t>(words[at / per_word] << (32 - bits - shift)) >> (32 - bits);
}

// The gradient of four elements. DENSE: it is floats.
template <bool DENSE>
struct Gradient4 {
    float x[DENSE ? 4 : 1];
    uint2 levels;
    uint32_t s;

    __device__ __forceinline__ void load(const Source& source, const void* from, const uint16_t* scales, uint64_t at, uint64_t n,
                                         bool whole) {
        if constexpr (DENSE) {
            load4(from, at, n, whole, x);
        } else {
            // Words of levels are whole and aligned everywhere.
            const uint32_t bits = source.bits;
            const char* const word = static_cast<const char*>(from) + (bits == 2 ? at / 32 * 8 : at / 4 * (bits / 2));
            if (bits == 4) {
                levels.x = *reinterpret_cast<const uint16_t*>(word);
            } else if (bits == 8) {
                levels.x = *reinterpret_cast<const uint32_t*>(word);
            } else {  // of 32 bits the first two: see `gradient`
                levels.x = reinterpret_cast<const uint32_t*>(word)[0];
                levels.y = reinterpret_cast<const uint32_t*>(word)[1];
            }
            s = scales[at >> source.block_shift];
        }
    }

    // (l s) factor, or x factor.
    __device__ __forceinline__ void read(const Source& source, const void* from, uint64_t at, float (&g)[4]) const {
        const float factor = source.factor;
        if constexpr (DENSE) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                g[e] = __fmul_rn(x[e], factor);
            }
        } else {
            const uint32_t bits = source.bits;
            int32_t level[4];
            if (bits == 2) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const uint32_t bit = 4 * threadIdx.x % 32 + e;
                    level[e] = static_cast<int32_t>(levels.x >> bit & 1u) - static_cast<int32_t>(levels.y >> bit & 1u);
                }
            } else if (bits == 4) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    level[e] = static_cast<int32_t>(levels.x << (28 - 4 * e)) >> 28;
                }
            } else if (bits == 8) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    level[e] = static_cast<int32_t>(levels.x << (24 - 8 * e)) >> 24;
                }
            } else if (bits == 16) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    level[e] = static_cast<int32_t>((e < 2 ? levels.x : levels.y) << (e % 2 ? 0 : 16)) >> 16;
                }
            } else {  // the last two are not kept in registers, of which the other widths have none to spare
                const int32_t* const rest = static_cast<const int32_t*>(from) + at + 2;
                level[0] = static_cast<int32_t>(levels.x);
                level[1] = static_cast<int32_t>(levels.y);
                level[2] = rest[0];
                level[3] = rest[1];
            }
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                g[e] = read_out_fast(level[e], s << 16, factor);
            }
        }
    }
};
