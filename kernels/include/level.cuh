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
    float s;    // the scale
    float inv;  // 1 / s to within 2^-23 of itself; 0 for 0
};

__device__ __forceinline__ Rounding rounding(uint32_t s) {
    float inv;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inv) : "f"(__uint_as_float(s)));
    return {__uint_as_float(s), s == 0 ? 0.0f : inv};
}

// The level of v, sign(v) (c + up), as a float, where nothing is near an edge; `edge` collects how near it was.
// `f` is the draw under the exponent of 1.0, 1 + k 2^-23.
//
// With x = |v| / s the level's magnitude is the number of integers j >= 0 with u + j < x, the integer nearest to
// x + (0.5 - u) unless that lies half-way. The signed form takes v, and 1.5 - f with v's sign. It is wrong by less than
// 2^-23 |x| (the reciprocal), 2^-25 |x| + 2^-25 (the rounded sum) and 2^-24 (u is f - 1 + 2^-24), so an element whose
// distance to its integer stays below 0.5 - NEAR is decided; the others go through `round_level_exactly`.
__device__ __forceinline__ float round_level(float v, const Rounding& by, float f, float& edge) {
    constexpr float MAGIC = 0x1.8p23f;  // adding it rounds to an integer
    const float offset = __uint_as_float(__float_as_uint(__fsub_rn(1.5f, f)) ^ (__float_as_uint(v) & 0x80000000u));
    const float t = __fmaf_rn(v, by.inv, offset);
    const float l = __fsub_rn(__fadd_rn(t, MAGIC), MAGIC);
    edge = fmaxf(edge, fabsf(__fsub_rn(t, l)));
    return l;
}

// More than that error for levels up to 7 and up to 127.
template <int BITS>
constexpr float NEAR = BITS == 8 ? 0x1p-15f : 0x1p-19f;

// What turns fields of two's complement into fields of l + 2^(BITS - 1), and back: their top bits.
template <int BITS>
constexpr uint32_t TOPS = BITS == 4 ? 0x88888888u : BITS == 8 ? 0x80808080u : 0x80008000u;

// Two neighbours of 4 bits at once, as floats from 160 on whose last place is 2^-16: the level, below zero or not, is the
// whole part less 160.
//
// A level is floor(y) where y = v / s + (1 - u), for a negative v floor(v / s + u), unless y is an integer. Of u or 1 - u
// come the upper 16 bits, one ^ other as it is or inverted, so that y lies 0 to 1 places higher than the float, plus or minus
// half a place for rounding and a sixteenth for the reciprocal: the whole part is right where the fraction is neither all
// zeros nor all ones.
__device__ __forceinline__ uint2 round_levels(float a, float b, const Rounding& by, uint32_t one, uint32_t other) {
    constexpr uint32_t BASE = 0x4320u;  // the upper half of 160.0
    uint32_t negative;  // all bits of a half, where its value is below zero
    asm("prmt.b32 %0, %1, %2, 0xffbb;" : "=r"(negative) : "r"(__float_as_uint(a)), "r"(__float_as_uint(b)));
    uint32_t offsets;  // one ^ other ^ ~negative, which the compiler would take two instructions for
    asm("lop3.b32 %0, %1, %2, %3, 0x69;" : "=r"(offsets) : "r"(one), "r"(other), "r"(negative));
    return make_uint2(__float_as_uint(__fmaf_rn(a, by.inv, __uint_as_float(__byte_perm(offsets, BASE, 0x5410)))),
                      __float_as_uint(__fmaf_rn(b, by.inv, __uint_as_float(__byte_perm(offsets, BASE, 0x5432)))));
}

// Collects how near the fractions of two such floats were to 0 and 1.
struct Edge {
    uint32_t least = ~0u;
    __device__ __forceinline__ void add(uint2 t) {
#if __CUDA_ARCH__ >= 900
        least = __viaddmin_u16x2(__byte_perm(t.x, t.y, 0x5410), 0x00010001u, least);
#else
        least = min(least, min((t.x << 16) + 0x1ffffu, (t.y << 16) + 0x1ffffu));
#endif
    }
    __device__ __forceinline__ bool found() const { return (least & 0xffffu) < 2 || least < 0x20000u; }
};

// Eight levels as a word of fields, from the whole parts of their floats: the sum of l 16^j is gathered by multiply-adds, which
// leaves the unit that is short, that of logic, shifts and permutes, to the rest. `sixteen`: from where the compiler cannot see it,
// or it would shift. DIGITS takes away what the eight MAGIC_BITS add up to and turns l into l + 8; its hex digit j is added within
// addition j, where it costs nothing.
__device__ __forceinline__ uint32_t fields_of(const uint2 (&t)[4], uint32_t sixteen) {
    constexpr float MAGIC = 0x1.8p23f;         // adding it rounds to an integer,
    constexpr uint32_t MAGIC_BITS = 0x4b400000u;  // whose last bits are the level's
    constexpr uint32_t DIGITS = TOPS<4> - MAGIC_BITS * 0x11111111u;
    uint32_t sum = 0;
#pragma unroll
    for (int j = 3; j >= 0; --j) {
        const float y = MAGIC - 160.0f + static_cast<float>(DIGITS >> (8 * j + 4) & 15);
        const float x = MAGIC - 160.0f + static_cast<float>(DIGITS >> (8 * j) & 15);
        sum = sum * sixteen + __float_as_uint(__fadd_rd(__uint_as_float(t[j].y), y));
        sum = sum * sixteen + __float_as_uint(__fadd_rd(__uint_as_float(t[j].x), x));
    }
    return sum ^ TOPS<4>;
}

