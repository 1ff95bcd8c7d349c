// The bodies of the quantize kernels.
#pragma once
#include "block.cuh"
#include "item.cuh"
#include "scale.cuh"
#include "sum.cuh"
#include "trit.cuh"
#include "walk.cuh"

// One tensor to quantize.
struct QuantizeItem {
    const void* gradient;
    uint32_t* words;   // planes
    uint16_t* scales;
    void* scratch;     // groups and their chunks: see group.cuh
    Report* report;
    uint64_t n;
    uint64_t first;
    uint32_t tensor;
    uint32_t begin;
};

struct QuantizeBlock {
    Draw draw;
    uint32_t block_shift;  // log2 of the block
    uint32_t pad;
};

// One pair of plane words.
__device__ __forceinline__ void store_planes(const QuantizeItem& item, const Place& at, uint32_t plus, uint32_t minus) {
    uint32_t* const to = item.words + 2 * (at.own >> 5);
    if (at.fast) {
        __stcs(reinterpret_cast<uint2*>(to), make_uint2(plus, minus));
    } else if (at.inside) {
        to[0] = plus;
        to[1] = minus;
    }
}

// Elements of a lane's block, which at the end of a tensor may be shorter.
__device__ __forceinline__ uint64_t elements_of_block(uint32_t shift, uint64_t n, const Place& at) {
    const uint64_t block = at.own >> shift << shift, size = uint64_t(1) << shift;
    return at.fast ? size : min(n - min(n, block), size);
}

// The mean magnitude of a lane's block, from its sum of at most 2^32 units.
__device__ __forceinline__ uint32_t mean_of_block(uint32_t shift, uint64_t n, const Place& at, uint32_t total, uint32_t exponent) {
    const uint64_t count = elements_of_block(shift, n, at);
    return count == uint64_t(1) << shift ? mean_of_full_block(total, exponent, shift) : mean(Sum{total, exponent, count});
}

// The limit of a lane's block for clipping; 0: none.
__device__ __forceinline__ uint32_t clip_block(uint32_t shift, const Moments& m, uint32_t c) {
    if (m.count == uint64_t(1) << shift) {
        const uint64_t first = static_cast<uint64_t>(m.first < 0 ? -m.first : m.first);
        return mul_trunc(c, sigma_of(first >> shift, m.second >> shift, m.exponent));
    }
    return clip(m, c);
}

// Whether tiles of this item may be read and written in wide pieces.
__device__ __forceinline__ bool wide_planes(const QuantizeItem& item) {
    return ((reinterpret_cast<uintptr_t>(item.gradient) | reinterpret_cast<uintptr_t>(item.words) << 1) & 15) == 0;
}

// Reports and zeroes what is out of range among a lane's elements; returns the largest raw magnitude of the rest.
template <class E>
__device__ __forceinline__ uint32_t clean_max(const QuantizeItem& item, const Place& at, Stage<E>& stage, uint32_t (&w)[E::WORDS]) {
    uint32_t raw = raw_max<E>(w);
    if (__any_sync(ALL, raw >= E::LIMIT)) {
        scrub<E>(stage, item.first + at.own, item.report);
        stage.take(w);
        raw = raw_max<E>(w);
    }
    return raw;
}

// Tiles of 4096 elements that a CTA of the one-pass kernels works on, one after the other with all loads first. For
// 16-bit elements one tile is over too soon for the start of a CTA and the latency of its loads to be hidden: measured
// on an H200, bf16, 1, 2 and 4 tiles: 82, 93 and 96% of copy speed.
template <class E>
constexpr int TILES = E::SIZE == 4 ? 2 : 4;

// All loads of a CTA come first, through registers: a copy to shared memory costs the L2 more than a load does, and with a body as
// long as this and 16-bit elements that counts for more than the registers. The draws are made while the loads are under way, and
// what joins lanes is done for all tiles at once. What may be out of range, tails and what is not aligned go tile by tile.
template <class E>
__device__ __forceinline__ void quantize_block_stochastic(const QuantizeBlock& p, const QuantizeItem& item) {
    constexpr int T = TILES<E>;
    __shared__ Stage<E> stages[WARPS];
    Stage<E>& stage = stages[warp_id()];
    const uint32_t lanes = 1u << (p.block_shift - 5);
    const auto finish = [&](const Place& at, uint32_t raw, uint4 random, const uint32_t (&w)[E::WORDS]) {
        const uint32_t s = stochastic_scale(E::to_f32(raw)), signs = sign_plane<E>(w), kept = keep<E>(w, s, expand(random));
        store_planes(item, at, kept & ~signs, kept & signs);
        if (at.inside && (threadIdx.x & (lanes - 1)) == 0) {
            item.scales[at.own >> p.block_shift] = static_cast<uint16_t>(s >> 16);
        }
    };
    const uint64_t start = cta_start<T>(item);
    const bool aligned = wide_planes(item);
    if (aligned && start + T * CTA_TILE <= item.n) {
        Flight<E> flight[T];
        uint4 random[T];
        uint32_t w[T][E::WORDS], raw[T];
#pragma unroll
        for (int t = 0; t < T; ++t) {
            begin<E, true>(item.gradient, place(item, start + t * CTA_TILE, true), flight[t]);
        }
#pragma unroll
        for (int t = 0; t < T; ++t) {
            random[t] = call(p.draw, item.tensor, place(item, start + t * CTA_TILE, true).group);
        }
#pragma unroll
        for (int t = 0; t < T; ++t) {
            __syncwarp();
            end<E, true>(item.gradient, place(item, start + t * CTA_TILE, true), item.n, flight[t], stage);
            stage.take(w[t]);
            raw[t] = raw_max<E>(w[t]);
        }
        if (!block_max_of_tiles<T>(raw, lanes, E::LIMIT)) {
#pragma unroll
            for (int t = 0; t < T; ++t) {
                finish(place(item, start + t * CTA_TILE, true), raw[t], random[t], w[t]);
            }
            return;
        }
    }
#pragma unroll 1
    for (uint64_t from = start; from < min(start + T * CTA_TILE, item.n); from += CTA_TILE) {
        const Place at = place(item, from, aligned && from + CTA_TILE <= item.n);
        Flight<E> flight;
        if (at.fast) {
            begin<E, true>(item.gradient, at, flight);
        }
        const uint4 random = call(p.draw, item.tensor, at.group);
        __syncwarp();
        if (at.fast) {
            end<E, true>(item.gradient, at, item.n, flight, stage);
        } else {
            end<E, false>(item.gradient, at, item.n, flight, stage);
        }
        uint32_t w[E::WORDS];
        stage.take(w);
        const uint32_t raw = clean_max<E>(item, at, stage, w);
        finish(at, block_max(raw, lanes), random, w);
    }
}

