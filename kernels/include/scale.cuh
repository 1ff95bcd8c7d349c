// Block scales: bf16, rounded up. Mirrors src/numerics/scale.rs.
#pragma once
#include "threshold.cuh"

__device__ __forceinline__ uint32_t round_up_to_bf16(uint32_t m) { return (m + 0xffffu) & 0xffff0000u; }

__device__ __forceinline__ uint32_t stochastic_scale(uint32_t max) {
    return max < ZERO_LIMIT ? 0u : round_up_to_bf16(max);
}

__device__ __forceinline__ uint32_t window_scale(uint32_t max, uint32_t headroom) {
    uint32_t m = mul_trunc(max, headroom);
    return stochastic_scale(m < RANGE_LIMIT ? m : RANGE_LIMIT);
}

template <uint32_t L_MAX>
__device__ __forceinline__ uint32_t level_scale(uint32_t max) {
    if (max < ZERO_LIMIT) {
        return 0u;
    }
    uint32_t mantissa = (max & 0x007fffffu) | MIN_NORMAL;
    uint32_t q = ((mantissa << 8) + (L_MAX - 1)) / L_MAX;
    uint32_t shift = 24 - __clz(q);
    uint32_t m = ((q - 1) >> shift) + 1;
    if (m == 256) {
        m = 128;
        shift += 1;
    }
    return (((max >> 23) + shift - 24) << 23) | ((m & 0x7fu) << 16);
}
