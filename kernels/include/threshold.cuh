// Threshold rules: integer sums of magnitudes, and what is computed from them. Mirrors src/numerics/threshold.rs.
#pragma once
#include "float.cuh"

__device__ __forceinline__ uint32_t chunk_exponent(uint32_t max) {
    uint32_t e = max >> 23;
    return e == 0 ? 1u : e;
}

template <uint32_t BITS>
__device__ __forceinline__ uint32_t fixed(uint32_t m, uint32_t exponent) {
    uint32_t d = exponent - (m >> 23);
    uint32_t mantissa = ((m & 0x007fffffu) | MIN_NORMAL) >> (24 - BITS);
    return m < MIN_NORMAL || d > 31 ? 0u : mantissa >> d;
}

// An integer sum over a group: `total` units of 2^(exponent - 127 - 19).
struct Sum {
    uint64_t total;
    uint32_t exponent;
    uint64_t count;
};

// floor(total 2^64 / count) as 128 bits, and whether anything is left over.
struct Quotient {
    uint64_t high, low;
    bool sticky;
};

__device__ __forceinline__ Quotient quotient(uint64_t total, uint64_t count) {
    Quotient q;
    q.high = total / count;
    uint64_t rest = total % count;  // below count, at most 2^37: the division by digits of 16 bits stays in 64
    q.low = 0;
    for (int i = 0; i < 4; ++i) {
        rest <<= 16;
        q.low = (q.low << 16) | (rest / count);
        rest %= count;
    }
    q.sticky = rest != 0;
    return q;
}

// The position of the top bit of a 128-bit number that is not zero.
__device__ __forceinline__ int top_bit(const Quotient& q) {
    return q.high ? 127 - __clzll(q.high) : 63 - __clzll(q.low);
}

// The low 64 bits of q >> shift, shift below 128.
__device__ __forceinline__ uint64_t shifted(const Quotient& q, int shift) {
    if (shift >= 64) {
        return q.high >> (shift - 64);
    }
    return shift == 0 ? q.low : (q.low >> shift) | (q.high << (64 - shift));
}

__device__ __noinline__ uint32_t mean(const Sum& sum) {
    if (sum.count == 0 || sum.total == 0) {
        return 0u;
    }
    Quotient q = quotient(sum.total, sum.count);
    int top = top_bit(q);
    int exponent = top + static_cast<int>(sum.exponent) - (64 + static_cast<int>(SUM_BITS) - 1);
    if (exponent < 1) {
        return 0u;
    }
    uint32_t mantissa = static_cast<uint32_t>(top >= 23 ? shifted(q, top - 23) : q.low << (23 - top));
    return (static_cast<uint32_t>(exponent) << 23) | (mantissa & 0x007fffffu);
}

__device__ __noinline__ uint32_t mean_bf16(const Sum& sum) {
    if (sum.count == 0 || sum.total == 0) {
        return 0u;
    }
    Quotient q = quotient(sum.total, sum.count);
    int top = top_bit(q);
    int exponent = top + static_cast<int>(sum.exponent) - (64 + static_cast<int>(SUM_BITS) - 1);
    if (exponent < 1) {
        return 0u;
    }
    int shift = top - 7;  // total / count is above 2^-38, so the top bit lies above bit 26
    uint32_t kept = static_cast<uint32_t>(shifted(q, shift));
    bool half = shifted(q, shift - 1) & 1;
    bool below;
    if (shift - 1 >= 64) {
        below = q.low != 0 || (q.high & ((1ull << (shift - 1 - 64)) - 1)) != 0;
    } else {
        below = (q.low & ((1ull << (shift - 1)) - 1)) != 0;
    }
    bool up = half && (below || q.sticky || (kept & 1));
    return ((static_cast<uint32_t>(exponent) << 7) + (kept & 0x7fu) + (up ? 1u : 0u)) << 16;
}

// mean() of at most 2^32 units over a block that is full, of 2^shift elements: no division.
__device__ __forceinline__ uint32_t mean_of_full_block(uint32_t total, uint32_t exponent, uint32_t shift) {
    const uint32_t m = __float_as_uint(__uint2float_rz(total));
    const int up = static_cast<int>(exponent - shift) - (127 + static_cast<int>(SUM_BITS) - 1);
    return static_cast<int>(m >> 23) + up < 1 ? 0u : m + (static_cast<uint32_t>(up) << 23);
}

