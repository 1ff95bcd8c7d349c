// Block scales: bf16, rounded up. Mirrors src/numerics/scale.rs.
#pragma once
#include "threshold.cuh"

__device__ __forceinline__ uint32_t round_up_to_bf16(uint32_t m) { return (m + 0xffffu) & 0xffff0000u; }

__device__ __forceinline__ uint32_t stochastic_scale(uint32_t max) {
    return max < ZERO_LIMIT ? 0u : round_up_to_bf16(max);
}

// headroom times a magnitude, truncated, at most 2^126.
__device__ __forceinline__ uint32_t with_headroom(uint32_t max, uint32_t headroom) {
    // The bits of infinity and NaN, which a caller's memory may hold, stand for numbers as those below them do.
    const uint32_t down = max >= 0x7f800000u ? 64u << 23 : 0u;
    const uint32_t product = mul_trunc(max - down, headroom);
    return product == 0 ? 0u : min(product + down, RANGE_LIMIT);
}

__device__ __forceinline__ uint32_t window_scale(uint32_t max, uint32_t headroom) {
    return stochastic_scale(with_headroom(max, headroom));
}

__device__ __forceinline__ uint32_t fine_scale(uint32_t max, uint32_t headroom) {
    const uint32_t m = with_headroom(max, headroom);
    return m < ZERO_LIMIT ? 0u : ((m + 0x007fffffu) & 0xff800000u) - (21u << 23);
}

__device__ __forceinline__ uint32_t count_scale(uint32_t bits, uint32_t max, uint32_t headroom) {
    return bits == 32 ? fine_scale(max, headroom) : window_scale(max, headroom);
}

// The least bf16 from max / L_MAX up. A product that is at most 2^-22 too low leads there or one place below, and L_MAX
// times a bf16 is exact.
template <uint32_t L_MAX>
__device__ __forceinline__ uint32_t level_scale(uint32_t max) {
    constexpr float INV = L_MAX == 7 ? 0x1.249248p-3f : 0x1.020408p-7f;  // 1 / L_MAX rounded down
    static_assert(L_MAX == 7 || L_MAX == 127);
    // At half the size, so that the bits of infinity, to which a state from elsewhere may lead, stand for a number as well.
    const float m = __uint_as_float(max - MIN_NORMAL);
    const uint32_t s = round_up_to_bf16(__float_as_uint(__fmul_rd(m, INV)));
    const bool below = __fmul_rn(__uint_as_float(s), static_cast<float>(L_MAX)) < m;
    return max < ZERO_LIMIT ? 0u : s + (below ? 0x10000u : 0u) + MIN_NORMAL;
}
