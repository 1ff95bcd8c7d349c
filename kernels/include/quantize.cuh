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

template <class E, int ROUNDS, bool FAST>
__device__ __forceinline__ void quantize_block_stochastic_tile(const QuantizeBlock& p, const Item& item, Stage<E>& stage) {
    const Place at = place<FAST>(item);
    Flight<E> flight;
    begin<E, FAST>(item.x, at, flight);
    const uint4 random = call<ROUNDS>(p.draw, item.tensor, at.group);
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

template <class E, int ROUNDS>
__device__ __forceinline__ void quantize_block_stochastic(const QuantizeBlock& p, const Item& item) {
    __shared__ Stage<E> stages[WARPS];
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(item.x) | reinterpret_cast<uintptr_t>(item.a) << 1;
    if (whole(cta_start(item), item.n, addresses, 16)) {
        quantize_block_stochastic_tile<E, ROUNDS, true>(p, item, stages[warp_id()]);
    } else {
        quantize_block_stochastic_tile<E, ROUNDS, false>(p, item, stages[warp_id()]);
    }
}
