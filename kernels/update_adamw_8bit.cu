// Update: weights follow their gradients by AdamW with moments in 8 bits each, straight out of levels and scales. Mirrors
// src/op/update_adamw_8bit.rs, src/cpu/update_adamw_8bit.rs and src/numerics/{moments,update}.rs.
//
// Launch: one CTA of 128 threads for each 1024 elements of each item; a lane takes 4 elements at a time, 16 lanes a block of 64.
// One pass: new moments stay in registers until 16 lanes have joined the largest second one; then they are coded.
// Those named `following` follow a state, as in update.cu.
// Nothing is written where any guard counts non-finite elements. An element whose new weight or moments would not be finite keeps
// them and is reported.
// Determinism: equal to the CPU, every operation being one rounded f32 operation in a stated order, or one on integers.
// Bytes an element: bits / 8 + 2 / block + twice the weight + 4 + 4 / 64.
#include "update.cuh"

constexpr uint32_t BLOCK = 64;  // MOMENT_BLOCK in src/numerics/moments.rs

struct UpdateAdamW8 {
    Source source;
    AdamWTerms terms;
    uint32_t pad;
};

// One tensor to update.
struct AdamW8Item {
    const void* gradient;      // bits ceil(n / 32) words of planes (2 bits) or fields; n floats where there are no scales
    const uint16_t* scales;    // one bf16 a block, or null
    void* weights;             // read and written
    uint16_t* moments;         // a word an element, read and written
    uint16_t* moment_scales;   // one bf16 a block of 64, read and written
    Report* report;
    uint64_t n;
    uint64_t first;
    uint32_t tensor;
    uint32_t begin;
};

__device__ __forceinline__ uint32_t moment_scale(uint32_t largest) {
    return largest == 0 ? 0 : min(max((largest >> 23) + 1, 32u), 254u) << 7;
}

// What code 0 of a second moment would stand for if it did not stand for 0.
__device__ __forceinline__ uint32_t moment_base(uint32_t scale) { return (scale << 16) - (31u << 23); }

__device__ __forceinline__ uint32_t second_moment(uint32_t code, uint32_t base) { return code == 0 ? 0 : (code << 20) + base; }

__device__ __forceinline__ uint32_t code_second(uint32_t v, uint32_t base, uint32_t k) {
    const int32_t code = static_cast<int32_t>(v - base + (k >> 3)) >> 20;
    return v == 0 ? 0 : static_cast<uint32_t>(min(max(code, 1), 255));
}

// The biased exponent of the first octave of the first moments beside a decoded second moment.
__device__ __forceinline__ uint32_t lowest_octave(uint32_t v) { return ((v >> 23) + 121) >> 1; }

// Octaves above the first are floats as they are; in the first, the float with a leading bit is one too large by that bit.
__device__ __forceinline__ float first_moment(uint32_t both, uint32_t v) {
    const uint32_t code = both & 0x7fu, lowest = lowest_octave(v) << 23;
    const bool higher = code >= 16;
    const float with = __uint_as_float((code << 19) + lowest - (higher ? MIN_NORMAL : 0u));
    const float magnitude = __fsub_rn(with, __uint_as_float(higher ? 0u : lowest));
    return __uint_as_float((v == 0 ? 0u : __float_as_uint(magnitude)) | (both & 0x80u) << 24);
}

__device__ __forceinline__ uint32_t code_first(uint32_t m, uint32_t v, uint32_t k) {
    const uint32_t exponent = m >> 23 & 0xffu, lowest = lowest_octave(v), octave = max(exponent, lowest);
    // A subnormal lies so far below that nothing is left of it.
    const uint32_t mantissa = ((m & 0x007fffffu) | MIN_NORMAL) >> min(octave - exponent, 31u);
    const uint32_t code = min(((octave - lowest) << 4) + ((mantissa + (k >> 4)) >> 19), 127u);
    return v == 0 || code == 0 ? 0 : (m >> 31 << 7) | code;
}

// The largest of the 16 lanes that hold a block.
__device__ __forceinline__ uint32_t largest_of_block(uint32_t x) {
#pragma unroll
    for (int lanes = 8; lanes > 0; lanes /= 2) {
        x = max(x, __shfl_xor_sync(0xffffffffu, x, lanes));
    }
    return x;
}

