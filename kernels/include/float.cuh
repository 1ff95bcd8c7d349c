// Floating-point values as bit patterns. Mirrors src/numerics/float.rs.
#pragma once
#include <cstdint>
#include "constants.h"

__device__ __forceinline__ uint32_t magnitude(uint32_t bits) {
    uint32_t m = bits & 0x7fffffffu;
    return m < MIN_NORMAL ? 0u : m;
}

__device__ __forceinline__ bool out_of_range(uint32_t m) { return m >= RANGE_LIMIT; }

__device__ __forceinline__ uint32_t bf16_to_f32(uint32_t bits) { return bits << 16; }

// The conversion instruction is exact, subnormals included; a NaN stays one.
__device__ __forceinline__ uint32_t f16_to_f32(uint32_t bits) {
    float f;
    asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h; }" : "=f"(f) : "r"(bits & 0xffffu));
    return __float_as_uint(f);
}

// Nearest, ties to even; NaN becomes a quiet NaN with its payload's top bits. In integers: the conversion
// instruction writes another NaN.
__device__ __forceinline__ uint32_t f32_to_bf16(uint32_t bits) {
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (bits >> 16) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

__device__ __forceinline__ uint32_t f32_to_f16(uint32_t bits) {
    uint32_t m = bits & 0x7fffffffu;
    if (m > 0x7f800000u) {
        return ((bits >> 16) & 0x8000u) | 0x7e00u | ((m >> 13) & 0x3ffu);
    }
    uint32_t h;
    asm("{ .reg .b16 h; cvt.rn.f16.f32 h, %1; cvt.u32.u16 %0, h; }" : "=r"(h) : "f"(__uint_as_float(bits)));
    return h;
}

// The three element types. A lane holds its 32 elements as raw words: one f32 a word, or two 16-bit values.
struct F32 {
    static constexpr int SIZE = 4, PIECES = 8, WORDS = 32;
    static constexpr uint32_t LIMIT = RANGE_LIMIT;  // magnitudes out of range, as raw bits
    using Scalar = uint32_t;
    __device__ static __forceinline__ uint32_t to_f32(uint32_t raw) { return raw; }
    __device__ static __forceinline__ uint32_t from_f32(uint32_t bits) { return bits; }
    static constexpr uint32_t MOST = 0x7f7fffffu;  // the largest finite number, as f32 bits
    static constexpr uint32_t NAN_BITS = 0x7fffffffu;
};

struct Bf16 {
    static constexpr int SIZE = 2, PIECES = 4, WORDS = 16;
    static constexpr uint32_t LIMIT = RANGE_LIMIT >> 16;
    using Scalar = uint16_t;
    __device__ static __forceinline__ uint32_t to_f32(uint32_t raw) { return bf16_to_f32(raw); }
    __device__ static __forceinline__ uint32_t from_f32(uint32_t bits) { return f32_to_bf16(bits); }
    static constexpr uint32_t MOST = 0x7f7f0000u;
    static constexpr uint32_t NAN_BITS = 0x7fffu;
};

struct F16 {
    static constexpr int SIZE = 2, PIECES = 4, WORDS = 16;
    static constexpr uint32_t LIMIT = 0x7c00u;  // Inf and NaN; every finite f16 is in range
    using Scalar = uint16_t;
    __device__ static __forceinline__ uint32_t to_f32(uint32_t raw) { return f16_to_f32(raw); }
    __device__ static __forceinline__ uint32_t from_f32(uint32_t bits) { return f32_to_f16(bits); }
    static constexpr uint32_t MOST = 0x477fe000u;  // 65504
    static constexpr uint32_t NAN_BITS = 0x7fffu;
};

// The f32 with these bits as an E; what would become infinite becomes the largest finite number.
template <class E>
__device__ __forceinline__ uint32_t from_f32_saturating(uint32_t bits) {
    const uint32_t magnitude = bits & 0x7fffffffu;
    const bool over = magnitude > E::MOST && magnitude <= 0x7f800000u;
    return E::from_f32(over ? (bits & 0x80000000u) | E::MOST : bits);
}

// The value of element e of a lane's raw words, as a float, where all of them are finite.
template <class E>
__device__ __forceinline__ float value(const uint32_t (&w)[E::WORDS], int e);

template <>
__device__ __forceinline__ float value<F32>(const uint32_t (&w)[32], int e) {
    return __uint_as_float(w[e]);
}

template <>
__device__ __forceinline__ float value<Bf16>(const uint32_t (&w)[16], int e) {
    uint32_t bits;
    if (e % 2 == 0) {
        bits = w[e / 2] << 16;
    } else {
#if __CUDA_ARCH__ >= 800
        // (high, low) times (1, 0), for the unit of logic is the scarcer one. It makes -0 +0, and the neighbour of an
        // infinity or NaN wrong.
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(bits) : "r"(w[e / 2]), "r"(0x3f800000u), "r"(0u));
#else
        bits = w[e / 2] & 0xffff0000u;
#endif
    }
    return __uint_as_float(bits);
}

