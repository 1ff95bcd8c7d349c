// Update: weights follow their gradients straight out of levels and scales, in place. Mirrors src/op/update.rs and
// src/cpu/update.rs.
//
// Launch: one CTA of 128 threads for each 4096 elements of each item; a lane takes 4 elements, 8 times.
// Item: x = the gradient: BITS ceil(n / 32) words of levels, or n f32 where b is null; b = bf16 scales, one a block;
// a = n weights; c = n f32, the momentum or first moment (null where there is no momentum); report = n f32, the second
// moment, of AdamW.
// Where any of `guards` counts non-finite elements nothing is written. Every CTA reads all of them: they stay in the
// second-level cache, but a list of thousands of tensors is better checked on the host.
// Determinism: that of the CPU, bit for bit. Bytes an element of AdamW in f32: 24 + BITS / 8 + 2 / block.
#include "update.cuh"

constexpr int STEP = 512;  // elements of a CTA at a time: 4 a lane

template <class E>
struct Weights;

template <>
struct Weights<F32> {
    uint4 raw;
    __device__ __forceinline__ void load(const void* from, uint64_t i) {
        raw = *reinterpret_cast<const uint4*>(static_cast<const float*>(from) + i);
    }
    __device__ __forceinline__ float get(int j) const {
        return __uint_as_float(j == 0 ? raw.x : j == 1 ? raw.y : j == 2 ? raw.z : raw.w);
    }
};

template <>
struct Weights<Bf16> {
    uint2 raw;
    __device__ __forceinline__ void load(const void* from, uint64_t i) {
        raw = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(from) + i);
    }
    __device__ __forceinline__ float get(int j) const {
        const uint32_t word = j < 2 ? raw.x : raw.y;
        return __uint_as_float(j % 2 ? word & 0xffff0000u : word << 16);
    }
};

// The words that hold the levels of 4 elements, and the levels.
template <int BITS>
struct Levels {
    uint32_t w[2];
    __device__ __forceinline__ void load(const void* from, uint64_t i) {
        const uint32_t* words = static_cast<const uint32_t*>(from);
        if (BITS == 2) {
            const uint32_t plus = __ldg(words + (i >> 5) * 2), minus = __ldg(words + (i >> 5) * 2 + 1);
            w[0] = (plus & ~minus) >> (i & 31);
            w[1] = (minus & ~plus) >> (i & 31);
        } else if (BITS == 4) {
            w[0] = __ldg(static_cast<const uint16_t*>(from) + (i >> 2));
        } else if (BITS == 8) {
            w[0] = __ldg(words + (i >> 2));
        } else {
            w[0] = __ldg(words + (i >> 1));
            w[1] = __ldg(words + (i >> 1) + 1);
        }
    }
    __device__ __forceinline__ float get(int j) const {
        if (BITS == 2) {
            return static_cast<float>(static_cast<int>(w[0] >> j & 1u) - static_cast<int>(w[1] >> j & 1u));
        }
        const uint32_t word = BITS == 16 ? w[j / 2] : w[0];
        const int at = BITS == 16 ? 16 * (j % 2) : BITS * j;
        return static_cast<float>(static_cast<int32_t>(word << (32 - BITS - at)) >> (32 - BITS));
    }
};

__device__ __forceinline__ float lane_of(const float4& v, int j) { return j == 0 ? v.x : j == 1 ? v.y : j == 2 ? v.z : v.w; }

__device__ __forceinline__ bool void_step(const Source& source) {
    if (source.guards == nullptr) {
        return false;
    }
    bool marked = false;
    for (uint32_t i = threadIdx.x; i < source.slots; i += 128) {
        marked |= source.guards[i].non_finite != 0;
    }
    return __syncthreads_or(marked);
}

__device__ __forceinline__ float gradient(float level, float scale, float factor) {
    return __fmul_rn(__fmul_rn(level, scale), factor);
}

__device__ __forceinline__ uint32_t scale_bits(const Item& item, uint64_t i, uint32_t shift) {
    return static_cast<uint32_t>(__ldg(static_cast<const uint16_t*>(item.b) + (i >> shift))) << 16;
}

