// Update: weights follow their gradients by SGD or AdamW, straight out of levels and scales. Mirrors src/op/update.rs,
// src/cpu/update.rs and src/numerics/update.rs.
//
// Launch: one CTA of 128 threads for each 1024 elements of each item; a lane takes 4 elements at a time.
// Nothing is written where any guard counts non-finite elements. An element whose new weight or state would not be finite keeps
// both and is reported.
// Determinism: equal to the CPU, every operation being one rounded f32 operation in a stated order.
// Bytes an element: bits / 8 + 2 / block + twice the weight and its state.
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

struct SgdTerms {
    float learning_rate, momentum, weight_decay;
};

struct AdamWTerms {
    float learning_rate, beta1, rest1, beta2, rest2, correct1, correct2, eps, keep;
};

struct UpdateSgd {
    Source source;
    SgdTerms terms;
    uint32_t nesterov;
};

struct UpdateAdamW {
    Source source;
    AdamWTerms terms;
    uint32_t pad;
};

// One tensor to update by SGD.
struct SgdItem {
    const void* gradient;    // bits ceil(n / 32) words of planes (2 bits) or fields; n floats where there are no scales
    const uint16_t* scales;  // one bf16 a block, or null
    void* weights;           // read and written
    float* momentum;         // the same; null where there is none
    Report* report;
    uint64_t n;
    uint64_t first;
    uint32_t tensor;
    uint32_t begin;
};

// One tensor to update by AdamW.
struct AdamWItem {
    const void* gradient;
    const uint16_t* scales;
    void* weights;
    float* first_moment;
    float* second_moment;
    Report* report;
    uint64_t n;
    uint64_t first;
    uint32_t tensor;
    uint32_t begin;
};

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
        const Uppers u = expand_uppers(call<PHILOX_ROUNDS>(draw, item.tensor, first + group));
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

struct Sgd {
    using Params = UpdateSgd;
    using Item = SgdItem;
    static constexpr bool SECOND_STATE = false;
    __device__ static __forceinline__ bool first_state(const Params& p) { return p.terms.momentum != 0.0f; }
    __device__ static __forceinline__ float* first(const Item& item) { return item.momentum; }
    __device__ static __forceinline__ float* second(const Item&) { return nullptr; }
    // Every element on its own: of N, weights w and states b.
    template <int N>
    __device__ static __forceinline__ void apply(const Params& p, const float (&g)[N], float (&w)[N], float (&b)[N], float (&)[N]) {
        const SgdTerms& t = p.terms;
        float d[N];
#pragma unroll
        for (int e = 0; e < N; ++e) {
            d[e] = t.weight_decay == 0.0f ? g[e] : __fadd_rn(g[e], __fmul_rn(t.weight_decay, w[e]));
        }
        if (t.momentum != 0.0f) {
#pragma unroll
            for (int e = 0; e < N; ++e) {
                b[e] = __fadd_rn(__fmul_rn(t.momentum, b[e]), d[e]);
                d[e] = p.nesterov ? __fadd_rn(d[e], __fmul_rn(t.momentum, b[e])) : b[e];
            }
        }
#pragma unroll
        for (int e = 0; e < N; ++e) {
            w[e] = __fsub_rn(w[e], __fmul_rn(t.learning_rate, d[e]));
        }
    }
    // Whether weights up to `most` and states are finite. A momentum that is not makes the weight so too.
    __device__ static __forceinline__ bool finite(const float (&w)[4], const float (&)[4], float most) { return all_within(w, most); }
};

struct AdamW {
    using Params = UpdateAdamW;
    using Item = AdamWItem;
    static constexpr bool SECOND_STATE = true;
    __device__ static __forceinline__ bool first_state(const Params&) { return true; }
    __device__ static __forceinline__ float* first(const Item& item) { return item.first_moment; }
    __device__ static __forceinline__ float* second(const Item& item) { return item.second_moment; }
    template <int N>
    __device__ static __forceinline__ void apply(const Params& p, const float (&g)[N], float (&w)[N], float (&m)[N], float (&v)[N]) {
        const AdamWTerms& t = p.terms;
#pragma unroll
        for (int e = 0; e < N; ++e) {
            m[e] = __fadd_rn(__fmul_rn(m[e], t.beta1), __fmul_rn(g[e], t.rest1));
            v[e] = __fadd_rn(__fmul_rn(v[e], t.beta2), __fmul_rn(__fmul_rn(g[e], g[e]), t.rest2));
            const float by = __fadd_rn(__fsqrt_rn(__fmul_rn(v[e], t.correct2)), t.eps);
            const float adjusted = quotient(__fmul_rn(m[e], t.correct1), by);
            w[e] = __fsub_rn(__fmul_rn(w[e], t.keep), __fmul_rn(adjusted, t.learning_rate));
        }
    }
    // A first moment that is not finite makes the weight so too; an infinite second one does not.
    __device__ static __forceinline__ bool finite(const float (&w)[4], const float (&v)[4], float most) {
        return all_within(w, most) & all_within(v, MOST_F32);
    }
};

