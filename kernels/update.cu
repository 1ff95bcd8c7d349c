// Update: weights follow their gradients by SGD or AdamW, straight out of levels and scales. Mirrors src/op/update.rs,
// src/cpu/update.rs and src/numerics/update.rs.
//
// Launch: one CTA of 128 threads for each 1024 elements of each item; a lane takes 4 elements at a time.
// Those named `following` follow a state: factor, rate, corrections, draws, and whether the step is skipped.
// Nothing is written where any guard counts non-finite elements. An element whose new weight or state would not be finite keeps
// both and is reported.
// Determinism: equal to the CPU, every operation being one rounded f32 operation in a stated order.
// Bytes an element: bits / 8 + 2 / block + twice the weight and its state.
#include "update.cuh"

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
        adamw(p.terms, g, w, m, v);
    }
    // A first moment that is not finite makes the weight so too; an infinite second one does not.
    __device__ static __forceinline__ bool finite(const float (&w)[4], const float (&v)[4], float most) {
        return all_within(w, most) & all_within(v, MOST_F32);
    }
};

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
    Gradient4<DENSE> gradient;
    float w[E::SIZE == 4 ? 4 : 1];
    uint2 w_bf16;
    float first[4], second[4];

    __device__ __forceinline__ void load(const Params& p, const Item& item, uint64_t at, bool whole) {
        gradient.load(p.source, item.gradient, item.scales, at, item.n, whole);
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

    // Returns whether it was done; otherwise nothing was written.
    __device__ __forceinline__ bool update(const Params& p, const Item& item, uint64_t at, bool whole, const Rounders& rounders) {
        constexpr float MOST = E::SIZE == 4 ? MOST_F32 : 0x1.fep127f;
        float g[4], v[4];
        gradient.read(p.source, item.gradient, at, g);
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
            plain &= gradient.s <= p.source.scale_limit;
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
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) update_##name##_following_##E##_##N(              \
        const __grid_constant__ Rule::Params given, const __grid_constant__ TABLE_##N<Rule::Item> table) {     \
        __shared__ Rule::Params p;                                                                             \
        if (follow(given, p)) {                                                                                \
            update<Rule, ELEMENT_##E>(p, item_of(table, blockIdx.x));                                          \
        }                                                                                                      \
    }
KERNEL(sgd, Sgd, f32, one)
KERNEL(sgd, Sgd, f32, many)
KERNEL(sgd, Sgd, bf16, one)
KERNEL(sgd, Sgd, bf16, many)
KERNEL(adamw, AdamW, f32, one)
KERNEL(adamw, AdamW, f32, many)
KERNEL(adamw, AdamW, bf16, one)
KERNEL(adamw, AdamW, bf16, many)
