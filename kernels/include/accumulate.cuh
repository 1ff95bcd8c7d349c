// The bodies of the accumulate kernels.
#pragma once
#include "block.cuh"
#include "item.cuh"
#include "round.cuh"
#include "trit.cuh"

// One tensor to accumulate adaptively.
struct AdaptiveItem {
    const void* gradient;
    uint32_t* levels;
    uint16_t* scales;
    Report* report;
    uint64_t n;
    uint64_t first;
    uint32_t tensor;
    uint32_t begin;
};

struct AccumulateAdaptive {
    Draw draw;
    uint32_t weight;       // f32 bits, a subnormal already 0
    uint32_t block_shift;  // log2 of the block
    uint32_t exponent;     // the bits of 2^23: see level_in_place and levels_in_pairs
    uint32_t sixteen;      // 16: see fields_of
};

// A lane's COUNT words of levels or counts.
template <int COUNT, bool FAST>
__device__ __forceinline__ void load_words(const void* from, uint64_t group, uint32_t (&w)[COUNT]) {
    const uint32_t* src = static_cast<const uint32_t*>(from) + COUNT * group;
    if (FAST && COUNT % 4 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT / 4; ++i) {
            const uint4 v = reinterpret_cast<const uint4*>(src)[i];
            w[4 * i % COUNT] = v.x;
            w[(4 * i + 1) % COUNT] = v.y;
            w[(4 * i + 2) % COUNT] = v.z;
            w[(4 * i + 3) % COUNT] = v.w;
        }
    } else if (FAST && COUNT == 2) {
        const uint2 v = *reinterpret_cast<const uint2*>(src);
        w[0] = v.x;
        w[1 % COUNT] = v.y;
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            w[i] = src[i];
        }
    }
}

template <int COUNT, bool FAST>
__device__ __forceinline__ void store_words(void* to, uint64_t group, const uint32_t (&w)[COUNT]) {
    uint32_t* dst = static_cast<uint32_t*>(to) + COUNT * group;
    if (FAST && COUNT % 4 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT / 4; ++i) {
            reinterpret_cast<uint4*>(dst)[i] = make_uint4(w[4 * i % COUNT], w[(4 * i + 1) % COUNT],
                                                          w[(4 * i + 2) % COUNT], w[(4 * i + 3) % COUNT]);
        }
    } else if (FAST && COUNT == 2) {
        *reinterpret_cast<uint2*>(dst) = make_uint2(w[0], w[1 % COUNT]);
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            dst[i] = w[i];
        }
    }
}

// A lane's words of levels in whole pieces. Written out, for where a loop moves the place on the compiler no longer knows that it is
// device memory. No other access of the CTA touches these words between the two, so the load names no memory that it clobbers.
template <int COUNT>
__device__ __forceinline__ void load_pieces(const void* from, uint32_t (&w)[COUNT]) {
    static_assert(COUNT % 4 == 0);
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
        asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(w[i]), "=r"(w[i + 1]), "=r"(w[i + 2]), "=r"(w[i + 3])
                     : "l"(static_cast<const char*>(from) + 4 * i));
    }
}

template <int COUNT>
__device__ __forceinline__ void store_pieces(void* to, const uint32_t (&w)[COUNT]) {
    static_assert(COUNT % 4 == 0);
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
        asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
                     :
                     : "l"(static_cast<char*>(to) + 4 * i), "r"(w[i]), "r"(w[i + 1]), "r"(w[i + 2]), "r"(w[i + 3])
                     : "memory");
    }
}

// The largest magnitude among a lane's 32 values (of any kind, NaN the largest).
__device__ __forceinline__ uint32_t max_magnitude(const float (&v)[32]) {
    uint32_t w[32];
#pragma unroll
    for (int e = 0; e < 32; ++e) {
        w[e] = __float_as_uint(v[e]);
    }
    return raw_max<F32>(w);
}

// The same in one instruction an element and fewer in all, each waiting for the one before: measured faster all the same.
__device__ __forceinline__ uint32_t max_magnitude_in_turn(const float (&v)[32]) {
#if __CUDA_ARCH__ >= 800
    float m = fabsf(v[0]);
#pragma unroll
    for (int e = 1; e < 32; ++e) {
        asm("max.NaN.f32 %0, %0, %1;" : "+f"(m) : "f"(fabsf(v[e])));
    }
    return __float_as_uint(m);
#else
    return max_magnitude(v);
#endif
}

// The levels of a warp, for tiles in which something may be out of range.
template <int BITS>
struct Careful {
    uint32_t levels[BITS][32];
};

