// Blocks across lanes: a block of B elements is B / 32 consecutive lanes of a CTA, from one lane to all 128.
#pragma once
#include "tile.cuh"

// The largest value among the lanes of each block; every thread of the CTA takes part.
__device__ __forceinline__ uint32_t block_max(uint32_t m, uint32_t lanes) {
#pragma unroll
    for (uint32_t d = 1; d < 32; d <<= 1) {
        if (d < lanes) {
            m = max(m, __shfl_xor_sync(ALL, m, d));
        }
    }
    if (lanes > 32) {
        __shared__ uint32_t of_warp[WARPS];
        __syncthreads();
        of_warp[warp_id()] = m;
        __syncthreads();
        m = max(of_warp[warp_id() & ~1], of_warp[warp_id() | 1]);
        if (lanes > 64) {
            m = max(max(of_warp[0], of_warp[1]), max(of_warp[2], of_warp[3]));
        }
    }
    return m;
}
