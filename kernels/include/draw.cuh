// From a position in the training run to 32 draws, one for each element of a group. Mirrors src/numerics/draw.rs.
//
// The draws are kept as 16 words of two 16-bit halves, x with its top bit set, and the shared byte v; `unit` turns
// one into the float bits 0x3f800000 | k with a single byte permute.
#pragma once
#include "constants.h"
#include "philox.cuh"

// The part of a draw's position that a launch shares; the group and the tensor come with each element and item.
struct Draw {
    uint32_t keys[2 * PHILOX_ROUNDS];  // the key of each round: the seed, grown by W0 and W1
    uint32_t step;
    uint32_t high;          // domain << 24 | micro-batch
    const uint32_t* state;  // its step and micro-batch are added, where it is not null
};

// The step, and domain << 24 | micro-batch.
__device__ __forceinline__ uint2 moment(const Draw& at) {
    if (at.state == nullptr) {
        return make_uint2(at.step, at.high);
    }
    constexpr uint32_t MICRO_BATCH = MICRO_BATCHES_MAX - 1;
    const uint32_t micro_batch = (at.high + at.state[STATE_MICRO_BATCH]) & MICRO_BATCH;
    return make_uint2(at.step + at.state[STATE_STEP], (at.high & ~MICRO_BATCH) | micro_batch);
}

struct Draws {
    uint32_t x[16];  // word 4 q + i holds elements 8 q + 2 i (low half) and 8 q + 2 i + 1
    uint32_t v;      // byte 0: the shared bits; byte 1: 0x3f, the exponent of 1.0
};

// The lower eight bits shared by a group: the top bits of the eight halves.
__device__ __forceinline__ uint32_t shared_bits(uint4 w) {
    constexpr uint32_t TOPS = 0x80008000u;
    uint32_t t = (w.x & TOPS) | ((w.y & TOPS) >> 1) | ((w.z & TOPS) >> 2) | ((w.w & TOPS) >> 3);
    return (t >> 24) | ((t >> 12) & 0xfu);
}

__device__ __forceinline__ Draws expand(uint4 c) {
    constexpr uint32_t TOPS = 0x80008000u;
    const uint32_t w[4] = {c.x, c.y, c.z, c.w};
    uint32_t f[4];  // halves one further: (h[2i+1], h[2i+2])
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        f[i] = __funnelshift_r(w[i], w[(i + 1) % 4], 16);
    }
    Draws d;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        d.x[i] = w[i] | TOPS;
        d.x[4 + i] = (w[i] ^ f[i]) | TOPS;
        d.x[8 + i] = (w[i] ^ w[(i + 1) % 4]) | TOPS;
        d.x[12 + i] = (w[i] ^ f[(i + 1) % 4]) | TOPS;
    }
    d.v = shared_bits(c) | 0x3f00u;
    return d;
}

// The upper 16 of the 23 bits of each draw, two to a word as in `Draws`: word i is one(i) ^ other(i), so that what else is joined to
// it takes no further instruction.
struct Uppers {
    uint32_t halves[4], next[4], with_last[4];

    __device__ __forceinline__ uint32_t one(int i) const { return with_last[i % 4]; }
    __device__ __forceinline__ uint32_t other(int i) const {
        return i < 4 ? 0u : i < 8 ? next[i % 4] : i < 12 ? halves[(i + 1) % 4] : next[(i + 1) % 4];
    }
};

__device__ __forceinline__ Uppers expand_uppers(uint4 c) {
    constexpr uint32_t UPPER = 0xfffefffeu;
    const uint32_t last = (shared_bits(c) >> 7) * 0x00010001u;
    Uppers d = {{c.x << 1 & UPPER, c.y << 1 & UPPER, c.z << 1 & UPPER, c.w << 1 & UPPER}, {}, {}};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        d.next[i] = __funnelshift_r(d.halves[i], d.halves[(i + 1) % 4], 16);
        d.with_last[i] = d.halves[i] | last;
    }
    return d;
}

// The Philox call of a group; `expand` makes its draws. Kept apart because four registers wait for the elements
// better than seventeen.
template <int ROUNDS = PHILOX_ROUNDS>
__device__ __forceinline__ uint4 call(const Draw& at, uint32_t tensor, uint32_t group) {
    const uint2 now = moment(at);
    return philox4x32<ROUNDS>(make_uint4(group, tensor, now.x, now.y), at.keys);
}

// What the first three rounds share for all groups of a tensor: round 1's product of the step, round 2's product of what comes of
// it, and joins that hold no group. A word is named after its place in the counter and the round behind which it stands.
struct Opening {
    uint32_t z1, x2, z2, z3;
};

// What comes from device memory is the same in every lane, which the compiler cannot know: joined over the warp it is a uniform
// value, and takes no register of each lane.
__device__ __forceinline__ Opening open(const Draw& at, uint32_t tensor) {
    uint2 now = moment(at);
#if __CUDA_ARCH__ >= 800
    now = make_uint2(__reduce_max_sync(0xffffffffu, now.x), __reduce_max_sync(0xffffffffu, now.y));
#endif
    const uint2 b = mul_wide(M1, now.x);
    const uint2 a = mul_wide(M0, b.x ^ tensor ^ at.keys[0]);
    return {now.y ^ at.keys[1], b.y ^ at.keys[2], a.x ^ at.keys[3], a.y ^ at.keys[5]};
}

// The same call as above.
__device__ __forceinline__ uint4 call(const Draw& at, const Opening& opening, uint32_t group) {
    static_assert(PHILOX_ROUNDS >= 3);
    const uint2 a = mul_wide(M0, group);
    const uint2 b = mul_wide(M1, a.x ^ opening.z1);
    const uint2 c = mul_wide(M0, b.x ^ opening.x2);
    const uint2 d = mul_wide(M1, a.y ^ opening.z2);
    return philox4x32_from<3>(make_uint4(d.x ^ b.y ^ at.keys[4], d.y, c.x ^ opening.z3, c.y), at.keys);
}

// Draw k of element e under the exponent of 1.0: the float 1 + k 2^-23.
__device__ __forceinline__ float under_one(const Draws& d, int e) {
    return __uint_as_float(__byte_perm(d.x[e / 2], d.v, e % 2 ? 0x5324 : 0x5104));
}

// The uniform u = (2 k + 1) / 2^24 of element e: exact.
__device__ __forceinline__ float unit(const Draws& d, int e) {
    return __fadd_rn(under_one(d, e), -0x1.fffffep-1f);
}

// Draw k of element e from its group's Philox call, for paths that loop over elements.
__device__ __forceinline__ uint32_t draw_of(uint4 c, int e) {
    const auto half = [&](int j) {
        const uint32_t w = j < 4 ? (j < 2 ? c.x : c.y) : (j < 6 ? c.z : c.w);
        return (w >> (16 * (j % 2))) & 0xffffu;
    };
    const int q = e / 8, j = e % 8;
    const uint32_t x = q == 0 ? half(j) : half(j) ^ half((j + q) % 8);
    return ((x & 0x7fffu) << 8) | shared_bits(c);
}

// u = (2 k + 1) / 2^24 of a draw.
__device__ __forceinline__ float unit_of(uint32_t k) {
    return __fadd_rn(__uint_as_float(0x3f800000u | k), -0x1.fffffep-1f);
}
