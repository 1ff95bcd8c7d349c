// The state of a training: micro-batches counted, windows decided, steps counted. Mirrors src/numerics/state.rs, src/op/state.rs
// and src/cpu/state.rs.
//
// Launch: one CTA of 128 threads for each state; one thread does it all, but for the reports, which all look at.
// Buffers: state, STATE_WORDS words, read and written; sum, SUM_WORDS words; corrections, two floats an update; found, reports.
// Determinism: cross-backend, every operation being one rounded f32 operation in a stated order, or one on integers.
#include "item.cuh"

// The state of one training.
struct StateItem {
    uint32_t* state;
    uint64_t n;  // 1
    uint32_t begin;
    uint32_t pad;
};

struct AdvanceMicroBatch {
    float weight;  // a subnormal already 0
    uint32_t pad;
};

struct AdvanceStep {
    uint32_t interval;  // 0: the loss scale stays
    uint32_t pad;
};

struct Decide {
    const Report* found;
    uint64_t slots;
    float limit;  // infinite: the norm is not clipped
    uint32_t pad;
};

// The state of one training, and what decides its window.
struct DecideItem {
    uint32_t* state;
    const uint32_t* sum;
    const float* corrections;
    uint64_t n;        // 1
    uint64_t updates;  // that there are corrections for
    uint32_t begin;
    uint32_t pad;
};

// x 2^by of an x that is not negative: 0 below 2^-126, infinite from 2^128 up.
__device__ __forceinline__ float shifted(float x, int by) {
    const uint32_t bits = __float_as_uint(x);
    const int exponent = static_cast<int>(bits >> 23);
    if (exponent == 0 || exponent == 255) {
        return exponent == 0 ? 0.0f : x;
    }
    const int moved = exponent + by;
    if (moved <= 0) {
        return 0.0f;
    }
    return moved >= 255 ? __uint_as_float(0x7f800000u) : __uint_as_float((bits & 0x007fffffu) | static_cast<uint32_t>(moved) << 23);
}

// The root of a sum times |mean|.
__device__ __forceinline__ float norm(const uint32_t* sum, float mean) {
    int top = static_cast<int>(SUM_WORDS) - 1;
    if (sum[top] >> 31 == 1) {
        return 0.0f;
    }
    while (top >= 0 && sum[top] == 0) {
        --top;
    }
    if (top < 0) {
        return 0.0f;
    }
    const int by = __clz(static_cast<int>(sum[top]));
    const uint32_t below = top > 0 ? sum[top - 1] : 0;
    const uint64_t both = static_cast<uint64_t>(sum[top]) << 32 | below;
    const uint32_t leading = static_cast<uint32_t>(both << by >> 32);
    bool rest = (below << by) != 0;
    for (int i = 0; i + 1 < top; ++i) {
        rest |= sum[i] != 0;
    }
    const uint32_t kept = leading >> 8, low = leading & 0xffu;
    const bool up = low > 0x80u || (low == 0x80u && (rest || (kept & 1u) == 1u));
    const int exponent = 32 * top + 31 - by - static_cast<int>(SUM_LOWEST);
    const uint32_t m = (static_cast<uint32_t>(127 + (exponent & 1)) << 23) + (kept - MIN_NORMAL) + (up ? 1u : 0u);
    return shifted(__fmul_rn(__fsqrt_rn(__uint_as_float(m)), fabsf(mean)), exponent >> 1);
}

__device__ __forceinline__ void advance_micro_batch(const AdvanceMicroBatch& p, const StateItem& item) {
    if (threadIdx.x != 0) {
        return;
    }
    uint32_t* const s = item.state;
    s[STATE_MICRO_BATCH] = min(s[STATE_MICRO_BATCH] + 1u, MICRO_BATCHES_MAX - 1u);
    s[STATE_WEIGHTS] = __float_as_uint(__fadd_rn(__uint_as_float(s[STATE_WEIGHTS]), p.weight));
}

