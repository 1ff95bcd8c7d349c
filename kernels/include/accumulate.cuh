// The bodies of the accumulate kernels.
#pragma once
#include "block.cuh"
#include "item.cuh"
#include "level.cuh"
#include "trit.cuh"

struct AccumulateAdaptive {
    Draw draw;
    uint32_t weight;       // f32 bits, a subnormal already 0
    uint32_t block_shift;  // log2 of the block
};

// A lane's COUNT words of levels or counts.
template <int COUNT>
__device__ __forceinline__ void load_words(const void* from, uint64_t group, uint32_t (&w)[COUNT]) {
    const uint32_t* src = static_cast<const uint32_t*>(from) + COUNT * group;
    if ((reinterpret_cast<uintptr_t>(from) & 15) == 0 && COUNT % 4 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT / 4; ++i) {
            const uint4 v = reinterpret_cast<const uint4*>(src)[i];
            w[4 * i % COUNT] = v.x;
            w[(4 * i + 1) % COUNT] = v.y;
            w[(4 * i + 2) % COUNT] = v.z;
            w[(4 * i + 3) % COUNT] = v.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            w[i] = src[i];
        }
    }
}

template <int COUNT>
__device__ __forceinline__ void store_words(void* to, uint64_t group, const uint32_t (&w)[COUNT]) {
    uint32_t* dst = static_cast<uint32_t*>(to) + COUNT * group;
    if ((reinterpret_cast<uintptr_t>(to) & 15) == 0 && COUNT % 4 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT / 4; ++i) {
            reinterpret_cast<uint4*>(dst)[i] = make_uint4(w[4 * i % COUNT], w[(4 * i + 1) % COUNT],
                                                          w[(4 * i + 2) % COUNT], w[(4 * i + 3) % COUNT]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            dst[i] = w[i];
        }
    }
}

// The largest magnitude among a lane's 32 values.
__device__ __forceinline__ uint32_t max_magnitude(const float (&v)[32]) {
    uint32_t m = 0;
#pragma unroll
    for (int e = 0; e < 32; e += 2) {
        m = __vimax3_u32(m, __float_as_uint(v[e]) & 0x7fffffffu, __float_as_uint(v[e + 1]) & 0x7fffffffu);
    }
    return m;
}

// Levels of 4 or 8 bits: v = l s + p for each element, the block's new scale, and every v rounded to a level under it.
template <class E, int BITS, int ROUNDS>
__device__ __forceinline__ void accumulate_adaptive_fields(const AccumulateAdaptive& p, const Item& item) {
    __shared__ Stage<E> stages[WARPS];
    Stage<E>& stage = stages[warp_id()];
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_TILE + warp_id() * TILE;
    const uint64_t own = start + 32 * lane_id();
    const uint64_t group = own >> 5;
    const bool inside = own < item.n;

    Flight<E> flight;
    const bool fast = whole<E>(item.x, start, item.n);
    if (fast) {
        begin<E>(item.x, start, flight);
    }
    uint32_t words[BITS] = {};
    uint32_t s = 0;
    uint16_t* const scale = static_cast<uint16_t*>(item.b) + (own >> p.block_shift);
    if (inside) {
        load_words<BITS>(item.a, group, words);
        s = static_cast<uint32_t>(*scale) << 16;
    }
    const uint4 random = call<ROUNDS>(p.draw, item.tensor, item.first + own);
    if (fast) {
        end<E>(flight, stage);
    } else {
        load_parts<E>(item.x, start, item.n, stage);
    }

    float v[32];
    uint32_t max;
    {
        uint32_t x[E::WORDS];
        stage.take(x);
        const float weight = __uint_as_float(p.weight);
        const bool plain = p.weight == 0x3f800000u;
        float unit_of[PER_HALF<BITS>];  // s 2^(-BITS j): exact
#pragma unroll
        for (int j = 0; j < PER_HALF<BITS>; ++j) {
            unit_of[j] = __uint_as_float(s) * (1.0f / (1 << (BITS * j)));
        }
#pragma unroll
        for (int i = 0; i < BITS; ++i) {
            words[i] ^= TOPS<BITS>;
        }
        if (plain) {
#pragma unroll
            for (int e = 0; e < 32; ++e) {
                v[e] = __fmaf_rn(level_in_place<BITS>(words, e), unit_of[e % PER_HALF<BITS>], value<E>(x, e));
            }
        } else {
#pragma unroll
            for (int e = 0; e < 32; ++e) {
                v[e] = __fmaf_rn(level_in_place<BITS>(words, e), unit_of[e % PER_HALF<BITS>],
                                 weighted_fast(value<E>(x, e), weight));
            }
        }
        max = max_magnitude(v);
        // |l s| stays below 2^124 unless s is 2^117 or more, so a p out of range shows in |v|.
        constexpr uint32_t NEAR = 0x7e000000u, LARGE = 0x7a000000u;
        if (__any_sync(ALL, max >= NEAR || s >= LARGE)) {
            uint32_t count = 0;
            uint64_t first = ~0ull;
#pragma unroll
            for (int i = 0; i < BITS; ++i) {
                words[i] ^= TOPS<BITS>;
            }
#pragma unroll
            for (int e = 0; e < 32; ++e) {
                bool found;
                const uint32_t product = weighted(__float_as_uint(value<E>(x, e)), p.weight);
                v[e] = __uint_as_float(sum(field<BITS>(words, e), s, product, found));
                if (found) {
                    count += 1;
                    first = first == ~0ull ? item.first + own + e : first;
                }
            }
            report(item.report, count, first, 0);
            max = max_magnitude(v);
        }
    }

    const uint32_t lanes = 1u << (p.block_shift - 5);
    constexpr uint32_t L_MAX = (1u << (BITS - 1)) - 1;
    uint32_t new_s = level_scale<L_MAX>(block_max(max, lanes));
    if (inside && (threadIdx.x & (lanes - 1)) == 0) {
        *scale = static_cast<uint16_t>(new_s >> 16);
    }
    const bool zero = new_s == 0;
    if (new_s >= 0x70000000u) {  // 2^97: the rounding grid would leave the range; what this flushes is below 2^-24 s
        new_s -= 32u << 23;
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            v[e] = __fmul_rn(v[e], 0x1p-32f);
        }
    }

    const Rounding by = rounding(new_s);
    const Draws d = expand(random);
    constexpr float EMPTY = 0x1p23f + static_cast<float>(TOPS<BITS> & 0xffffu);
#pragma unroll
    for (int i = 0; i < BITS; ++i) {
        float half[2] = {EMPTY, EMPTY};
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int j = 0; j < PER_HALF<BITS>; ++j) {
                const int e = (2 * i + h) * PER_HALF<BITS> + j;
                const float l = __fsub_rn(round_level(fabsf(v[e]), by, unit(d, e)), 0x1p23f);
                half[h] = __fmaf_rn(l, copysignf(static_cast<float>(1 << (BITS * j)), v[e]), half[h]);
            }
        }
        const uint32_t word = __byte_perm(__float_as_uint(half[0]), __float_as_uint(half[1]), 0x5410) ^ TOPS<BITS>;
        words[i] = zero ? 0u : word;
    }
    if (inside) {
        store_words<BITS>(item.a, group, words);
    }
}