// The sums of a tile in which something may be out of range: exact, element by element, with a report. Levels of 2 bits
// come as a plus and a minus word. Loops index `v`, so that it lies in local memory; in shared memory it would keep CTAs
// off the SM that never get here.
template <class E, int BITS>
__device__ __noinline__ void sum_carefully(Stage<E>& stage, Careful<BITS>& shared, uint32_t s, uint32_t weight, uint64_t index,
                                           Report* to, float* v) {
    constexpr int PER = 32 / BITS;
    uint32_t count = 0;
    uint64_t first = ~0ull;
    const int lane = lane_id();
    for (int e = 0; e < 32; ++e) {
        const int shift = BITS * (e % PER);
        const int32_t level =
            BITS == 2 ? static_cast<int32_t>(shared.levels[0][lane] >> e & 1) - static_cast<int32_t>(shared.levels[1][lane] >> e & 1)
                      : static_cast<int32_t>(shared.levels[e / PER][lane] << (32 - BITS - shift)) >> (32 - BITS);
        const uint32_t product = weighted(E::to_f32(stage.at(lane, e)), weight);
        bool found;
        v[e] = __uint_as_float(sum(level, s, product, found));
        if (found) {
            count += 1;
            first = min(first, index + e);
        }
    }
    report(to, count, first, 0);
}

// Levels of 4 or 8 bits: v = l s + p for each element, the block's new scale, and every v rounded to a level under it.
// `to`, `scale`: where the lane's words and its block's scale lie; `index()`: the index in the tensor of its first element.
template <class E, int BITS, bool FAST, class Index>
__device__ __forceinline__ void accumulate_adaptive_fields(const AccumulateAdaptive& p, void* to, uint16_t* scale, bool inside,
                                                           Index index, Report* report, Stage<E>& stage,
                                                           uint32_t (&words)[BITS], uint32_t s, uint4 random,
                                                           Careful<BITS>& shared) {
    float v[32];
    {
        uint32_t x[E::WORDS];
        stage.take_by_address(x);
        // Levels, each times a power of two that its unit takes back: exact.
        float level[32], unit_of[PER_HALF<BITS>];
        constexpr bool PAIRS = BITS == 4 && E::SIZE == 2;
#pragma unroll
        for (int j = 0; j < PER_HALF<BITS>; ++j) {
            unit_of[j] = __fmul_rn(__uint_as_float(s), 1.0f / (1 << (BITS * (PAIRS ? j % 2 : j))));
        }
        const uint32_t exponent = p.exponent;
        if constexpr (PAIRS) {
            const uint32_t even = exponent + (0x64086408u - 0x4b000000u), odd = exponent + (0x64806480u - 0x4b000000u);
#pragma unroll
            for (int i = 0; i < BITS; ++i) {
                levels_in_pairs(words[i], even, odd, level + 8 * i);
            }
        } else {
            uint32_t biased[BITS];
#pragma unroll
            for (int i = 0; i < BITS; ++i) {
                biased[i] = words[i] ^ TOPS<BITS>;
            }
#pragma unroll
            for (int e = 0; e < 32; ++e) {
                level[e] = level_in_place<BITS>(biased, e, exponent);
            }
        }
        if (p.weight == 0x3f800000u) {
#pragma unroll
            for (int e = 0; e < 32; ++e) {
                v[e] = __fmaf_rn(level[e], unit_of[e % PER_HALF<BITS>], value<E>(x, e));
            }
        } else {
            const float weight = __uint_as_float(p.weight);
#pragma unroll
            for (int e = 0; e < 32; ++e) {
                v[e] = __fmaf_rn(level[e], unit_of[e % PER_HALF<BITS>], weighted_fast(value<E>(x, e), weight));
            }
        }
    }
    uint32_t max = max_magnitude_in_turn(v);
    // |l s| stays below 2^124 unless s is 2^117 or more, so a p out of range shows in |v|.
    constexpr uint32_t CLOSE = 0x7e000000u, LARGE = 0x7a000000u;
    if (__any_sync(ALL, max >= CLOSE || s >= LARGE)) {
        const int lane = lane_id();
#pragma unroll
        for (int i = 0; i < BITS; ++i) {
            shared.levels[i][lane] = words[i];
        }
        float sums[32];
        sum_carefully<E, BITS>(stage, shared, s, p.weight, index(), report, sums);
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            v[e] = sums[e];
        }
        max = max_magnitude(v);
    }

    const uint32_t lanes = 1u << (p.block_shift - 5);
    constexpr uint32_t L_MAX = (1u << (BITS - 1)) - 1;
    const uint32_t new_s = level_scale<L_MAX>(block_max(max, lanes));
    if (inside && (threadIdx.x & (lanes - 1)) == 0) {
        *scale = static_cast<uint16_t>(new_s >> 16);
    }
    const Rounding by = rounding(new_s);
    if (__any_sync(ALL, round_all<BITS>(v, by, random, p.sixteen, words))) {
        round_all_exactly<BITS>(v, new_s, random, words);
    }
    if constexpr (FAST) {
        store_pieces<BITS>(to, words);
    } else if (inside) {
        store_words<BITS, false>(to, 0, words);
    }
}

