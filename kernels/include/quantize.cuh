// The bodies of the quantize kernels.
#pragma once
#include "block.cuh"
#include "item.cuh"
#include "scale.cuh"
#include "sum.cuh"
#include "trit.cuh"

struct QuantizeBlock {
    Draw draw;
    uint32_t block_shift;  // log2 of the block
    uint32_t pad;
};

// One pair of plane words.
template <bool FAST>
__device__ __forceinline__ void store_planes(void* words, uint64_t pair, uint32_t plus, uint32_t minus) {
    uint32_t* to = static_cast<uint32_t*>(words) + 2 * pair;
    if (FAST) {
        __stcs(reinterpret_cast<uint2*>(to), make_uint2(plus, minus));
    } else {
        to[0] = plus;
        to[1] = minus;
    }
}

// Tiles of 4096 elements that a CTA of the one-pass kernels works on, one after the other with all loads first. For
// 16-bit elements one tile is over too soon for the start of a CTA and the latency of its loads to be hidden: measured
// on an H200, bf16, 1, 2 and 4 tiles: 82, 93 and 96% of copy speed.
template <class E>
constexpr int TILES = E::SIZE == 4 ? 2 : 4;

template <class E, bool FAST>
__device__ __forceinline__ void quantize_block_stochastic_tile(const QuantizeBlock& p, const Item& item, const Place& at,
                                                               const Flight<E>& flight, Stage<E>& stage) {
    const uint4 random = call(p.draw, item.tensor, at.group);
    end<E, FAST>(item.x, at, item.n, flight, stage);
    uint32_t w[E::WORDS];
    stage.take(w);
    const uint32_t signs = sign_plane<E>(w);
    uint32_t raw = raw_max<E>(w);
    if (__any_sync(ALL, raw >= E::LIMIT)) {
        scrub<E>(stage, item.first + at.own, item.report);
        stage.take(w);
        raw = raw_max<E>(w);
    }

    const uint32_t lanes = 1u << (p.block_shift - 5);
    const uint32_t s = stochastic_scale(block_max(E::to_f32(raw), lanes));
    const uint32_t kept = keep<E>(w, s, expand(random));
    if (at.inside) {
        store_planes<FAST>(item.a, at.own >> 5, kept & ~signs, kept & signs);
        if ((threadIdx.x & (lanes - 1)) == 0) {
            static_cast<uint16_t*>(item.b)[at.own >> p.block_shift] = static_cast<uint16_t>(s >> 16);
        }
    }
}

template <class E>
__device__ __forceinline__ void quantize_block_stochastic(const QuantizeBlock& p, const Item& item) {
    __shared__ Stage<E> stages[WARPS];
    Stage<E>& stage = stages[warp_id()];
    const uint64_t start = cta_start<TILES<E>>(item);
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(item.x) | reinterpret_cast<uintptr_t>(item.a) << 1;
    if (whole(start, TILES<E> * CTA_TILE, item.n, addresses, 16)) {
        Flight<E> flight[TILES<E>];
        Place at[TILES<E>];
#pragma unroll
        for (int t = 0; t < TILES<E>; ++t) {
            at[t] = place<true>(item, start + t * CTA_TILE);
            begin<E, true>(item.x, at[t], flight[t]);
        }
#pragma unroll
        for (int t = 0; t < TILES<E>; ++t) {
            __syncwarp();
            quantize_block_stochastic_tile<E, true>(p, item, at[t], flight[t], stage);
        }
    } else {
        for (int t = 0; t < TILES<E> && start + t * CTA_TILE < item.n; ++t) {
            __syncwarp();
            quantize_block_stochastic_tile<E, false>(p, item, place<false>(item, start + t * CTA_TILE), Flight<E>(), stage);
        }
    }
}

struct QuantizeBlockThreshold {
    uint32_t threshold;    // magnitude bits: the threshold itself, or the factor of the mean
    uint32_t of_mean;      // whether it is a factor
    uint32_t block_shift;  // log2 of the block
    uint32_t pad;
};

