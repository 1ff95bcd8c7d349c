// A lane's 32 sums become levels under the block's new scale.
#pragma once
#include "level.cuh"

// Levels gathered as floats, half a word at a time: the sum of l 2^(BITS j) above 2^23 plus the top bits.
template <int BITS>
struct Gather {
    float half[2];
    __device__ __forceinline__ Gather() {
        half[0] = half[1] = 0x1p23f + static_cast<float>(TOPS<BITS> & 0xffffu);
    }
    __device__ __forceinline__ void add(int i, float level) {
        float& to = half[i / PER_HALF<BITS>];
        to = __fmaf_rn(level, static_cast<float>(1 << (BITS * (i % PER_HALF<BITS>))), to);
    }
    __device__ __forceinline__ uint32_t word() const {
        return __byte_perm(__float_as_uint(half[0]), __float_as_uint(half[1]), 0x5410) ^ TOPS<BITS>;
    }
};

// Every v rounded to a level, which under a scale of 0 is 0. Returns whether any was too near an edge to be decided like this.
template <int BITS>
__device__ __forceinline__ bool round_all(const float (&v)[32], const Rounding& by, uint4 random, uint32_t sixteen,
                                          uint32_t (&words)[BITS]) {
    constexpr int PER = 32 / BITS;
    if constexpr (BITS == 4) {
        const Uppers d = expand_uppers(random);
        Edge edge;
#pragma unroll
        for (int i = 0; i < BITS; ++i) {
            uint2 t[PER / 2];
#pragma unroll
            for (int j = 0; j < PER / 2; ++j) {
                const int e = PER * i + 2 * j;
                t[j] = round_levels(v[e], v[e + 1], by, d.one(e / 2), d.other(e / 2));
                edge.add(t[j]);
            }
            words[i] = fields_of(t, sixteen);
        }
        return edge.found();
    } else {
        const Draws d = expand(random);
        float edge = 0.0f;
#pragma unroll
        for (int i = 0; i < BITS; ++i) {
            Gather<BITS> gather;
#pragma unroll
            for (int j = 0; j < PER; ++j) {
                gather.add(j, round_level(v[PER * i + j], by, under_one(d, PER * i + j), edge));
            }
            words[i] = gather.word();
        }
        return edge > 0.5f - NEAR<BITS>;
    }
}

// The same for any v, from exact operations.
template <int BITS>
__device__ __forceinline__ void round_all_exactly(float (&v)[32], uint32_t s, uint4 random, uint32_t (&words)[BITS]) {
    constexpr int PER = 32 / BITS;
    if (s >= 0x70000000u) {  // 2^97: near the end of the range; what this flushes is below 2^-24 s
        s -= 32u << 23;
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            v[e] = __fmul_rn(v[e], 0x1p-32f);
        }
    }
    const Rounding by = rounding(s);
    const Draws d = expand(random);
#pragma unroll
    for (int i = 0; i < BITS; ++i) {
        Gather<BITS> gather;
#pragma unroll
        for (int j = 0; j < PER; ++j) {
            gather.add(j, round_level_exactly(v[PER * i + j], by, unit(d, PER * i + j)));
        }
        words[i] = s == 0 ? 0u : gather.word();
    }
}