// mean_bf16() of at most 2^32 units over at most 4096 elements: one reciprocal.
//
// `n` is the total rounded to odd, which lies on the same side as the total of whatever has fewer bits than 24, such as
// `count` times a number half-way between two bf16 (22 bits). So the nearest bf16 to n / count is the one asked for, and
// as n / count is more than half a place away from each half-way number that it does not equal, it may be rounded to 24
// bits before.
__device__ __forceinline__ uint32_t mean_bf16_of_block(uint32_t total, uint32_t exponent, uint32_t count) {
    const float cut = __uint2float_rz(total);
    const float n = __uint_as_float(__float_as_uint(cut) | (__float2uint_rz(cut) != total ? 1u : 0u));
    const float c = __uint2float_rn(count);
    float inv;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inv) : "f"(c));
    const float q = __fmul_rn(n, inv);
    const uint32_t m = __float_as_uint(__fmaf_rn(__fmaf_rn(-q, c, n), inv, q));
    // Below 2^-126 nothing is left; where the exponent is 40 or more, nothing is so small.
    const float least = __fmul_rn(c, __uint_as_float((127 + SUM_BITS - min(exponent, 40u)) << 23));
    const uint32_t nearest = (m + 0x7fffu + (m >> 16 & 1u)) & 0xffff0000u;
    return total == 0 || n < least ? 0u : nearest + ((exponent - (127 + SUM_BITS - 1)) << 23);
}

// The product of two finite numbers rounded to zero, subnormals as zero, at most the largest finite number.
__device__ __forceinline__ uint32_t mul_trunc(uint32_t a, uint32_t b) {
    float product;
    asm("mul.rz.ftz.f32 %0, %1, %2;" : "=f"(product) : "f"(__uint_as_float(a)), "f"(__uint_as_float(b)));
    return __float_as_uint(product);
}

__device__ inline uint32_t relative(const Sum& sum, uint32_t factor) { return mul_trunc(factor, mean(sum)); }

// First and second moments over a group, for clipping at c sigma.
struct Moments {
    int64_t first;
    uint64_t second;
    uint32_t exponent;
    uint64_t count;
};

// floor(sqrt(x)) of 64 bits, exact: a double's root is within one of it.
__device__ inline uint64_t isqrt(uint64_t x) {
    uint64_t r = static_cast<uint64_t>(__dsqrt_rn(static_cast<double>(x)));
    r = r > 0xffffffffull ? 0xffffffffull : r;
    while (r * r > x) {
        --r;
    }
    while (r < 0xffffffffull && (r + 1) * (r + 1) <= x) {
        ++r;
    }
    return r;
}

// The standard deviation, from the moments over the count.
__device__ inline uint32_t sigma_of(uint64_t mean, uint64_t square, uint32_t of_group) {
    uint64_t variance = square > mean * mean ? square - mean * mean : 0;
    uint64_t root = isqrt(variance << 32);
    if (root == 0) {
        return 0u;
    }
    int top = 63 - __clzll(root);
    int exponent = top + static_cast<int>(of_group) - (16 + static_cast<int>(SQUARE_BITS) - 1);
    if (exponent < 1) {
        return 0u;
    }
    uint32_t mantissa = static_cast<uint32_t>(top >= 23 ? root >> (top - 23) : root << (23 - top));
    return (static_cast<uint32_t>(exponent) << 23) | (mantissa & 0x007fffffu);
}

__device__ __noinline__ uint32_t sigma(const Moments& m) {
    if (m.count == 0) {
        return 0u;
    }
    uint64_t mean = static_cast<uint64_t>(m.first < 0 ? -m.first : m.first) / m.count;
    return sigma_of(mean, m.second / m.count, m.exponent);
}

// 0 means no clipping.
__device__ inline uint32_t clip(const Moments& m, uint32_t c) { return mul_trunc(c, sigma(m)); }