// The level of element `at`.
__device__ __forceinline__ int32_t level_at(const uint32_t* words, uint32_t bits, uint64_t at) {
    if (bits == 2) {
        const uint32_t bit = at % 32;
        return static_cast<int32_t>(words[at / 32 * 2] >> bit & 1u) - static_cast<int32_t>(words[at / 32 * 2 + 1] >> bit & 1u);
    }
    const uint32_t per_word = 32 / bits, shift = static_cast<uint32_t>(at % per_word) * bits;
    return static_cast<int32_t>(words[at / per_word] << (32 - bits - shift)) >> (32 - bits);
}

// Four elements from `at` on, one at a time: where a scale is so large that a gradient could become infinite, or something new is
// not finite. Nothing of them has been written yet.
template <class Rule, class E>
__device__ __noinline__ void update_carefully(const typename Rule::Params& p, const typename Rule::Item& item, uint64_t at) {
    typename E::Scalar* const weights = static_cast<typename E::Scalar*>(item.weights);
    const Source& source = p.source;
    const uint4 random = E::SIZE == 2 ? call<PHILOX_ROUNDS>(source.draw, item.tensor, static_cast<uint32_t>((item.first + at) >> 5))
                                      : make_uint4(0, 0, 0, 0);
#pragma unroll 1
    for (uint64_t i = at; i < min(at + 4, item.n); ++i) {
        float g[1], w[1] = {__uint_as_float(E::to_f32(weights[i]))}, first[1] = {0.0f}, second[1] = {0.0f};
        if (item.scales == nullptr) {
            g[0] = __fmul_rn(static_cast<const float*>(item.gradient)[i], source.factor);
        } else {
            const uint32_t scale = static_cast<uint32_t>(item.scales[i >> source.block_shift]) << 16;
            g[0] = read_out(level_at(static_cast<const uint32_t*>(item.gradient), source.bits, i), scale, source.factor);
        }
        if (Rule::first_state(p)) {
            first[0] = Rule::first(item)[i];
        }
        if (Rule::SECOND_STATE) {
            second[0] = Rule::second(item)[i];
        }
        Rule::apply(p, g, w, first, second);
        uint32_t bits = __float_as_uint(w[0]);
        bool finite = fabsf(w[0]) <= MOST_F32 && fabsf(first[0]) <= MOST_F32 && fabsf(second[0]) <= MOST_F32;
        if (E::SIZE == 2 && finite) {
            const uint32_t up = (draw_of(random, i % 32) >> 7) < (bits & 0xffffu) ? 1 : 0;
            bits = (bits >> 16) + up;
            finite = (bits & 0x7f80u) != 0x7f80u;
        }
        if (!finite) {
            atomicAdd(&item.report->non_finite, 1ull);
            atomicMax(&item.report->not_first, ~static_cast<unsigned long long>(item.first + i));
            continue;
        }
        weights[i] = static_cast<typename E::Scalar>(bits);
        if (Rule::first_state(p)) {
            Rule::first(item)[i] = first[0];
        }
        if (Rule::SECOND_STATE) {
            Rule::second(item)[i] = second[0];
        }
    }
}

// Four elements from `at` on. DENSE: the gradient is floats.
template <class Rule, class E, bool DENSE>
struct Four {
    using Params = typename Rule::Params;
    using Item = typename Rule::Item;
    float x[DENSE ? 4 : 1];
    uint2 levels;
    uint32_t s;
    float w[E::SIZE == 4 ? 4 : 1];
    uint2 w_bf16;
    float first[4], second[4];

    __device__ __forceinline__ void load(const Params& p, const Item& item, uint64_t at, bool whole) {
        if constexpr (DENSE) {
            load4(item.gradient, at, item.n, whole, x);
        } else {
            // Words of levels are whole and aligned everywhere.
            const uint32_t bits = p.source.bits;
            const char* const from = static_cast<const char*>(item.gradient) + (bits == 2 ? at / 32 * 8 : at / 4 * (bits / 2));
            if (bits == 4) {
                levels.x = *reinterpret_cast<const uint16_t*>(from);
            } else if (bits == 8) {
                levels.x = *reinterpret_cast<const uint32_t*>(from);
            } else {  // of 32 bits the first two: see `gradient`
                levels.x = reinterpret_cast<const uint32_t*>(from)[0];
                levels.y = reinterpret_cast<const uint32_t*>(from)[1];
            }
            s = item.scales[at >> p.source.block_shift];
        }
        if constexpr (E::SIZE == 4) {
            load4(item.weights, at, item.n, whole, w);
        } else {
            w_bf16 = load4_bf16(item.weights, at, item.n, whole);
        }
        if (Rule::first_state(p)) {
            load4(Rule::first(item), at, item.n, whole, first);
        }
        if (Rule::SECOND_STATE) {
            load4(Rule::second(item), at, item.n, whole, second);
        }
    }

