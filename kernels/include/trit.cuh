// The two ways an element becomes a trit, for the 32 elements of a lane at once. Mirrors src/numerics/trit.rs.
#pragma once
#include "draw.cuh"
#include "float.cuh"

// Bit e: whether element e is kept under scale s. fma(u, s, -|x|) is rounded once, so its sign is that of the exact
// u s - |x|, down to results that underflow: bit for bit the integer decision. `w`: magnitudes; s = 0 keeps nothing.
template <class E>
__device__ __forceinline__ uint32_t keep(const uint32_t (&w)[E::WORDS], uint32_t s, const Draws& d) {
    float scale = __uint_as_float(s);
    uint32_t half[2] = {0, 0};
#pragma unroll
    for (int e = 15; e >= 0; --e) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float r = __fmaf_rn(unit(d, 16 * h + e), scale, -value<E>(w, 16 * h + e));
            half[h] = __funnelshift_l(__float_as_uint(r), half[h], 1);
        }
    }
    uint32_t kept = __byte_perm(half[0], half[1], 0x5410);
    return s == 0 ? 0u : kept;
}

// Bit e: whether the magnitude of element e is above t, which is below 2^128. A subnormal counts as zero, so it is
// above nothing.
template <class E>
__device__ __forceinline__ uint32_t above(const uint32_t (&w)[E::WORDS], uint32_t t) {
    float limit = __uint_as_float(max(t, MIN_NORMAL - 1));
    uint32_t half[2] = {0, 0};
#pragma unroll
    for (int e = 15; e >= 0; --e) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float r = __fsub_rn(limit, value<E>(w, 16 * h + e));
            half[h] = __funnelshift_l(__float_as_uint(r), half[h], 1);
        }
    }
    return __byte_perm(half[0], half[1], 0x5410);
}