// A whole CTA of aligned elements: 16 bytes a load, all loads of two steps before the first use.
template <class E, int BITS, bool DENSE, class Rule>
__device__ __forceinline__ void fast(const Rule& p, const Item& item, uint64_t start) {
    constexpr int AHEAD = 2;
    const Source& source = p.source;
    float* const first = static_cast<float*>(item.c);
    float* const second = reinterpret_cast<float*>(item.report);
    const bool state = p.keeps_state();
    // The Philox calls of a lane's neighbours: lane j of eight makes that of step j, for all of them.
    uint4 own = make_uint4(0, 0, 0, 0);
    if (E::SIZE == 2) {
        const uint32_t group = static_cast<uint32_t>((item.first + start) >> 5);
        own = call(source.draw, item.tensor, group + (threadIdx.x & 7) * (STEP / 32) + (threadIdx.x >> 3));
    }
#pragma unroll 1
    for (int step = 0; step < CTA_TILE / STEP; step += AHEAD) {
        Weights<E> weights[AHEAD];
        Levels<BITS> levels[AHEAD];
        float4 dense[AHEAD], m[AHEAD], v[AHEAD];
        uint32_t scale[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const uint64_t i = start + (step + a) * STEP + 4 * threadIdx.x;
            weights[a].load(item.a, i);
            if (DENSE) {
                dense[a] = *reinterpret_cast<const float4*>(static_cast<const float*>(item.x) + i);
            } else {
                levels[a].load(item.x, i);
                scale[a] = scale_bits(item, i, source.block_shift);
            }
            if (state) {
                m[a] = *reinterpret_cast<const float4*>(first + i);
            }
            if (Rule::STATE == 2) {
                v[a] = *reinterpret_cast<const float4*>(second + i);
            }
        }
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const uint64_t i = start + (step + a) * STEP + 4 * threadIdx.x;
            float w[4], b[4] = {0, 0, 0, 0}, c[4] = {0, 0, 0, 0};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float g = DENSE ? __fmul_rn(lane_of(dense[a], j), source.factor)
                                      : gradient(levels[a].get(j), __uint_as_float(scale[a]), source.factor);
                w[j] = weights[a].get(j);
                if (state) {
                    b[j] = lane_of(m[a], j);
                }
                if (Rule::STATE == 2) {
                    c[j] = lane_of(v[a], j);
                }
                p.update(g, w[j], b[j], c[j]);
            }
            if (state) {
                *reinterpret_cast<float4*>(first + i) = make_float4(b[0], b[1], b[2], b[3]);
            }
            if (Rule::STATE == 2) {
                *reinterpret_cast<float4*>(second + i) = make_float4(c[0], c[1], c[2], c[3]);
            }
            if (E::SIZE == 4) {
                *reinterpret_cast<float4*>(static_cast<float*>(item.a) + i) = make_float4(w[0], w[1], w[2], w[3]);
            } else {
                const int from = (lane_id() & 24) | (step + a);
                const uint4 philox = make_uint4(__shfl_sync(ALL, own.x, from), __shfl_sync(ALL, own.y, from),
                                                __shfl_sync(ALL, own.z, from), __shfl_sync(ALL, own.w, from));
                const uint2 k = upper_draws(philox, threadIdx.x & 7);
                const uint32_t low = to_bf16(__float_as_uint(w[0]), k.x & 0xffffu) |
                                     to_bf16(__float_as_uint(w[1]), k.x >> 16) << 16;
                const uint32_t high = to_bf16(__float_as_uint(w[2]), k.y & 0xffffu) |
                                      to_bf16(__float_as_uint(w[3]), k.y >> 16) << 16;
                *reinterpret_cast<uint2*>(static_cast<uint16_t*>(item.a) + i) = make_uint2(low, high);
            }
        }
    }
}

