// The bodies of the quantize kernels.
#pragma once
#include "block.cuh"
#include "item.cuh"
#include "scale.cuh"
#include "trit.cuh"

struct QuantizeBlock {
    Draw draw;
    uint32_t block_shift;  // log2 of the block
};

// One pair of plane words.
__device__ __forceinline__ void store_planes(void* words, uint64_t pair, uint32_t plus, uint32_t minus) {
    uint32_t* to = static_cast<uint32_t*>(words) + 2 * pair;
    if ((reinterpret_cast<uintptr_t>(words) & 7) == 0) {
        __stcs(reinterpret_cast<uint2*>(to), make_uint2(plus, minus));
    } else {
        to[0] = plus;
        to[1] = minus;
    }
}

template <class E, int ROUNDS>
__device__ __forceinline__ void quantize_block_stochastic(const QuantizeBlock& p, const Item& item) {
    __shared__ Stage<E> stages[WARPS];
    Stage<E>& stage = stages[warp_id()];
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_TILE + warp_id() * TILE;
    const uint64_t own = start + 32 * lane_id();  // the lane's first element

    Flight<E> flight;
    const bool fast = whole<E>(item.x, start, item.n);
    if (fast) {
        begin<E>(item.x, start, flight);
    }
    const uint4 random = call<ROUNDS>(p.draw, item.tensor, item.first + own);
    if (fast) {
        end<E>(flight, stage);
    } else {
        load_parts<E>(item.x, start, item.n, stage);
    }

    uint32_t w[E::WORDS];
    stage.take(w);
    uint32_t signs = sign_plane<E>(w);
    absolute<E>(w);
    uint32_t raw = raw_max<E>(w);
    if (__any_sync(ALL, raw >= E::LIMIT)) {
        scrub<E>(stage, item.first + own, item.report);
        stage.take(w);
        absolute<E>(w);
        raw = raw_max<E>(w);
    }

    const uint32_t lanes = 1u << (p.block_shift - 5);
    const uint32_t s = stochastic_scale(block_max(E::to_f32(raw), lanes));
    const uint32_t kept = keep<E>(w, s, expand(random));
    if (own < item.n) {
        store_planes(item.a, own >> 5, kept & ~signs, kept & signs);
        if ((threadIdx.x & (lanes - 1)) == 0) {
            static_cast<uint16_t*>(item.b)[own >> p.block_shift] = static_cast<uint16_t>(s >> 16);
        }
    }
}
