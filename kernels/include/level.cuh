// Accumulation: adaptive levels and exact counts. Mirrors src/numerics/level.rs.
#pragma once
#include "draw.cuh"
#include "float.cuh"
#include "scale.cuh"

// What an element adds, p = weight x rounded once, as f32 bits.
__device__ __forceinline__ uint32_t weighted(uint32_t x, uint32_t weight) {
    uint32_t p = __float_as_uint(__fmul_rn(__uint_as_float(x), __uint_as_float(weight)));
    return magnitude(x) == 0 || magnitude(weight) == 0 || magnitude(p) == 0 ? 0u : p;
}

// The same for the fast paths: subnormal x counts as zero by a multiplication that flushes. A subnormal product is
// left as it is where no result can tell it from zero.
__device__ __forceinline__ float weighted_fast(float x, float weight) {
    float flushed;
    asm("mul.rn.ftz.f32 %0, %1, 0f3F800000;" : "=f"(flushed) : "f"(x));
    return __fmul_rn(flushed, weight);
}

// What rounding to levels under a scale needs, once a block.
struct Rounding {
    float s;       // the scale
    float inv;     // 1 / s, above it by 2^-21 to 2^-19 of itself
    float grid;    // 2^(e + 16): adding it cuts a magnitude to multiples of 2^(e - 7), the unit of the scale's mantissa
};

__device__ __forceinline__ Rounding rounding(uint32_t s) {
    float inv;
    asm("rcp.approx.f32 %0, %1;" : "=f"(inv) : "f"(__uint_as_float(s)));
    return {__uint_as_float(s), __fmul_rn(inv, 0x1.00001p0f), __uint_as_float((s & 0x7f800000u) + (16u << 23))};
}

// The new level's magnitude, c + up, as the float 2^23 + c + up. `v` is a magnitude of at most 127 s.
//
// c = floor(|v| / s): |v| is cut to X units of the scale's mantissa ms (exact), and X inv lies in
// [X / ms, X / ms + 2^-12), while X / ms is an integer or at least 1 / 255 below one; so cutting the product gives c.
// The remainder |v| - c s is exact, and the sign of fma(u, s, -remainder) is the decision.
__device__ __forceinline__ float round_level(float v, const Rounding& by, float u) {
    float cut = __fsub_rn(__fadd_rz(v, by.grid), by.grid);
    float c = __fmaf_rz(cut, by.inv, 0x1p23f);
    float rest = __fmaf_rn(-__fsub_rn(c, 0x1p23f), by.s, v);
    float d = __fmaf_rn(u, by.s, -rest);
    return __uint_as_float(__float_as_uint(c) + (__float_as_uint(d) >> 31));
}

// Fields in half a word, where a float's mantissa holds them all.
template <int BITS>
constexpr int PER_HALF = 16 / BITS;

// What turns fields of two's complement into fields of l + 2^(BITS - 1), and back: their top bits.
template <int BITS>
constexpr uint32_t TOPS = BITS == 4 ? 0x88888888u : BITS == 8 ? 0x80808080u : 0x80008000u;

// l 2^(BITS j) of field i, j = i mod PER_HALF, as a float: exact. The field stays where it is in the half word and
// becomes the mantissa of a float from 2^23 up. `w` has been XORed with TOPS.
template <int BITS>
__device__ __forceinline__ float level_in_place(const uint32_t (&w)[BITS], int i) {
    const int half = i / PER_HALF<BITS>, j = i % PER_HALF<BITS>;
    const uint32_t word = half % 2 ? w[half / 2] >> 16 : w[half / 2];
    const uint32_t field = word & (((1u << BITS) - 1) << (BITS * j));
    const float bias = 0x1p23f + static_cast<float>((1 << (BITS - 1)) << (BITS * j));
    return __fsub_rn(__uint_as_float(field | 0x4b000000u), bias);
}

// The level itself, as an integer: for paths that are not hot.
template <int BITS>
__device__ __forceinline__ int32_t field(const uint32_t (&w)[BITS], int i) {
    constexpr int PER = 32 / BITS;
    return static_cast<int32_t>(w[i / PER] << (32 - BITS - BITS * (i % PER))) >> (32 - BITS);
}

// The sum of an element that may be out of range: v = l s + p as f32 bits, or l s where that is out of range.
__device__ __forceinline__ uint32_t sum(int32_t level, uint32_t scale, uint32_t p, bool& found) {
    const float held = __fmul_rn(static_cast<float>(level), __uint_as_float(scale));
    const uint32_t v = __float_as_uint(__fadd_rn(held, __uint_as_float(p)));
    found = magnitude(p) >= RANGE_LIMIT || magnitude(v) >= RANGE_LIMIT;
    return found ? __float_as_uint(held) : v;
}
