// Blocks across lanes: a block of B elements is B / 32 consecutive lanes of a CTA, from one lane to all 128.
#pragma once
#include "tile.cuh"

__device__ __noinline__ uint32_t block_max_of_any_size(uint32_t m, uint32_t lanes) {
    for (uint32_t d = 1; d < lanes && d < 32; d <<= 1) {
        m = max(m, __shfl_xor_sync(ALL, m, d));
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

// The largest value among the lanes of each block; every thread of the CTA takes part. The default block of 64 has
// a path of its own: two instructions in place of a loop.
__device__ __forceinline__ uint32_t block_max(uint32_t m, uint32_t lanes) {
    if (lanes == 2) {
        return max(m, __shfl_xor_sync(ALL, m, 1));
    }
    return block_max_of_any_size(m, lanes);
}
