// Exact accumulation: the trit of each weighted element under a scale fixed for the window is added to a count.
#pragma once
#include "accumulate.cuh"
#include "pack.cuh"

struct AccumulateExact {
    Draw draw;
    uint32_t weight;       // f32 bits, a subnormal already 0
    uint32_t block_shift;  // log2 of the block
};

struct Look {
    uint32_t weight;
    uint32_t block_shift;
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

template <class E, int BITS, bool FAST>
__device__ __forceinline__ void accumulate_exact_tile(const AccumulateExact& p, const Item& item, Stage<E>& stage) {
    const Place at = place<FAST>(item, cta_start(item));
    Flight<E> flight;
    begin<E, FAST>(item.x, at, flight);
    uint32_t counts[BITS] = {};
    uint32_t s = 0, before = 0;
    const uint64_t block = at.own >> p.block_shift;
    uint16_t* const seen = static_cast<uint16_t*>(item.c) + block;
    if (at.inside) {
        load_words<BITS, FAST>(item.a, at.own >> 5, counts);
        s = static_cast<uint32_t>(static_cast<const uint16_t*>(item.b)[block]) << 16;
        before = *seen;
    }
    const uint4 random = call(p.draw, item.tensor, at.group);
    end<E, FAST>(item.x, at, item.n, flight, stage);

    uint32_t w[E::WORDS];
    stage.take(w);
    uint32_t max = max_product<E>(w, p.weight);
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
        store_words<BITS, FAST>(item.a, at.own >> 5, counts);
    }
}

template <class E, int BITS>
__device__ __forceinline__ void accumulate_exact(const AccumulateExact& p, const Item& item) {
    __shared__ Stage<E> stages[WARPS];
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(item.x) | reinterpret_cast<uintptr_t>(item.a);
    if (whole(cta_start(item), CTA_TILE, item.n, addresses, 16)) {
        accumulate_exact_tile<E, BITS, true>(p, item, stages[warp_id()]);
    } else {
        accumulate_exact_tile<E, BITS, false>(p, item, stages[warp_id()]);
    }
}

template <class E, bool FAST>
__device__ __forceinline__ void look_tile(const Look& p, const Item& item, Stage<E>& stage) {
    const Place at = place<FAST>(item, cta_start(item));
    Flight<E> flight;
    begin<E, FAST>(item.x, at, flight);
    end<E, FAST>(item.x, at, item.n, flight, stage);
    uint32_t w[E::WORDS];
    stage.take(w);
    uint32_t max = max_product<E>(w, p.weight);
    if (__any_sync(ALL, out_of_range(max))) {
        max = inspect<E>(stage, p.weight, 0xffffffffu, item.first + at.own, item.report);
    }
    const uint32_t lanes = 1u << (p.block_shift - 5);
    const uint32_t now = stochastic_scale(block_max(max, lanes)) >> 16;
    if (at.inside && (threadIdx.x & (lanes - 1)) == 0) {
        uint16_t* const seen = static_cast<uint16_t*>(item.a) + (at.own >> p.block_shift);
        if (now > *seen) {
            *seen = static_cast<uint16_t>(now);
        }
    }
}

template <class E>
__device__ __forceinline__ void look(const Look& p, const Item& item) {
    __shared__ Stage<E> stages[WARPS];
    if (whole(cta_start(item), CTA_TILE, item.n, reinterpret_cast<uintptr_t>(item.x), 16)) {
        look_tile<E, true>(p, item, stages[warp_id()]);
    } else {
        look_tile<E, false>(p, item, stages[warp_id()]);
    }
}
