// SGD, AdamW, and f32 rounded stochastically to bf16. Mirrors src/numerics/update.rs: every operation below is one IEEE
// f32 operation, rounded to nearest, in the order that is stated there.
#pragma once
#include "draw.cuh"
#include "item.cuh"

// What every update shares. Mirrors `Source` in src/cuda/update.rs.
struct Source {
    Draw draw;
    const Report* guards;  // the reports that make the whole step void; null without
    uint32_t slots;
    uint32_t block_shift;  // log2 of the block
    float factor;
    uint32_t unused;
};

struct Sgd {
    Source source;
    float learning_rate, momentum, weight_decay;
    uint32_t nesterov;

    static constexpr int STATE = 1;

    __device__ __forceinline__ bool keeps_state() const { return momentum != 0.0f; }

    __device__ __forceinline__ void update(float g, float& w, float& b, float&) const {
        const float d = weight_decay == 0.0f ? g : __fadd_rn(g, __fmul_rn(weight_decay, w));
        float n = d;
        if (momentum != 0.0f) {
            b = __fadd_rn(__fmul_rn(momentum, b), d);
            n = nesterov ? __fadd_rn(d, __fmul_rn(momentum, b)) : b;
        }
        w = __fsub_rn(w, __fmul_rn(learning_rate, n));
    }
};

struct AdamW {
    Source source;
    float learning_rate, beta1, rest1, beta2, rest2, correct1, correct2, eps, keep;
    uint32_t unused;

    static constexpr int STATE = 2;

    __device__ __forceinline__ bool keeps_state() const { return true; }

    __device__ __forceinline__ void update(float g, float& w, float& m, float& v) const {
        m = __fadd_rn(__fmul_rn(m, beta1), __fmul_rn(g, rest1));
        v = __fadd_rn(__fmul_rn(v, beta2), __fmul_rn(__fmul_rn(g, g), rest2));
        const float root = __fsqrt_rn(__fmul_rn(v, correct2));
        const float adjusted = __fdiv_rn(__fmul_rn(m, correct1), __fadd_rn(root, eps));
        w = __fsub_rn(__fmul_rn(w, keep), __fmul_rn(adjusted, learning_rate));
    }
};

// The upper 16 bits of the draws of elements 4 part to 4 part + 3 of a group, from its Philox call: two a word, first
// in the low half. The top 15 are the draw's own, the lowest is the top one of the shared byte.
__device__ __forceinline__ uint2 upper_draws(uint4 c, int part) {
    const auto word = [&](int i) {
        const uint32_t low = i & 1 ? c.y : c.x, high = i & 1 ? c.w : c.z;
        return i & 2 ? high : low;
    };
    const int q = part >> 1, at = (part & 1) * 2;
    uint32_t a = word(at), b = word(at + 1);
    if (q > 0) {
        const int from = at + (q >> 1);
        const uint32_t x = word(from & 3), y = word((from + 1) & 3), z = word((from + 2) & 3);
        a ^= q & 1 ? __funnelshift_r(x, y, 16) : x;
        b ^= q & 1 ? __funnelshift_r(y, z, 16) : y;
    }
    const uint32_t low = (c.x >> 31) * 0x00010001u;
    return make_uint2(((a << 1) & 0xfffefffeu) | low, ((b << 1) & 0xfffefffeu) | low);
}

// f32 bits to bf16 bits: up in magnitude where the draw's upper 16 bits are below those dropped.
__device__ __forceinline__ uint32_t to_bf16(uint32_t bits, uint32_t upper) {
    if ((bits & 0x7f800000u) == 0x7f800000u) {
        return (bits >> 16) | (bits & 0x007fffffu ? 0x40u : 0u);
    }
    return (bits >> 16) + (upper < (bits & 0xffffu) ? 1u : 0u);
}