template <class E, bool FAST>
__device__ __forceinline__ void quantize_block_threshold_tile(const QuantizeBlockThreshold& p, const Item& item, const Place& at,
                                                              const Flight<E>& flight, Stage<E>& stage) {
    end<E, FAST>(item.x, at, item.n, flight, stage);

    uint32_t w[E::WORDS];
    stage.take(w);
    uint32_t raw = raw_max<E>(w);
    if (__any_sync(ALL, raw >= E::LIMIT)) {
        scrub<E>(stage, item.first + at.own, item.report);
        stage.take(w);
        raw = raw_max<E>(w);
    }

    const uint32_t lanes = 1u << (p.block_shift - 5);
    const uint32_t exponent = chunk_exponent(block_max(E::to_f32(raw), lanes));
    uint32_t t = p.threshold;
    if (p.of_mean) {
        const uint32_t total = block_sum(sum_fixed<E>(w, exponent), lanes);
        const uint64_t block = at.own >> p.block_shift << p.block_shift;
        const uint64_t count = FAST ? 1u << p.block_shift : min(item.n - min(item.n, block), uint64_t(1) << p.block_shift);
        const bool full = FAST || count == uint64_t(1) << p.block_shift;
        const uint32_t of_block = full ? mean_of_full_block(total, exponent, p.block_shift) : mean(Sum{total, exponent, count});
        t = mul_trunc(p.threshold, of_block);
    }
    uint32_t total;
    const uint32_t kept = keep_above<E>(w, t, exponent, total);
    const uint32_t signs = sign_plane<E>(w);
    total = block_sum(total, lanes);
    const uint32_t count = block_sum(__popc(kept), lanes);
    if (at.inside) {
        store_planes<FAST>(item.a, at.own >> 5, kept & ~signs, kept & signs);
        if ((threadIdx.x & (lanes - 1)) == 0) {
            static_cast<uint16_t*>(item.b)[at.own >> p.block_shift] =
                static_cast<uint16_t>(mean_bf16_of_block(total, exponent, count) >> 16);
        }
    }
}

template <class E>
__device__ __forceinline__ void quantize_block_threshold(const QuantizeBlockThreshold& p, const Item& item) {
    __shared__ Stage<E> stages[WARPS];
    Stage<E>& stage = stages[warp_id()];
    const uint64_t start = cta_start<TILES<E>>(item);
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(item.x) | reinterpret_cast<uintptr_t>(item.a) << 1;
    if (whole(start, TILES<E> * CTA_TILE, item.n, addresses, 16)) {
        Flight<E> flight[TILES<E>];
        Place at[TILES<E>];
#pragma unroll
        for (int t = 0; t < TILES<E>; ++t) {
            at[t] = place<true>(item, start + t * CTA_TILE);
            begin<E, true>(item.x, at[t], flight[t]);
        }
#pragma unroll
        for (int t = 0; t < TILES<E>; ++t) {
            __syncwarp();
            quantize_block_threshold_tile<E, true>(p, item, at[t], flight[t], stage);
        }
    } else {
        for (int t = 0; t < TILES<E> && start + t * CTA_TILE < item.n; ++t) {
            __syncwarp();
            quantize_block_threshold_tile<E, false>(p, item, place<false>(item, start + t * CTA_TILE), Flight<E>(), stage);
        }
    }
}

struct QuantizeBlockClip {
    Draw draw;
    uint32_t sigmas;       // f32 bits of c
    uint32_t block_shift;  // log2 of the block
};

// Stochastic with clipping at c sigma: not a path of speed, so every tile takes the careful one.
template <class E>
__device__ __forceinline__ void quantize_block_clip(const QuantizeBlockClip& p, const Item& item) {
    __shared__ Stage<E> stages[WARPS];
    Stage<E>& stage = stages[warp_id()];
    const Place at = place<false>(item, cta_start(item));
    Flight<E> flight;
    end<E, false>(item.x, at, item.n, flight, stage);
    const uint4 random = call(p.draw, item.tensor, at.group);

    uint32_t w[E::WORDS];
    stage.take(w);
    uint32_t raw = raw_max<E>(w);
    if (__any_sync(ALL, raw >= E::LIMIT)) {
        scrub<E>(stage, item.first + at.own, item.report);
        stage.take(w);
        raw = raw_max<E>(w);
    }

    const uint32_t lanes = 1u << (p.block_shift - 5);
    const uint32_t max_of_block = magnitude(block_max(E::to_f32(raw), lanes));
    const uint32_t exponent = chunk_exponent(max_of_block);
    int32_t first;
    uint64_t second;
    sum_moments<E>(w, exponent, first, second);
    first = static_cast<int32_t>(block_sum(static_cast<uint32_t>(first), lanes));
    second = join_block(second, lanes, Add<uint64_t>());
    const uint64_t block = at.own >> p.block_shift << p.block_shift;
    const uint64_t count = min(item.n - min(item.n, block), uint64_t(1) << p.block_shift);
    const uint32_t t = clip(Moments{first, second, exponent, count}, p.sigmas);
    const uint32_t limit = t == 0 ? 0x7f7fffffu : t;
    const uint32_t s = stochastic_scale(min(max_of_block, limit));
    uint32_t clipped;
    const uint32_t kept = keep_clipped<E>(w, s, limit, expand(random), clipped);
    const uint32_t signs = sign_plane<E>(w);
    if (at.inside) {
        store_planes<false>(item.a, at.own >> 5, kept & ~signs, kept & signs);
        if ((threadIdx.x & (lanes - 1)) == 0) {
            static_cast<uint16_t*>(item.b)[at.own >> p.block_shift] = static_cast<uint16_t>(s >> 16);
        }
    }
    if (__any_sync(ALL, clipped != 0)) {
        report(item.report, 0, ~0ull, clipped);
    }
}