// Levels of 2 bits are trits: the sum is quantized as a gradient is, under the scale of its maximum.
template <class E, bool FAST>
__device__ __forceinline__ void accumulate_adaptive_planes(const AccumulateAdaptive& p, const AdaptiveItem& item, const Place& at,
                                                           Stage<E>& stage, uint32_t (&words)[2], uint32_t s, uint4 random,
                                                           Careful<2>& shared) {
    uint16_t* const scale = item.scales + (at.own >> p.block_shift);
    const uint32_t plus = words[0] & ~words[1], minus = words[1] & ~words[0];
    float v[32];
    {
        uint32_t x[E::WORDS];
        stage.take(x);
        const float held = __uint_as_float(s), weight = __uint_as_float(p.weight);
        if (p.weight == 0x3f800000u) {
#pragma unroll
            for (int e = 0; e < 32; ++e) {
                v[e] = value<E>(x, e);
            }
        } else {
#pragma unroll
            for (int e = 0; e < 32; ++e) {
                v[e] = weighted_fast(value<E>(x, e), weight);
            }
        }
        // A sum with +0, which is left out, would differ in the sign of a zero alone, and that is never kept.
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            if (plus >> e & 1) {
                v[e] = __fadd_rn(v[e], held);
            }
            if (minus >> e & 1) {
                v[e] = __fsub_rn(v[e], held);
            }
        }
    }
    uint32_t max = max_magnitude_in_turn(v);
    constexpr uint32_t CLOSE = 0x7e000000u, LARGE = 0x7a000000u;
    if (__any_sync(ALL, max >= CLOSE || s >= LARGE)) {
        const int lane = lane_id();
        shared.levels[0][lane] = plus;
        shared.levels[1][lane] = minus;
        float sums[32];
        sum_carefully<E, 2>(stage, shared, s, p.weight, item.first + at.own, item.report, sums);
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            v[e] = sums[e];
        }
        max = max_magnitude_in_turn(v);
    }

    const uint32_t lanes = 1u << (p.block_shift - 5);
    const uint32_t new_s = stochastic_scale(block_max(max, lanes));
    uint32_t w[32];
#pragma unroll
    for (int e = 0; e < 32; ++e) {
        w[e] = __float_as_uint(v[e]);
    }
    const uint32_t kept = keep<F32>(w, new_s, expand(random)), signs = sign_plane<F32>(w);
    if (at.inside) {
        words[0] = kept & ~signs;
        words[1] = kept & signs;
        store_words<2, FAST>(item.levels, at.own >> 5, words);
        if ((threadIdx.x & (lanes - 1)) == 0) {
            *scale = static_cast<uint16_t>(new_s >> 16);
        }
    }
}

template <class E, int BITS, bool FAST>
__device__ __forceinline__ void accumulate_adaptive_staged(const AccumulateAdaptive& p, const AdaptiveItem& item, const Place& at,
                                                           Stage<E>& stage, uint32_t (&words)[BITS], uint32_t s,
                                                           uint4 random, Careful<BITS>& shared) {
    if constexpr (BITS == 2) {
        accumulate_adaptive_planes<E, FAST>(p, item, at, stage, words, s, random, shared);
    } else {
        accumulate_adaptive_fields<E, BITS, FAST>(
            p, item.levels + BITS * (at.own >> 5),
            item.scales + (at.own >> p.block_shift), at.inside,
            [&] { return item.first + at.own; }, item.report, stage, words, s, random, shared);
    }
}

// One tile: loads, then the work on what is staged.
template <class E, int BITS, bool FAST>
__device__ __forceinline__ void accumulate_adaptive_tile(const AccumulateAdaptive& p, const AdaptiveItem& item, uint64_t start,
                                                         Stage<E>& stage, Careful<BITS>& shared) {
    const Place at = place<FAST>(item, start);
    Flight<E> flight;
    begin<E, FAST>(item.gradient, at, flight);
    uint32_t words[BITS] = {};
    uint32_t s = 0;
    if (at.inside) {
        load_words<BITS, FAST>(item.levels, at.own >> 5, words);
        s = static_cast<uint32_t>(item.scales[at.own >> p.block_shift]) << 16;
    }
    const uint4 random = call(p.draw, item.tensor, at.group);
    end<E, FAST>(item.gradient, at, item.n, flight, stage);
    accumulate_adaptive_staged<E, BITS, FAST>(p, item, at, stage, words, s, random, shared);
}