    // (l s) factor, or x factor.
    __device__ __forceinline__ void gradient(const Params& p, const Item& item, uint64_t at, float (&g)[4]) const {
        const float factor = p.source.factor;
        if constexpr (DENSE) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                g[e] = __fmul_rn(x[e], factor);
            }
        } else {
            const uint32_t bits = p.source.bits;
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
                const int32_t* const rest = static_cast<const int32_t*>(item.gradient) + at + 2;
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

    // Returns whether it was done; otherwise nothing was written.
    __device__ __forceinline__ bool update(const Params& p, const Item& item, uint64_t at, bool whole, const Rounders& rounders) {
        constexpr float MOST = E::SIZE == 4 ? MOST_F32 : 0x1.fep127f;
        float g[4], v[4];
        gradient(p, item, at, g);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            if constexpr (E::SIZE == 4) {
                v[e] = w[e];
            } else {
                const uint32_t pair = e < 2 ? w_bf16.x : w_bf16.y;
                v[e] = __uint_as_float(e % 2 ? pair & 0xffff0000u : pair << 16);
            }
        }
        Rule::apply(p, g, v, first, second);
        bool plain = Rule::finite(v, second, MOST);
        if constexpr (!DENSE) {
            plain &= s <= p.source.scale_limit;
        }
        if (!plain) {
            return false;
        }
        if constexpr (E::SIZE == 4) {
            store4(item.weights, at, item.n, whole, v);
        } else {
            store4_bf16(item.weights, at, item.n, whole, to_bf16(v, rounders.of(static_cast<uint32_t>(at) % CTA_ELEMENTS)));
        }
        if (Rule::first_state(p)) {
            store4(Rule::first(item), at, item.n, whole, first);
        }
        if (Rule::SECOND_STATE) {
            store4(Rule::second(item), at, item.n, whole, second);
        }
        return true;
    }
};

// The elements of a CTA from `start` on. `all`: whether they exist and are aligned: then every load is under way before anything
// waits for one; the draws are made and the guards looked at meanwhile.
template <class Rule, class E, bool DENSE>
__device__ __forceinline__ void update(const typename Rule::Params& p, const typename Rule::Item& item, uint64_t start, bool all,
                                       Rounders& rounders) {
    const uint64_t own = start + 4 * threadIdx.x;
    Four<Rule, E, DENSE> four[ROUNDS];
    if (all) {
#pragma unroll
        for (uint32_t r = 0; r < ROUNDS; ++r) {
            four[r].load(p, item, own + r * ROUND, true);
        }
    }
    if (E::SIZE == 2) {
        rounders.fill(p.source.draw, item, start);
    }
    if (skipped(p.source)) {
        return;
    }
    if (all) {
        uint32_t left = 0;  // rounds that were not done; the call comes when registers are free again
#pragma unroll
        for (uint32_t r = 0; r < ROUNDS; ++r) {
            left |= four[r].update(p, item, own + r * ROUND, true, rounders) ? 0u : 1u << r;
        }
        for (; left; left &= left - 1) {
            update_carefully<Rule, E>(p, item, own + (__ffs(left) - 1) * ROUND);
        }
        return;
    }
#pragma unroll 1
    for (uint64_t at = own; at < min(start + CTA_ELEMENTS, item.n); at += ROUND) {
        four[0].load(p, item, at, false);
        if (!four[0].update(p, item, at, false, rounders)) {
            update_carefully<Rule, E>(p, item, at);
        }
    }
}

template <class Rule, class E>
__device__ __forceinline__ void update(const typename Rule::Params& p, const typename Rule::Item& item) {
    __shared__ Rounders rounders;
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_ELEMENTS;
    const bool dense = item.scales == nullptr;
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(item.weights) << (E::SIZE == 2 ? 1 : 0) |
                                reinterpret_cast<uintptr_t>(Rule::first(item)) | reinterpret_cast<uintptr_t>(Rule::second(item)) |
                                (dense ? reinterpret_cast<uintptr_t>(item.gradient) : 0);
    const bool all = whole(start, CTA_ELEMENTS, item.n, addresses, 16);
    if (dense) {
        update<Rule, E, true>(p, item, start, all, rounders);
    } else {
        update<Rule, E, false>(p, item, start, all, rounders);
    }
}

// Eight CTAs on an SM, for 64 registers a thread.
#define KERNEL(name, Rule, E, N)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) update_##name##_##E##_##N(                        \
        const __grid_constant__ Rule::Params p, const __grid_constant__ TABLE_##N<Rule::Item> table) {         \
        update<Rule, ELEMENT_##E>(p, item_of(table, blockIdx.x));                                              \
    }
KERNEL(sgd, Sgd, f32, one)
KERNEL(sgd, Sgd, f32, many)
KERNEL(sgd, Sgd, bf16, one)
KERNEL(sgd, Sgd, bf16, many)
KERNEL(adamw, AdamW, f32, one)
KERNEL(adamw, AdamW, f32, many)
KERNEL(adamw, AdamW, bf16, one)
KERNEL(adamw, AdamW, bf16, many)
