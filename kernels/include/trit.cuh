// The two ways an element becomes a trit, for the 32 elements of a lane at once. Mirrors src/numerics/trit.rs.
#pragma once
#include "draw.cuh"
#include "float.cuh"

// Bit e: whether element e is kept under scale s. fma(u, s, -|x|) is rounded once, so its sign is that of the exact
// u s - |x|, down to results that underflow: bit for bit the integer decision. s = 0 keeps nothing.
template <class E>
__device__ __forceinline__ uint32_t keep(const uint32_t (&w)[E::WORDS], uint32_t s, const Draws& d);

template <>
__device__ __forceinline__ uint32_t keep<F32>(const uint32_t (&w)[32], uint32_t s, const Draws& d) {
    const float scale = __uint_as_float(s);
    uint32_t half[2] = {0, 0};
#pragma unroll
    for (int e = 15; e >= 0; --e) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float r = __fmaf_rn(unit(d, 16 * h + e), scale, -fabsf(value<F32>(w, 16 * h + e)));
            half[h] = __funnelshift_l(__float_as_uint(r), half[h], 1);
        }
    }
    return s == 0 ? 0u : __byte_perm(half[0], half[1], 0x5410);
}

// For 16-bit elements the integer units are the scarce ones, so the floating-point units collect the bits too. With
// |x| and s multiplied by 2^(GRID - e), e the exponent of s, |x| - u s is an integer wherever it is positive (u s is
// a multiple of 2^-31 of 2^e, and |x| of 2^-32 or, in f16, 2^-35, unless it is below 2^-25 s and never kept), so the
// saturated fma is exactly 1 or 0, and sums of 16 such bits times powers of two are exact. `s`: 0 or from 2^-90 up.
template <class E, int GRID>
__device__ __forceinline__ uint32_t keep_half(const uint32_t (&w)[16], uint32_t s, const Draws& d) {
    const float grid = __uint_as_float(((GRID + 254u) << 23) - (s & 0x7f800000u));
    const float scale = __uint_as_float((s & 0x007f0000u) | ((GRID + 127u) << 23));
    float half[2] = {0x1p23f, 0x1p23f};
#pragma unroll
    for (int e = 0; e < 16; ++e) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float x = __fmul_rn(fabsf(value<E>(w, 16 * h + e)), grid);
            float kept;
            asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(kept) : "f"(-unit(d, 16 * h + e)), "f"(scale), "f"(x));
            half[h] = __fmaf_rn(kept, static_cast<float>(1 << e), half[h]);
        }
    }
    return s == 0 ? 0u : __byte_perm(__float_as_uint(half[0]), __float_as_uint(half[1]), 0x5410);
}

template <>
__device__ __forceinline__ uint32_t keep<Bf16>(const uint32_t (&w)[16], uint32_t s, const Draws& d) {
    return keep_half<Bf16, 32>(w, s, d);
}

template <>
__device__ __forceinline__ uint32_t keep<F16>(const uint32_t (&w)[16], uint32_t s, const Draws& d) {
    return keep_half<F16, 35>(w, s, d);
}

// keep() for any magnitudes cut at `limit` (magnitude bits), and how many were.
template <class E>
__device__ __forceinline__ uint32_t keep_clipped(const uint32_t (&w)[E::WORDS], uint32_t s, uint32_t limit, const Draws& d,
                                                 uint32_t& clipped) {
    const float scale = __uint_as_float(s), most = __uint_as_float(limit);
    uint32_t kept = 0;
    clipped = 0;
#pragma unroll
    for (int e = 31; e >= 0; --e) {
        const float x = fabsf(value<E>(w, e));
        clipped += x > most ? 1 : 0;
        kept = __funnelshift_l(__float_as_uint(__fmaf_rn(unit(d, e), scale, -fminf(x, most))), kept, 1);
    }
    return s == 0 ? 0u : kept;
}