// The gradient of an element under a scale so large that it could become infinite on the way.
template <bool DENSE>
__device__ __noinline__ float careful_gradient(const Source& source, const AdamW8Item& item, uint64_t at) {
    const uint32_t scale = static_cast<uint32_t>(item.scales[at >> source.block_shift]) << 16;
    return read_out(level_at(static_cast<const uint32_t*>(item.gradient), source.bits, at), scale, source.factor);
}

// The lower bits that the draws of a group share, for the groups of a CTA.
struct Lowers {
    uint32_t of_group[CTA_ELEMENTS / 32];
};

// Four elements from `at` on.
template <class E, bool DENSE>
struct Four {
    Gradient4<DENSE> gradient;
    float w[E::SIZE == 4 ? 4 : 1];
    uint2 w_bf16, words;
    uint32_t scale;

    // What lies past the end is zero.
    __device__ __forceinline__ void load(const UpdateAdamW8& p, const AdamW8Item& item, uint64_t at, bool whole) {
        *this = {};
        if (!whole && at >= item.n) {
            return;
        }
        gradient.load(p.source, item.gradient, item.scales, at, item.n, whole);
        if constexpr (E::SIZE == 4) {
            load4(item.weights, at, item.n, whole, w);
        } else {
            w_bf16 = load4_bf16(item.weights, at, item.n, whole);
        }
        words = load4_bf16(item.moments, at, item.n, whole);
        scale = item.moment_scales[at / BLOCK];
    }

    __device__ __forceinline__ uint32_t word(int e) const { return (e < 2 ? words.x : words.y) >> (16 * (e % 2)) & 0xffffu; }

    // All lanes of a block take part, those past the end too.
    __device__ __forceinline__ void update(const UpdateAdamW8& p, const AdamW8Item& item, uint64_t at, bool whole,
                                           const Rounders& rounders, const Lowers& lowers) {
        constexpr float MOST = E::SIZE == 4 ? MOST_F32 : 0x1.fep127f;
        const uint32_t e_of_cta = static_cast<uint32_t>(at) % CTA_ELEMENTS;
        const uint2 rounder = rounders.of(e_of_cta);
        float g[4], old[4], w4[4], m[4], v[4];
        gradient.read(p.source, item.gradient, at, g);
        if constexpr (!DENSE) {
            if (gradient.s > p.source.scale_limit) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    g[e] = at + e < item.n ? careful_gradient<DENSE>(p.source, item, at + e) : 0.0f;
                }
            }
        }
        const uint32_t old_base = moment_base(scale);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            if constexpr (E::SIZE == 4) {
                old[e] = w[e];
            } else {
                const uint32_t pair = e < 2 ? w_bf16.x : w_bf16.y;
                old[e] = __uint_as_float(e % 2 ? pair & 0xffff0000u : pair << 16);
            }
            w4[e] = old[e];
            const uint32_t bits = scale == 0 ? 0 : second_moment(word(e) >> 8, old_base);
            v[e] = __uint_as_float(bits);
            m[e] = first_moment(word(e) & 0xffu, bits);
        }
        adamw(p.terms, g, w4, m, v);
        if (!(all_within(w4, MOST) & all_within(v, MOST_F32))) {
            keep(item, at, rounder, old, w4, m, v);
        }
        uint32_t largest = 0;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            if (whole || at + e < item.n) {
                largest = max(largest, __float_as_uint(v[e]) & 0x7fffffffu);
            }
        }
        const uint32_t now = moment_scale(largest_of_block(largest)), base = moment_base(now);
        const uint32_t low = lowers.of_group[e_of_cta / 32];
        uint32_t coded[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const uint32_t upper = ~((e < 2 ? rounder.x : rounder.y) >> (16 * (e % 2))) & 0xffffu;
            const uint32_t k = upper << 7 | low;
            const uint32_t second = code_second(__float_as_uint(v[e]) & 0x7fffffffu, base, k);
            coded[e] = second << 8 | code_first(__float_as_uint(m[e]), second_moment(second, base), k);
        }
        if (!whole && at >= item.n) {
            return;
        }
        if constexpr (E::SIZE == 4) {
            store4(item.weights, at, item.n, whole, w4);
        } else {
            store4_bf16(item.weights, at, item.n, whole, to_bf16(w4, rounder));
        }
        const uint2 pairs = make_uint2(coded[0] | coded[1] << 16, coded[2] | coded[3] << 16);
        store4_bf16(item.moments, at, item.n, whole, pairs);
        if (at % BLOCK == 0) {
            item.moment_scales[at / BLOCK] = static_cast<uint16_t>(now);
        }
    }

    // Elements whose new weight, as it would be stored, or moments are not finite get back what they had, and are reported.
    __device__ __forceinline__ void keep(const AdamW8Item& item, uint64_t at, uint2 rounder, const float (&old)[4], float (&w4)[4],
                                         float (&m)[4], float (&v)[4]) const {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            bool finite = fabsf(w4[e]) <= MOST_F32 && fabsf(m[e]) <= MOST_F32 && fabsf(v[e]) <= MOST_F32;
            if (E::SIZE == 2 && finite) {
                const uint32_t up = (e < 2 ? rounder.x : rounder.y) >> (16 * (e % 2)) & 0xffffu;
                finite = ((__float_as_uint(w4[e]) + up) & 0x7f800000u) != 0x7f800000u;
            }
            if (finite || at + e >= item.n) {
                continue;
            }
            atomicAdd(&item.report->non_finite, 1ull);
            atomicMax(&item.report->not_first, ~static_cast<unsigned long long>(item.first + at + e));
            const uint32_t bits = scale == 0 ? 0 : second_moment(word(e) >> 8, moment_base(scale));
            w4[e] = old[e];
            v[e] = __uint_as_float(bits);
            m[e] = first_moment(word(e) & 0xffu, bits);
        }
    }
};

