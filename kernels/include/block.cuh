// Blocks across lanes: a block of B elements is B / 32 consecutive lanes of a CTA, from one lane to all 128.
#pragma once
#include "tile.cuh"

// Joins what the warps of blocks of 64 and 128 lanes have found; every thread of the CTA takes part.
template <class T, class Join>
__device__ __forceinline__ T join_warps(T value, uint32_t lanes, Join join) {
    __shared__ T of_warp[WARPS];
    __syncthreads();
    if (lane_id() == 0) {
        of_warp[warp_id()] = value;
    }
    __syncthreads();
    if (lanes == 64) {
        return join(of_warp[warp_id() & ~1], of_warp[warp_id() | 1]);
    }
    return join(join(of_warp[0], of_warp[1]), join(of_warp[2], of_warp[3]));
}

// Joins the values of the lanes of each block, in any order; every thread of the CTA takes part.
template <class T, class Join>
__device__ __forceinline__ T join_block(T value, uint32_t lanes, Join join) {
#pragma unroll 1
    for (uint32_t d = 1; d < lanes && d < 32; d <<= 1) {
        value = join(value, __shfl_xor_sync(ALL, value, d));
    }
    return lanes > 32 ? join_warps(value, lanes, join) : value;
}

struct Max {
    __device__ __forceinline__ uint32_t operator()(uint32_t a, uint32_t b) const { return max(a, b); }
};

template <class T>
struct Add {
    __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};

// The default block of 64 has a path of its own, two instructions in place of a loop, and whole warps an instruction.
__device__ __forceinline__ uint32_t block_max(uint32_t m, uint32_t lanes) {
    if (lanes == 2) {
        return max(m, __shfl_xor_sync(ALL, m, 1));
    }
#if __CUDA_ARCH__ >= 800
    if (lanes >= 32) {
        m = __reduce_max_sync(ALL, m);
        return lanes > 32 ? join_warps(m, lanes, Max()) : m;
    }
    if (lanes >= 4) {
        m = max(m, __shfl_xor_sync(ALL, m, 1));
        m = max(m, __shfl_xor_sync(ALL, m, 2));
        if (lanes >= 8) {
            m = max(m, __shfl_xor_sync(ALL, m, 4));
            if (lanes == 16) {
                m = max(m, __shfl_xor_sync(ALL, m, 8));
            }
        }
    }
    return m;
#else
    return join_block(m, lanes, Max());
#endif
}

__device__ __forceinline__ uint32_t block_sum(uint32_t x, uint32_t lanes) {
    if (lanes == 2) {
        return x + __shfl_xor_sync(ALL, x, 1);
    }
#if __CUDA_ARCH__ >= 800
    if (lanes >= 32) {
        x = __reduce_add_sync(ALL, x);
        return lanes > 32 ? join_warps(x, lanes, Add<uint32_t>()) : x;
    }
#endif
    return join_block(x, lanes, Add<uint32_t>());
}
