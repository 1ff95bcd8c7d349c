// Integer sums of a lane's 32 elements. The floating-point units do the work: adding and subtracting a power of two
// cuts a magnitude to whole units, and sums of 16 numbers below 2^20 are exact.
#pragma once
#include "threshold.cuh"
#include "tile.cuh"

// The exponents for which the power of two is in range and no subnormal, which counts as zero, reaches a unit.
__device__ __forceinline__ bool sums_in_floats(uint32_t exponent) { return exponent >= 24 && exponent <= 200; }

// A magnitude in whole units of 2^(exponent - 146), still as a float.
__device__ __forceinline__ float cut(float x, float grid) { return __fsub_rn(__fadd_rz(fabsf(x), grid), grid); }

__device__ __forceinline__ float grid_of(uint32_t exponent) { return __uint_as_float((exponent + 4) << 23); }

// Units, from a sum of cut magnitudes.
__device__ __forceinline__ uint32_t units(float sum, uint32_t exponent) {
    return static_cast<uint32_t>(__fmul_rn(sum, __uint_as_float((273u - exponent) << 23)));
}

// A lane's magnitudes in whole units, as floats.
template <class E>
__device__ __forceinline__ void cut_all(const uint32_t (&w)[E::WORDS], uint32_t exponent, float (&cuts)[32]) {
    const float grid = grid_of(exponent);
#pragma unroll
    for (int e = 0; e < 32; ++e) {
        cuts[e] = cut(value<E>(w, e), grid);
    }
}

// Their sum in units.
__device__ __forceinline__ uint32_t sum_cuts(const float (&cuts)[32], uint32_t exponent) {
    float half[2] = {0, 0};
#pragma unroll
    for (int e = 0; e < 16; ++e) {
        half[0] = __fadd_rn(half[0], cuts[e]);
        half[1] = __fadd_rn(half[1], cuts[16 + e]);
    }
    return units(half[0], exponent) + units(half[1], exponent);
}

struct Kept {
    uint32_t plane, total;
};

// Which elements lie above t, as a plane, and their sum in units.
template <class E>
__device__ __forceinline__ Kept keep_above(const uint32_t (&w)[E::WORDS], const float (&cuts)[32], uint32_t t, uint32_t exponent) {
    const float limit = __uint_as_float(max(t, MIN_NORMAL - 1));  // a subnormal counts as zero: above nothing
    float half[2] = {0x1p23f, 0x1p23f}, sum[2] = {0, 0};
#pragma unroll
    for (int e = 0; e < 16; ++e) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float kept = fabsf(value<E>(w, 16 * h + e)) > limit ? 1.0f : 0.0f;
            half[h] = __fmaf_rn(kept, static_cast<float>(1 << e), half[h]);
            sum[h] = __fmaf_rn(kept, cuts[16 * h + e], sum[h]);
        }
    }
    return {__byte_perm(__float_as_uint(half[0]), __float_as_uint(half[1]), 0x5410),
            units(sum[0], exponent) + units(sum[1], exponent)};
}

// The same two for any exponent, in integers, from shared memory. Off the fast path.
template <class E>
__device__ __noinline__ uint32_t sum_slowly(Stage<E>& stage, uint32_t exponent) {
    uint32_t total = 0;
#pragma unroll 1
    for (int e = 0; e < 32; ++e) {
        total += fixed<SUM_BITS>(magnitude(E::to_f32(stage.at(lane_id(), e))), exponent);
    }
    return total;
}

template <class E>
__device__ __noinline__ Kept keep_above_slowly(Stage<E>& stage, uint32_t t, uint32_t exponent) {
    Kept kept = {0, 0};
#pragma unroll 1
    for (int e = 0; e < 32; ++e) {
        const uint32_t m = magnitude(E::to_f32(stage.at(lane_id(), e)));
        if (m > t) {
            kept.plane |= 1u << e;
            kept.total += fixed<SUM_BITS>(m, exponent);
        }
    }
    return kept;
}

// First and second moments of a lane's elements, in units of 2^(exponent - 141).
template <class E>
__device__ __forceinline__ void sum_moments(Stage<E>& stage, const uint32_t (&w)[E::WORDS], uint32_t exponent,
                                            int32_t& first, uint64_t& second) {
    first = 0;
    second = 0;
    if (__all_sync(ALL, sums_in_floats(exponent))) {
        const uint32_t grid_bits = (exponent + 9) << 23;
        const float grid = __uint_as_float(grid_bits);
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            const float x = value<E>(w, e);
            const int32_t q = static_cast<int32_t>(__float_as_uint(__fadd_rz(fabsf(x), grid)) & 0x7fffu);
            first += x < 0.0f ? -q : q;
            second += static_cast<uint64_t>(static_cast<uint32_t>(q)) * static_cast<uint32_t>(q);
        }
        return;
    }
#pragma unroll 1
    for (int e = 0; e < 32; ++e) {
        const uint32_t bits = E::to_f32(stage.at(lane_id(), e));
        const int32_t q = static_cast<int32_t>(fixed<SQUARE_BITS>(magnitude(bits), exponent));
        first += bits >> 31 ? -q : q;
        second += static_cast<uint64_t>(q) * q;
    }
}
