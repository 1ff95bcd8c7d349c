// Exact accumulation: the trit of each weighted element under a scale fixed for the window is added to a count.
#pragma once
#include "accumulate.cuh"
#include "pack.cuh"

struct AccumulateExact {
    Draw draw;
    uint32_t weight;       // f32 bits, a subnormal already 0
    uint32_t block_shift;  // log2 of the block
    uint32_t headroom;     // f32 bits of what gives a block that is seen for the first time its scale; 0: nothing does
    uint32_t pad;
};

// One tensor to accumulate exactly.
struct ExactItem {
    const void* gradient;
    uint32_t* counts;
    uint16_t* scales;
    uint16_t* seen;
    Report* report;
    uint64_t n;
    uint64_t first;
    uint32_t tensor;
    uint32_t begin;
};

// Element by element, for a tile in which a product is out of range or above its scale: counts them, and zeroes the
// elements whose product is out of range. Returns the largest product that is left. `scale`: what is clipped lies above
// it; 0xffffffff where nothing is.
template <class E>
__device__ __noinline__ uint32_t inspect(Stage<E>& stage, uint32_t weight, uint32_t scale, uint64_t index, Report* to) {
    const int lane = lane_id();
    uint32_t found = 0, clipped = 0, max = 0;
    uint64_t first = ~0ull;
    for (int e = 0; e < 32; ++e) {
        const uint32_t m = magnitude(weighted(E::to_f32(stage.at(lane, e)), weight));
        if (out_of_range(m)) {
            stage.at(lane, e) = 0;
            found += 1;
            first = min(first, index + e);
        } else {
            clipped += m > scale ? 1 : 0;
            max = m > max ? m : max;
        }
    }
    report(to, found, first, clipped);
    return max;
}

// The largest |weight x| of a lane: rounding is monotone, so it comes from the largest |x|.
template <class E>
__device__ __forceinline__ uint32_t max_product(const uint32_t (&w)[E::WORDS], uint32_t weight) {
    return magnitude(weighted(E::to_f32(raw_max<E>(w)), weight));
}

// keep() for weight x.
template <class E>
__device__ __forceinline__ uint32_t keep_weighted(const uint32_t (&w)[E::WORDS], float weight, uint32_t s, const Draws& d) {
    const float scale = __uint_as_float(s);
    uint32_t kept = 0;
#pragma unroll
    for (int e = 31; e >= 0; --e) {
        const float product = weighted_fast(value<E>(w, e), weight);
        kept = __funnelshift_l(__float_as_uint(__fmaf_rn(unit(d, e), scale, -fabsf(product))), kept, 1);
    }
    return s == 0 ? 0u : kept;
}

// The largest product in range of a lane that holds one out of range.
template <class E>
__device__ __noinline__ uint32_t max_in_range(Stage<E>& stage, uint32_t weight) {
    uint32_t max = 0;
    for (int e = 0; e < 32; ++e) {
        const uint32_t m = magnitude(weighted(E::to_f32(stage.at(lane_id(), e)), weight));
        max = out_of_range(m) || m < max ? max : m;
    }
    return max;
}

// Gives each block that is seen for the first time, which is one whose scale is 0, a scale from this micro-batch. Every thread
// of the CTA takes part where blocks are longer than a warp's tile.
template <class E, int BITS>
__device__ __forceinline__ uint32_t first_scale(const AccumulateExact& p, const ExactItem& item, const Place& at, Stage<E>& stage,
                                                uint32_t max, uint32_t s) {
    const uint32_t lanes = 1u << (p.block_shift - 5);
    if (__any_sync(ALL, out_of_range(max))) {
        max = max_in_range<E>(stage, p.weight);
    }
    const uint32_t of_block = stochastic_scale(block_max(max, lanes));
    if (s == 0) {
        s = count_scale(BITS, of_block, p.headroom);
        if (at.inside && (threadIdx.x & (lanes - 1)) == 0) {
            item.scales[at.own >> p.block_shift] = static_cast<uint16_t>(s >> 16);
        }
    }
    return s;
}

template <class E, int BITS, bool FAST>
__device__ __forceinline__ void accumulate_exact_tile(const AccumulateExact& p, const ExactItem& item, Stage<E>& stage) {
    const Place at = place<FAST>(item, cta_start(item));
    Flight<E> flight;
    begin<E, FAST>(item.gradient, at, flight);
    uint32_t counts[BITS] = {};
    uint32_t s = 0, before = 0;
    const uint64_t block = at.own >> p.block_shift;
    uint16_t* const seen = item.seen + block;
    if (at.inside) {
        load_words<BITS, FAST>(item.counts, at.own >> 5, counts);
        s = static_cast<uint32_t>(item.scales[block]) << 16;
        before = *seen;
    }
    const uint4 random = call(p.draw, item.tensor, at.group);
    end<E, FAST>(item.gradient, at, item.n, flight, stage);

    uint32_t w[E::WORDS];
    stage.take(w);
    uint32_t max = max_product<E>(w, p.weight);
    if (p.headroom) {
        const bool unseen = at.inside && s == 0;
        if (p.block_shift > 10 ? __syncthreads_or(unseen) : __any_sync(ALL, unseen)) {
            s = first_scale<E, BITS>(p, item, at, stage, max, s);
        }
    }
    if (__any_sync(ALL, max > s || out_of_range(max))) {
        max = inspect<E>(stage, p.weight, s, item.first + at.own, item.report);
        stage.take(w);
    }

    const uint32_t lanes = 1u << (p.block_shift - 5);
    const uint32_t now = stochastic_scale(block_max(max, lanes)) >> 16;
    if (at.inside && (threadIdx.x & (lanes - 1)) == 0 && now > before) {
        *seen = static_cast<uint16_t>(now);
    }

    const Draws d = expand(random);
    // A scale given by the caller may lie below those that keep() is made for.
    const bool plain = p.weight == 0x3f800000u && (s == 0 || s >= ZERO_LIMIT);
    const uint32_t kept = plain ? keep<E>(w, s, d) : keep_weighted<E>(w, __uint_as_float(p.weight), s, d);
    const uint32_t signs = sign_plane<E>(w) ^ (p.weight >> 31 ? 0xffffffffu : 0u);
    const uint32_t plus = kept & ~signs, minus = kept & signs;
    constexpr int PER = 32 / BITS;
#pragma unroll
    for (int i = 0; i < BITS; ++i) {
        // +1 is field 1, -1 the field of all ones.
        const uint32_t step = spread_to_fields<BITS>(plus >> (PER * i)) +
                              spread_to_fields<BITS>(minus >> (PER * i)) * ((1u << BITS) - 1);
        counts[i] = add_fields<BITS>(counts[i], step);
    }
    if (at.inside) {
        store_words<BITS, FAST>(item.counts, at.own >> 5, counts);
    }
}

template <class E, int BITS>
__device__ __forceinline__ void accumulate_exact(const AccumulateExact& p, const ExactItem& item) {
    __shared__ Stage<E> stages[WARPS];
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(item.gradient) | reinterpret_cast<uintptr_t>(item.counts);
    if (whole(cta_start(item), CTA_TILE, item.n, addresses, 16)) {
        accumulate_exact_tile<E, BITS, true>(p, item, stages[warp_id()]);
    } else {
        accumulate_exact_tile<E, BITS, false>(p, item, stages[warp_id()]);
    }
}