// The same level, from exact operations only. The cut of |v| to X units of the scale's mantissa ms (8 bits) is exact;
// with an `inv` above 1 / s by 2^-21 to 2^-19 of itself, X inv lies in [X / ms, X / ms + 2^-12), while X / ms is an
// integer or at least 1 / 255 below one: cutting the product gives c = floor(|v| / s). The remainder |v| - c s is
// exact, and the sign of fma(u, s, -remainder) is the decision.
__device__ __forceinline__ float round_level_exactly(float v, const Rounding& by, float u) {
    const float grid = __uint_as_float((__float_as_uint(by.s) & 0x7f800000u) + (16u << 23));
    const float inv = __fmul_rn(by.inv, 0x1.00001p0f);
    const float m = fabsf(v);
    const float cut = __fsub_rn(__fadd_rz(m, grid), grid);
    const float c = __fsub_rn(__fmaf_rz(cut, inv, 0x1p23f), 0x1p23f);
    const float rest = __fmaf_rn(-c, by.s, m);
    const float up = __fmaf_rn(u, by.s, -rest) < 0.0f ? 1.0f : 0.0f;
    return copysignf(__fadd_rn(c, up), v);
}

// Fields in half a word, where a float's mantissa holds them all.
template <int BITS>
constexpr int PER_HALF = 16 / BITS;

// l 2^(BITS j) of field i, j = i mod PER_HALF, as a float: exact. The field stays where it is in the half word and
// becomes the mantissa of a float from 2^23 up. `w` has been XORed with TOPS.
// `exponent`: the bits of 2^23, from where the compiler cannot see them: it then masks and joins in one instruction,
// which takes one constant only.
template <int BITS>
__device__ __forceinline__ float level_in_place(const uint32_t (&w)[BITS], int i, uint32_t exponent) {
    const int half = i / PER_HALF<BITS>, j = i % PER_HALF<BITS>;
    const uint32_t word = half % 2 ? w[half / 2] >> 16 : w[half / 2];
    const uint32_t field = word & (((1u << BITS) - 1) << (BITS * j));
    const float bias = 0x1p23f + static_cast<float>((1 << (BITS - 1)) << (BITS * j));
    return __fsub_rn(__uint_as_float(field | exponent), bias);
}

// The 4-bit levels of a word as floats: exact. Two fields at a time become the mantissas of halves from 1024 up, which takes
// half the instructions of `level_in_place`; those of odd elements come 16 times as large.
// `even`, `odd`: the bits of two halves of 1024, with the top bits of their fields, which turn two's complement into l + 8;
// from where the compiler cannot see them, so that a mask and they are one instruction.
__device__ __forceinline__ void levels_in_pairs(uint32_t word, uint32_t even, uint32_t odd, float* l) {
    const uint32_t next = word >> 8;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        uint32_t pair = ((k < 2 ? word : next) & (k % 2 ? 0x00f000f0u : 0x000f000fu)) ^ (k % 2 ? odd : even);
        asm("add.rn.f16x2 %0, %0, %1;" : "+r"(pair) : "r"(k % 2 ? 0xe480e480u : 0xe408e408u));  // -(1024 + 128), -(1024 + 8)
        asm("{ .reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
            : "=f"(l[k]), "=f"(l[k + 4])
            : "r"(pair));
    }
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

// The sum of an element held in f32; `found`: out of range, and the sum stays.
__device__ __forceinline__ uint32_t sum_f32(uint32_t sum, uint32_t p, bool& found) {
    const uint32_t v = __float_as_uint(__fadd_rn(__uint_as_float(sum), __uint_as_float(p)));
    found = magnitude(p) >= RANGE_LIMIT || magnitude(v) >= RANGE_LIMIT;
    return found ? sum : magnitude(v) == 0 ? 0u : v;
}

// What an element adds to a count of fine levels of size q: `p` is in range, and +0 where its magnitude counts as zero. Without a
// size whatever is not zero is cut, to nothing.
__device__ __forceinline__ int32_t round_fine(uint32_t p, uint32_t q, bool& cut) {
    const int32_t most = q == 0 ? 0 : 1 << 21;
    cut = magnitude(p) > (q == 0 ? 0u : ((q >> 23) + 21) << 23);
    const int32_t level = __float2int_rn(__fmul_rn(__uint_as_float(p), __uint_as_float((254u - (q >> 23)) << 23)));
    return cut ? (p >> 31 ? -most : most) : level;
}

// The nearest finite number; a NaN stays.
__device__ __forceinline__ float saturate(float x) {
    return fabsf(x) == __uint_as_float(0x7f800000u) ? copysignf(__uint_as_float(0x7f7fffffu), x) : x;
}

// (l s) factor, where no scale that is not above the launch's limit makes it overflow.
__device__ __forceinline__ float read_out_fast(int32_t level, uint32_t scale, float factor) {
    return __fmul_rn(__fmul_rn(static_cast<float>(level), __uint_as_float(scale)), factor);
}

// The same for any scale: the real product rounded once, saturated.
__device__ __forceinline__ float read_out(int32_t level, uint32_t scale, float factor) {
    const float product = __fmul_rn(static_cast<float>(level), __uint_as_float(scale));
    if (fabsf(product) <= __uint_as_float(0x7f7fffffu)) {
        return saturate(__fmul_rn(product, factor));
    }
    const float smaller = __fmul_rn(static_cast<float>(level), __uint_as_float(scale - (64u << 23)));
    return saturate(__fmul_rn(__fmul_rn(smaller, factor), 0x1p64f));
}