__device__ __forceinline__ void decide(const Decide& p, const DecideItem& item) {
    __shared__ uint32_t first;
    if (threadIdx.x == 0) {
        first = 0xffffffffu;
    }
    __syncthreads();
    for (uint64_t i = threadIdx.x; i < p.slots; i += 128) {
        if (p.found[i].non_finite != 0) {
            atomicMin(&first, static_cast<uint32_t>(i));
            break;
        }
    }
    __syncthreads();
    if (threadIdx.x != 0) {
        return;
    }
    uint32_t* const s = item.state;
    const bool any = first != 0xffffffffu;
    const float weights = __uint_as_float(s[STATE_WEIGHTS]), scale = __uint_as_float(s[STATE_LOSS_SCALE]);
    const unsigned long long count = any ? p.found[first].non_finite : 0;
    const uint64_t last = item.updates == 0 ? 0 : item.updates - 1, at = min(static_cast<uint64_t>(s[STATE_UPDATES]), last);
    s[STATE_MICRO_BATCHES] = s[STATE_MICRO_BATCH];
    s[STATE_MICRO_BATCH] = 0;
    s[STATE_WINDOW_WEIGHTS] = s[STATE_WEIGHTS];
    s[STATE_WEIGHTS] = 0;
    s[STATE_WINDOW_LOSS_SCALE] = s[STATE_LOSS_SCALE];
    s[STATE_FOUND_SLOT] = any ? first : 0;
    s[STATE_FOUND_LOW] = static_cast<uint32_t>(count);
    s[STATE_FOUND_HIGH] = static_cast<uint32_t>(count >> 32);
    s[STATE_CORRECT1] = __float_as_uint(item.updates == 0 ? 1.0f : item.corrections[2 * at]);
    s[STATE_CORRECT2] = __float_as_uint(item.updates == 0 ? 1.0f : item.corrections[2 * at + 1]);
    float length = 0.0f, clip = 1.0f, factor = 0.0f;
    uint32_t skip = STATE_SKIP_NO_WEIGHT;
    if (weights != 0.0f) {
        const float mean = __fdiv_rn(1.0f, __fmul_rn(weights, scale));
        length = norm(item.sum, mean);
        if (length > p.limit) {
            clip = __fdiv_rn(p.limit, length);
        }
        factor = __fmul_rn(mean, clip);
        const uint32_t exponent = __float_as_uint(factor) >> 23 & 0xffu;
        skip = any ? STATE_SKIP_NON_FINITE : exponent == 0 || exponent == 255 ? STATE_SKIP_FACTOR : 0;
    }
    s[STATE_NORM] = __float_as_uint(length);
    s[STATE_CLIP] = __float_as_uint(clip);
    s[STATE_FACTOR] = skip == 0 ? __float_as_uint(factor) : 0;
    s[STATE_SKIP] = skip;
}

__device__ __forceinline__ void advance_step(const AdvanceStep& p, const StateItem& item) {
    if (threadIdx.x != 0) {
        return;
    }
    constexpr uint32_t OCTAVE = 1u << 23;
    uint32_t* const s = item.state;
    const uint32_t skip = s[STATE_SKIP], counted = skip == 0 ? STATE_UPDATES : STATE_SKIPS;
    s[counted] = s[counted] == 0xffffffffu ? s[counted] : s[counted] + 1;
    const uint32_t scale = s[STATE_LOSS_SCALE], good = s[STATE_GOOD];
    if (p.interval != 0 && skip == 0) {
        const bool grows = good >= p.interval - 1;
        const uint32_t doubled = scale + min(OCTAVE, ~scale);
        s[STATE_LOSS_SCALE] = grows ? max(min(doubled, STATE_LOSS_SCALE_MAX), scale) : scale;
        s[STATE_GOOD] = grows ? 0 : good + 1;
    } else if (p.interval != 0 && skip == STATE_SKIP_NON_FINITE) {
        s[STATE_LOSS_SCALE] = min(max(scale - min(OCTAVE, scale), STATE_LOSS_SCALE_MIN), scale);
        s[STATE_GOOD] = 0;
    }
    s[STATE_STEP] += 1;
}

#define KERNEL(name, P, I, N)                                                                                    \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        name##_##N(const __grid_constant__ P p, const __grid_constant__ TABLE_##N<I> table) {                    \
        name(p, item_of(table, blockIdx.x));                                                                     \
    }
KERNEL(advance_micro_batch, AdvanceMicroBatch, StateItem, one)
KERNEL(advance_micro_batch, AdvanceMicroBatch, StateItem, many)
KERNEL(decide, Decide, DecideItem, one)
KERNEL(decide, Decide, DecideItem, many)
KERNEL(advance_step, AdvanceStep, StateItem, one)
KERNEL(advance_step, AdvanceStep, StateItem, many)