// How the other kernels walk.
template <class E>
using QuantizeWalk = Walk<TILES<E>, TILES<E>>;

struct QuantizeBlockThreshold {
    uint32_t threshold;    // magnitude bits: the threshold itself, or the factor of the mean
    uint32_t of_mean;      // whether it is a factor
    uint32_t block_shift;  // log2 of the block
    uint32_t pad;
};

template <class E>
__device__ __forceinline__ void quantize_block_threshold(const QuantizeBlockThreshold& p, const QuantizeItem& item) {
    using W = QuantizeWalk<E>;
    __shared__ Ring<E, W> ring;
    const uint32_t lanes = 1u << (p.block_shift - 5);
    const auto nothing = [](const Place&) { return Nothing(); };
    walk<E, W>(
        item, blockIdx.x, wide_planes(item), ring, nothing, nothing,
        [&](const Place& at, Nothing, Nothing, Stage<E>& stage, uint32_t (&w)[E::WORDS]) {
            const uint32_t raw = clean_max<E>(item, at, stage, w);
            const uint32_t exponent = chunk_exponent(block_max(E::to_f32(raw), lanes));
            const bool floats = __all_sync(ALL, sums_in_floats(exponent));
            uint32_t t = p.threshold;
            if (p.of_mean) {
                const uint32_t part = floats ? sum_all<E>(w, exponent) : sum_slowly<E>(stage, exponent);
                t = mul_trunc(t, mean_of_block(p.block_shift, item.n, at, block_sum(part, lanes), exponent));
            }
            const Kept kept = floats ? keep_above<E>(w, t, exponent) : keep_above_slowly<E>(stage, t, exponent);
            const uint32_t signs = sign_plane<E>(w);
            const uint32_t total = block_sum(kept.total, lanes), count = block_sum(__popc(kept.plane), lanes);
            store_planes(item, at, kept.plane & ~signs, kept.plane & signs);
            if (at.inside && (threadIdx.x & (lanes - 1)) == 0) {
                item.scales[at.own >> p.block_shift] =
                    static_cast<uint16_t>(mean_bf16_of_block(total, exponent, count) >> 16);
            }
        });
}

struct QuantizeBlockClip {
    Draw draw;
    uint32_t sigmas;       // f32 bits of c
    uint32_t block_shift;  // log2 of the block
};

// Stochastic with clipping at c sigma.
template <class E>
__device__ __forceinline__ void quantize_block_clip(const QuantizeBlockClip& p, const QuantizeItem& item) {
    using W = QuantizeWalk<E>;
    __shared__ Ring<E, W> ring;
    const uint32_t lanes = 1u << (p.block_shift - 5);
    walk<E, W>(
        item, blockIdx.x, wide_planes(item), ring, [](const Place&) { return Nothing(); },
        [&](const Place& at) { return call(p.draw, item.tensor, at.group); },
        [&](const Place& at, Nothing, uint4 random, Stage<E>& stage, uint32_t (&w)[E::WORDS]) {
            const uint32_t max_of_block = magnitude(block_max(E::to_f32(clean_max<E>(item, at, stage, w)), lanes));
            const uint32_t exponent = chunk_exponent(max_of_block);
            int32_t first;
            uint64_t second;
            sum_moments<E>(stage, w, exponent, first, second);
            first = static_cast<int32_t>(block_sum(static_cast<uint32_t>(first), lanes));
            second = join_block(second, lanes, Add<uint64_t>());
            const uint32_t t = clip_block(p.block_shift, Moments{first, second, exponent, elements_of_block(p.block_shift, item.n, at)}, p.sigmas);
            const uint32_t limit = t == 0 ? 0x7f7fffffu : t;
            const uint32_t s = stochastic_scale(min(max_of_block, limit));
            uint32_t clipped;
            const uint32_t kept = keep_clipped<E>(w, s, limit, expand(random), clipped);
            const uint32_t signs = sign_plane<E>(w);
            store_planes(item, at, kept & ~signs, kept & signs);
            if (at.inside && (threadIdx.x & (lanes - 1)) == 0) {
                item.scales[at.own >> p.block_shift] = static_cast<uint16_t>(s >> 16);
            }
            if (__any_sync(ALL, clipped != 0)) {
                report(item.report, 0, ~0ull, clipped);
            }
        });
}