// Tiles of 4096 elements that a CTA of accumulate_adaptive takes, one after the other. Fields of 16-bit elements are short of
// arithmetic, and then the start of a CTA counts; elsewhere one tile is faster, by 3% in f32.
template <class E, int BITS>
constexpr int ADAPTIVE_TILES = E::SIZE == 2 && BITS > 2 ? 4 : 1;

// CTAs that an SM shall hold at once; more would cost registers.
template <class E, int BITS>
constexpr int ADAPTIVE_CTAS = ADAPTIVE_TILES<E, BITS> == 1 ? 5 : BITS == 4 ? 7 : 6;

// Several tiles: `accumulate_adaptive_tile` with places that move on. These are the same for all threads, and what a thread adds to
// them stays; so whole tiles need an item's fields once a CTA, where in a list each tile waited for its row.
template <class E, int BITS>
__device__ __forceinline__ void accumulate_adaptive_tiles(const AccumulateAdaptive& p, const AdaptiveItem& item, Stage<E>& stage,
                                                          Careful<BITS>& shared) {
    constexpr int T = ADAPTIVE_TILES<E, BITS>;
    const uint64_t start = cta_start<T>(item);
    const char* x = static_cast<const char*>(item.gradient) + start * E::SIZE;
    char* a = reinterpret_cast<char*>(item.levels) + start / 8 * BITS;
    uint16_t* b = item.scales + (start >> p.block_shift);
    uint32_t group = static_cast<uint32_t>((item.first + start) >> 5);
    const auto many = [&] { return static_cast<uint32_t>(min(item.n - start, static_cast<uint64_t>(T * CTA_TILE))); };
    uint32_t left = many();
    const auto index = [&] { return item.first + start + (many() - left); };
    const bool aligned = ((reinterpret_cast<uintptr_t>(item.gradient) | reinterpret_cast<uintptr_t>(item.levels)) & 15) == 0;
    const Opening opening = open(p.draw, item.tensor);
    const uint32_t of_x = warp_id() * (TILE * E::SIZE) + lane_id() * 16, of_a = threadIdx.x * (4 * BITS);
#pragma unroll 1
    for (;;) {
        if (aligned && left >= CTA_TILE) {
            const uint4* const from = reinterpret_cast<const uint4*>(x + of_x);
            uint16_t* const scale = b + (threadIdx.x >> (p.block_shift - 5));
            Flight<E> flight;
#pragma unroll
            for (int i = 0; i < E::PIECES; ++i) {
                flight.v[i] = __ldcs(from + 32 * i);
            }
            uint32_t words[BITS];
            load_pieces<BITS>(a + of_a, words);
            const uint32_t s = static_cast<uint32_t>(*scale) << 16;
            const uint4 random = call(p.draw, opening, group + threadIdx.x);
#pragma unroll
            for (int i = 0; i < E::PIECES; ++i) {
                stage.piece[Stage<E>::slot_of_piece(i, lane_id())] = flight.v[i];
            }
            __syncwarp();
            accumulate_adaptive_fields<E, BITS, true>(
                p, a + of_a, scale, true, [&] { return index() + 32 * threadIdx.x; }, item.report, stage, words, s, random, shared);
        } else {
            AdaptiveItem rest = item;
            rest.gradient = x;
            rest.levels = reinterpret_cast<uint32_t*>(a);
            rest.scales = b;
            rest.n = left;
            rest.first = index();
            accumulate_adaptive_tile<E, BITS, false>(p, rest, 0, stage, shared);
        }
        if (left <= CTA_TILE) {
            return;
        }
        left -= CTA_TILE;
        x += CTA_TILE * E::SIZE;
        a += CTA_TILE / 8 * BITS;
        b += CTA_TILE >> p.block_shift;
        group += CTA_TILE / 32;
        __syncwarp();
    }
}

template <class E, int BITS>
__device__ __forceinline__ void accumulate_adaptive(const AccumulateAdaptive& p, const AdaptiveItem& item) {
    __shared__ Stage<E> stages[WARPS];
    __shared__ Careful<BITS> careful[WARPS];
    Stage<E>& stage = stages[warp_id()];
    Careful<BITS>& shared = careful[warp_id()];
    if constexpr (ADAPTIVE_TILES<E, BITS> > 1) {
        accumulate_adaptive_tiles<E, BITS>(p, item, stage, shared);
    } else {
        const uintptr_t addresses = reinterpret_cast<uintptr_t>(item.gradient) | reinterpret_cast<uintptr_t>(item.levels);
        const uint64_t start = cta_start(item);
        if (whole(start, CTA_TILE, item.n, addresses, 16)) {
            accumulate_adaptive_tile<E, BITS, true>(p, item, start, stage, shared);
        } else {
            accumulate_adaptive_tile<E, BITS, false>(p, item, start, stage, shared);
        }
    }
}
