// Integer sums of a lane's 32 elements. The floating-point units do the work: adding and subtracting a power of two
// cuts a magnitude to whole units, and sums of 16 numbers below 2^20 are exact.
#pragma once
#include "threshold.cuh"
#include "tile.cuh"

// The exponents for which the power of two is in range and no subnormal, which counts as zero, reaches a unit.
__device__ __forceinline__ bool sums_in_floats(uint32_t exponent) { return exponent >= 24 && exponent <= 200; }

// Sums start at a power of two whose last place is the unit, so that adding a magnitude rounded to zero adds its whole
// units, and the bits of a sum count them. Eight magnitudes, each below 2^20 units, fit.
struct Sums {
    float of[4];
    uint32_t start;
    __device__ __forceinline__ explicit Sums(uint32_t exponent) : start((exponent + 4) << 23) {
        of[0] = of[1] = of[2] = of[3] = __uint_as_float(start);
    }
    // Adds element e of a lane.
    __device__ __forceinline__ void add(int e, float x) { of[e / 8] = __fadd_rz(of[e / 8], fabsf(x)); }
    __device__ __forceinline__ uint32_t units() const {
        return __float_as_uint(of[0]) + __float_as_uint(of[1]) + __float_as_uint(of[2]) + __float_as_uint(of[3]) - 4 * start;
    }
};

// The sum of a lane's magnitudes in units of 2^(exponent - 146).
template <class E>
__device__ __forceinline__ uint32_t sum_all(const uint32_t (&w)[E::WORDS], uint32_t exponent) {
    Sums sums(exponent);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int e = i; e < 32; e += 8) {
            sums.add(e, value<E>(w, e));
        }
    }
    return sums.units();
}

struct Kept {
    uint32_t plane, total;
};

// Which elements lie above t, as a plane, and their sum in units.
template <class E>
__device__ __forceinline__ Kept keep_above(const uint32_t (&w)[E::WORDS], uint32_t t, uint32_t exponent) {
    const float limit = __uint_as_float(max(t, MIN_NORMAL - 1));  // a subnormal counts as zero: above nothing
    float half[2] = {0x1p23f, 0x1p23f};
    Sums sums(exponent);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int e = i; e < 32; e += 8) {
            const float x = value<E>(w, e);
            if (fabsf(x) > limit) {
                half[e / 16] = __fadd_rn(half[e / 16], static_cast<float>(1 << e % 16));
                sums.add(e, x);
            }
        }
    }
    return {__byte_perm(__float_as_uint(half[0]), __float_as_uint(half[1]), 0x5410), sums.units()};
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
