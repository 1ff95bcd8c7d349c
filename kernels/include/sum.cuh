// Integer sums of a lane's 32 elements. The floating-point units do the work: adding and subtracting a power of two
// cuts a magnitude to whole units, and sums of 16 numbers below 2^20 are exact.
#pragma once
#include "float.cuh"
#include "threshold.cuh"

// The exponents for which the power of two is in range and no subnormal, which counts as zero, reaches a unit.
__device__ __forceinline__ bool sums_in_floats(uint32_t exponent) { return exponent >= 24 && exponent <= 200; }

// A magnitude in whole units of 2^(exponent - 146), still as a float.
__device__ __forceinline__ float cut(float x, float grid) { return __fsub_rn(__fadd_rz(fabsf(x), grid), grid); }

__device__ __forceinline__ float grid_of(uint32_t exponent) { return __uint_as_float((exponent + 4) << 23); }

// Units, from a sum of cut magnitudes.
__device__ __forceinline__ uint32_t units(float sum, uint32_t exponent) {
    return static_cast<uint32_t>(__fmul_rn(sum, __uint_as_float((273u - exponent) << 23)));
}

// The sum of `fixed` over a lane's elements.
template <class E>
__device__ __forceinline__ uint32_t sum_fixed(const uint32_t (&w)[E::WORDS], uint32_t exponent) {
    if (sums_in_floats(exponent)) {
        const float grid = grid_of(exponent);
        float half[2] = {0, 0};
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            half[e / 16] = __fadd_rn(half[e / 16], cut(value<E>(w, e), grid));
        }
        return units(half[0], exponent) + units(half[1], exponent);
    }
    uint32_t total = 0;
#pragma unroll
    for (int e = 0; e < 32; ++e) {
        total += fixed<SUM_BITS>(magnitude(__float_as_uint(value<E>(w, e))), exponent);
    }
    return total;
}

// Which elements lie above t, as a plane, and their sum of `fixed`.
template <class E>
__device__ __forceinline__ uint32_t keep_above(const uint32_t (&w)[E::WORDS], uint32_t t, uint32_t exponent, uint32_t& total) {
    const float limit = __uint_as_float(max(t, MIN_NORMAL - 1));  // a subnormal counts as zero: above nothing
    float half[2] = {0x1p23f, 0x1p23f};
    if (sums_in_floats(exponent)) {
        const float grid = grid_of(exponent);
        float sum[2] = {0, 0};
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            const float x = value<E>(w, e);
            const float kept = fabsf(x) > limit ? 1.0f : 0.0f;
            half[e / 16] = __fmaf_rn(kept, static_cast<float>(1 << (e % 16)), half[e / 16]);
            sum[e / 16] = __fmaf_rn(kept, cut(x, grid), sum[e / 16]);
        }
        total = units(sum[0], exponent) + units(sum[1], exponent);
    } else {
        total = 0;
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            const float x = value<E>(w, e);
            const bool kept = fabsf(x) > limit;
            half[e / 16] = __fadd_rn(half[e / 16], kept ? static_cast<float>(1 << (e % 16)) : 0.0f);
            total += kept ? fixed<SUM_BITS>(magnitude(__float_as_uint(x)), exponent) : 0u;
        }
    }
    return __byte_perm(__float_as_uint(half[0]), __float_as_uint(half[1]), 0x5410);
}

// First and second moments of a lane's elements, in units of 2^(exponent - 141).
template <class E>
__device__ __forceinline__ void sum_moments(const uint32_t (&w)[E::WORDS], uint32_t exponent, int32_t& first, uint64_t& second) {
    first = 0;
    second = 0;
#pragma unroll
    for (int e = 0; e < 32; ++e) {
        const uint32_t bits = __float_as_uint(value<E>(w, e));
        const int32_t q = static_cast<int32_t>(fixed<SQUARE_BITS>(magnitude(bits), exponent));
        first += bits >> 31 ? -q : q;
        second += static_cast<uint64_t>(q) * q;
    }
}