// Tails and views that are not aligned: one element at a time.
template <class E, int BITS, bool DENSE, class Rule>
__device__ __noinline__ void careful(const Rule& p, const Item& item, uint64_t start) {
    const Source& source = p.source;
    float* const first = static_cast<float*>(item.c);
    float* const second = reinterpret_cast<float*>(item.report);
    const bool state = p.keeps_state();
    typename E::Scalar* const weights = static_cast<typename E::Scalar*>(item.a);
    for (int e = threadIdx.x; e < CTA_TILE; e += 128) {
        const uint64_t i = start + e;
        if (i >= item.n) {
            return;
        }
        float g;
        if (DENSE) {
            g = __fmul_rn(static_cast<const float*>(item.x)[i], source.factor);
        } else {
            const uint32_t* words = static_cast<const uint32_t*>(item.x);
            int level;
            if (BITS == 2) {
                const uint32_t plus = words[(i >> 5) * 2], minus = words[(i >> 5) * 2 + 1];
                level = static_cast<int>((plus & ~minus) >> (i & 31) & 1u) - static_cast<int>((minus & ~plus) >> (i & 31) & 1u);
            } else {
                constexpr int PER_WORD = 32 / BITS;
                const int at = BITS * static_cast<int>(i % PER_WORD);
                level = static_cast<int32_t>(words[i / PER_WORD] << (32 - BITS - at)) >> (32 - BITS);
            }
            g = gradient(static_cast<float>(level), __uint_as_float(scale_bits(item, i, source.block_shift)), source.factor);
        }
        float w = __uint_as_float(E::to_f32(weights[i]));
        float b = state ? first[i] : 0.0f;
        float c = Rule::STATE == 2 ? second[i] : 0.0f;
        p.update(g, w, b, c);
        if (state) {
            first[i] = b;
        }
        if (Rule::STATE == 2) {
            second[i] = c;
        }
        uint32_t raw = __float_as_uint(w);
        if (E::SIZE == 2) {
            const uint64_t index = item.first + i;
            const uint2 k = upper_draws(call(source.draw, item.tensor, static_cast<uint32_t>(index >> 5)), (index & 31) >> 2);
            const uint32_t word = index & 2 ? k.y : k.x;
            raw = to_bf16(raw, index & 1 ? word >> 16 : word & 0xffffu);
        }
        weights[i] = static_cast<typename E::Scalar>(raw);
    }
}

template <class E, int BITS, class Rule>
__device__ __forceinline__ void update(const Rule& p, const Item& item) {
    if (void_step(p.source)) {
        return;
    }
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_TILE;
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(item.x) | reinterpret_cast<uintptr_t>(item.a) |
                                reinterpret_cast<uintptr_t>(item.c) | reinterpret_cast<uintptr_t>(item.report);
    const bool wide = start + CTA_TILE <= item.n && (addresses & 15) == 0;
    if (item.b == nullptr) {
        if (wide) {
            fast<E, BITS, true>(p, item, start);
        } else {
            careful<E, BITS, true>(p, item, start);
        }
    } else if (wide) {
        fast<E, BITS, false>(p, item, start);
    } else {
        careful<E, BITS, false>(p, item, start);
    }
}

#define COUNT_one 1
#define COUNT_many MANY
#define TYPE_f32 F32
#define TYPE_bf16 Bf16
#define KERNEL(RULE, NAME, BITS, E, N)                                                                            \
    extern "C" __global__ void __launch_bounds__(128) update_##NAME##_##BITS##_##E##_##N(                         \
        const __grid_constant__ RULE p, const __grid_constant__ Table<COUNT_##N> table) {                         \
        update<TYPE_##E, BITS>(p, item_of(table, blockIdx.x));                                                    \
    }
#define EVERY_TABLE(RULE, NAME, BITS, E) KERNEL(RULE, NAME, BITS, E, one) KERNEL(RULE, NAME, BITS, E, many)
#define EVERY_TYPE(RULE, NAME, BITS) EVERY_TABLE(RULE, NAME, BITS, f32) EVERY_TABLE(RULE, NAME, BITS, bf16)
#define EVERY_WIDTH(RULE, NAME) \
    EVERY_TYPE(RULE, NAME, 2) EVERY_TYPE(RULE, NAME, 4) EVERY_TYPE(RULE, NAME, 8) EVERY_TYPE(RULE, NAME, 16)
EVERY_WIDTH(Sgd, sgd)
EVERY_WIDTH(AdamW, adamw)