// The elements of a CTA from `start` on. `all`: whether they exist and are aligned: then every load is under way before anything
// waits for one; the draws are made and the guards looked at meanwhile.
template <class E, bool DENSE>
__device__ __forceinline__ void update(const UpdateAdamW8& p, const AdamW8Item& item, uint64_t start, bool all, Rounders& rounders,
                                       Lowers& lowers) {
    const uint64_t own = start + 4 * threadIdx.x;
    Four<E, DENSE> four[ROUNDS];
#pragma unroll
    for (uint32_t r = 0; r < ROUNDS; ++r) {
        four[r].load(p, item, own + r * ROUND, all);
    }
    if (threadIdx.x < CTA_ELEMENTS / 32) {
        const uint32_t group = static_cast<uint32_t>((item.first + start) >> 5) + threadIdx.x;
        const uint4 random = call<PHILOX_ROUNDS>(p.source.draw, item.tensor, group);
        rounders.put(threadIdx.x, random);
        lowers.of_group[threadIdx.x] = shared_bits(random) & 0x7fu;
    }
    if (skipped(p.source)) {
        return;
    }
#pragma unroll
    for (uint32_t r = 0; r < ROUNDS; ++r) {
        four[r].update(p, item, own + r * ROUND, all, rounders, lowers);
    }
}

template <class E>
__device__ __forceinline__ void update(const UpdateAdamW8& p, const AdamW8Item& item) {
    __shared__ Rounders rounders;
    __shared__ Lowers lowers;
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_ELEMENTS;
    const bool dense = item.scales == nullptr;
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(item.weights) << (E::SIZE == 2 ? 1 : 0) |
                                reinterpret_cast<uintptr_t>(item.moments) << 1 |
                                (dense ? reinterpret_cast<uintptr_t>(item.gradient) : 0);
    const bool all = whole(start, CTA_ELEMENTS, item.n, addresses, 16);
    if (dense) {
        update<E, true>(p, item, start, all, rounders, lowers);
    } else {
        update<E, false>(p, item, start, all, rounders, lowers);
    }
}

// Eight CTAs on an SM, for 64 registers a thread.
#define KERNEL(E, N)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) update_adamw_8bit_##E##_##N(                                  \
        const __grid_constant__ UpdateAdamW8 p, const __grid_constant__ TABLE_##N<AdamW8Item> table) {                     \
        update<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                                                \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) update_adamw_8bit_following_##E##_##N(                        \
        const __grid_constant__ UpdateAdamW8 given, const __grid_constant__ TABLE_##N<AdamW8Item> table) {                 \
        __shared__ UpdateAdamW8 p;                                                                                         \
        if (follow(given, p)) {                                                                                            \
            update<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                                            \
        }                                                                                                                  \
    }
KERNEL(f32, one)
KERNEL(f32, many)
KERNEL(bf16, one)
KERNEL(bf16, many)