template <>
__device__ __forceinline__ float value<F16>(const uint32_t (&w)[16], int e) {
    float f;
    if (e % 2) {
        asm("{ .reg .b16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, b; }" : "=f"(f) : "r"(w[e / 2]));
    } else {
        asm("{ .reg .b16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, a; }" : "=f"(f) : "r"(w[e / 2]));
    }
    return f;
}

// The largest raw magnitude of a lane's elements. Of the patterns with a sign, the largest unsigned one is the
// largest magnitude among the negative, the largest signed one that among the positive (and each falls back to the
// other kind where there is none), so nothing has to be cleared first.
template <class E>
__device__ __forceinline__ uint32_t raw_max(const uint32_t (&w)[E::WORDS]) {
    constexpr uint32_t CLEAR = E::SIZE == 4 ? 0x7fffffffu : 0x7fff7fffu;
    uint32_t m;
#if __CUDA_ARCH__ >= 900
    uint32_t of_negative = w[0], of_positive = w[0];
#pragma unroll
    for (int i = 1; i < E::WORDS; i += 2) {
        const uint32_t a = w[i], b = w[(i + 1) % E::WORDS];
        if (E::SIZE == 4) {
            of_negative = __vimax3_u32(of_negative, a, b);
            of_positive = __vimax3_s32(of_positive, a, b);
        } else {
            of_negative = __vimax3_u16x2(of_negative, a, b);
            of_positive = __vimax3_s16x2(of_positive, a, b);
        }
    }
    of_negative &= CLEAR;
    of_positive &= CLEAR;
    m = E::SIZE == 4 ? max(of_negative, of_positive) : __vmaxu2(of_negative, of_positive);
    return E::SIZE == 4 ? m : max(m & 0xffffu, m >> 16);
#else
    // Without packed maxima: the high halves decide whole words, the low ones are shifted up.
    uint32_t low = 0;
    m = 0;
#pragma unroll
    for (int i = 0; i < E::WORDS; ++i) {
        m = max(m, w[i] & CLEAR);
        low = max(low, w[i] << 17);
    }
    return E::SIZE == 4 ? m : max(m >> 16, low >> 17);
#endif
}

// The signs of a lane's elements as a plane: bit e is the sign of element e.
template <class E>
__device__ __forceinline__ uint32_t sign_plane(const uint32_t (&w)[E::WORDS]) {
    uint32_t plane = 0;
    if (E::SIZE == 4) {
#pragma unroll
        for (int e = 31; e >= 0; --e) {
            plane = __funnelshift_l(w[e % E::WORDS], plane, 1);
        }
    } else {
        // Four sign bits at a time: their bytes in one word, then one multiply that lines them up at the top.
#pragma unroll
        for (int i = 7; i >= 0; --i) {
            uint32_t bytes = __byte_perm(w[2 * i % E::WORDS], w[(2 * i + 1) % E::WORDS], 0x7531) & 0x80808080u;
            plane = __funnelshift_l(bytes * 0x00204081u, plane, 4);
        }
    }
    return plane;
}
