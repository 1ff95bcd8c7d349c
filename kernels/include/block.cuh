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

// The same for a lane's values of several tiles, whose steps overlap; blocks beyond a warp take one barrier for all. Returns
// whether any is `limit` or above: the same for all lanes of a warp, and of a CTA where its warps join.
template <int T>
__device__ __forceinline__ bool block_max_of_tiles(uint32_t (&m)[T], uint32_t lanes, uint32_t limit) {
#if __CUDA_ARCH__ >= 800
    const auto step = [&](int d) {
#pragma unroll
        for (int t = 0; t < T; ++t) {
            m[t] = max(m[t], __shfl_xor_sync(ALL, m[t], d));
        }
    };
    if (lanes >= 32) {
#pragma unroll
        for (int t = 0; t < T; ++t) {
            m[t] = __reduce_max_sync(ALL, m[t]);
        }
    } else if (lanes >= 2) {
        step(1);
        if (lanes >= 4) {
            step(2);
            if (lanes >= 8) {
                step(4);
                if (lanes == 16) {
                    step(8);
                }
            }
        }
    }
#else
#pragma unroll
    for (int t = 0; t < T; ++t) {
        m[t] = join_block(m[t], min(lanes, 32u), Max());
    }
#endif
    uint32_t all = 0;
    if (lanes > 32) {
        __shared__ uint4 of_warps[T];
        static_assert(WARPS == 4);
        if (lane_id() == 0) {
#pragma unroll
            for (int t = 0; t < T; ++t) {
                reinterpret_cast<uint32_t*>(&of_warps[t])[warp_id()] = m[t];
            }
        }
        __syncthreads();
#pragma unroll
        for (int t = 0; t < T; ++t) {
            const uint4 w = of_warps[t];
            const uint32_t a = max(w.x, w.y), b = max(w.z, w.w);
            m[t] = lanes == 64 ? (warp_id() < 2 ? a : b) : max(a, b);
            all = max(all, max(a, b));
        }
        return all >= limit;
    }
#pragma unroll
    for (int t = 0; t < T; ++t) {
        all = max(all, m[t]);
    }
    return __any_sync(ALL, all >= limit);
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
