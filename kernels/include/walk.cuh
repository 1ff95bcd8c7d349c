// A CTA walks over several tiles of 4096 elements, one after the other, while the copies of the next ones are under way.
//
// One tile would be over too soon for the start of a CTA and the latency of its loads to be hidden: measured on an
// H200, quantize in bf16, 1, 2 and 4 tiles a CTA: 82, 93 and 96% of copy speed. As the tiles wait in shared memory
// and not in registers, the loop is not unrolled.
#pragma once
#include "item.cuh"

// How a kernel walks: tiles of a CTA, and how many of them wait in shared memory.
template <int TILES, int RING>
struct Walk {
    static constexpr int tiles = TILES, ring = RING;
};

template <class E, class W>
using Ring = Stage<E>[W::ring][WARPS];

struct Nothing {};

// `cta`: the CTA's number in the grid, or whose work it does. `aligned`: whether all addresses that are read or written in
// wide pieces are multiples of 16.
// `ahead(at)`: starts the loads of a tile that do not go through shared memory, one tile before they are needed.
// `before(at)`: work for while the copies come. `body(at, loaded, random, stage, w)`: all the rest, on the lane's
// elements.
template <class E, class W, class I, class Ahead, class Before, class Body>
__device__ __forceinline__ void walk(const I& item, uint32_t cta, bool aligned, Ring<E, W>& ring, Ahead ahead, Before before,
                                     Body body) {
    constexpr int T = W::tiles, S = W::ring;
    const uint64_t start = cta_start<T>(item, cta);
    const uint64_t left = item.n - start;  // the grid has no CTA without elements
    const int whole = aligned ? static_cast<int>(min(left / CTA_TILE, uint64_t(T))) : 0;
    const int all = static_cast<int>(min((left + CTA_TILE - 1) / CTA_TILE, uint64_t(T)));
    const uint64_t of_warp = start + warp_id() * TILE;
#pragma unroll
    for (int t = 0; t < S; ++t) {
        if (t < whole) {
            fetch<E>(item.gradient, of_warp + t * CTA_TILE, ring[t][warp_id()]);
        }
        commit_copies();
    }
    Place next_at = place(item, start, 0 < whole);
    auto next = ahead(next_at);
#pragma unroll 1
    for (int t = 0; t < all; ++t) {
        const Place at = next_at;
        auto loaded = next;
        if (t + 1 < all) {
            next_at = place(item, start + (t + 1) * CTA_TILE, t + 1 < whole);
            next = ahead(next_at);
        }
        const auto ready = before(at);
        Stage<E>& stage = ring[t % S][warp_id()];
        if (at.fast) {
            await_copies<S - 1>();
        } else {
            load_parts<E>(item.gradient, at.start, item.n, stage);
        }
        __syncwarp();
        uint32_t w[E::WORDS];
        stage.take(w);
        body(at, loaded, ready, stage, w);
        __syncwarp();
        if (S < T && t + S < whole) {
            fetch<E>(item.gradient, of_warp + (t + S) * CTA_TILE, stage);
        }
        commit_copies();
    }
}
