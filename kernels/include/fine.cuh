// Four elements at a time: accumulation in 32 bits, whose loads and stores need no exchange between lanes.
#pragma once
#include "exact.cuh"
#include "output.cuh"

// Pieces of 4 elements that a thread takes of the 4096 of its CTA.
constexpr int FOURS = CTA_TILE / (4 * 128);

// Whether a CTA's 4096 elements exist and whatever it reads and writes in pieces of four is aligned.
template <class E>
__device__ __forceinline__ bool whole_fours(uint64_t start, uint64_t n, const void* elements, const void* words) {
    return start + CTA_TILE <= n && aligned_to(elements, 4 * E::SIZE) && aligned_to(words, 16);
}

// Four elements as they lie in memory: words of one or of two of them. They are turned into floats where they are used: until then
// all loads of a thread are on their way.
template <class E>
struct Four {
    uint32_t raw[E::SIZE];

    // The elements from `at` on, zeros past n. WHOLE: they exist and are aligned.
    template <bool WHOLE>
    __device__ __forceinline__ void load(const void* from, uint64_t at, uint64_t n) {
        const typename E::Scalar* const src = static_cast<const typename E::Scalar*>(from) + at;
        if constexpr (WHOLE && E::SIZE == 4) {
            const uint4 q = __ldcs(reinterpret_cast<const uint4*>(src));
            raw[0] = q.x, raw[1] = q.y, raw[2] = q.z, raw[3] = q.w;
        } else if constexpr (WHOLE) {
            const uint2 q = __ldcs(reinterpret_cast<const uint2*>(src));
            raw[0] = q.x, raw[1] = q.y;
        } else {
#pragma unroll
            for (int i = 0; i < E::SIZE; ++i) {
                raw[i] = 0;
            }
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const uint32_t x = at + e < n ? static_cast<uint32_t>(src[e]) : 0u;
                raw[e * E::SIZE / 4] |= E::SIZE == 4 ? x : x << (16 * (e % 2));
            }
        }
    }

    // Element e as f32 bits.
    __device__ __forceinline__ uint32_t at(int e) const {
        if constexpr (E::SIZE == 4) {
            return raw[e];
        } else {
            return E::to_f32(raw[e / 2] >> (16 * (e % 2)) & 0xffffu);
        }
    }
};

template <bool WHOLE>
__device__ __forceinline__ void load_four_words(const uint32_t* from, uint64_t at, uint64_t n, uint32_t (&v)[4]) {
    if constexpr (WHOLE) {
        const uint4 q = *reinterpret_cast<const uint4*>(from + at);
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
    } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            v[e] = at + e < n ? from[at + e] : 0u;
        }
    }
}

template <bool WHOLE>
__device__ __forceinline__ void store_four_words(uint32_t* to, uint64_t at, uint64_t n, const uint32_t (&v)[4]) {
    if constexpr (WHOLE) {
        __stwb(reinterpret_cast<uint4*>(to + at), make_uint4(v[0], v[1], v[2], v[3]));
    } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            if (at + e < n) {
                to[at + e] = v[e];
            }
        }
    }
}

// Reports a thread's elements out of range, bit 4 i + e of `found` for element e of piece i, and how many were clipped. `own`: the
// index in the tensor of the thread's first element.
__device__ __forceinline__ void report_fours(Report* to, uint32_t found, uint64_t own, uint32_t clipped) {
    if (__any_sync(ALL, found | clipped)) {
        const uint32_t first = static_cast<uint32_t>(__ffs(static_cast<int>(found))) - 1;
        report(to, __popc(found), found ? own + 512 * (first / 4) + first % 4 : ~0ull, clipped);
    }
}

struct AccumulateF32 {
    uint32_t weight;  // f32 bits, a subnormal already 0
    uint32_t pad;
};

// One tensor to accumulate in f32.
struct F32Item {
    const void* gradient;
    uint32_t* sum;  // f32 bits
    Report* report;
    uint64_t n;
    uint64_t first;
    uint32_t begin;
    uint32_t pad;
};

template <class E, bool WHOLE>
__device__ __forceinline__ void accumulate_f32_tile(const AccumulateF32& p, const F32Item& item) {
    const uint64_t own = cta_start(item) + 4 * threadIdx.x;
    Four<E> x[FOURS];
    uint32_t sum[FOURS][4];
#pragma unroll
    for (int i = 0; i < FOURS; ++i) {
        x[i].template load<WHOLE>(item.gradient, own + 512 * i, item.n);
        load_four_words<WHOLE>(item.sum, own + 512 * i, item.n, sum[i]);
    }
    uint32_t found = 0;
#pragma unroll
    for (int i = 0; i < FOURS; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            bool refused;
            sum[i][e] = sum_f32(sum[i][e], weighted(x[i].at(e), p.weight), refused);
            found |= refused ? 1u << (4 * i + e) : 0u;
        }
        store_four_words<WHOLE>(item.sum, own + 512 * i, item.n, sum[i]);
    }
    report_fours(item.report, found, item.first + own, 0);
}

template <class E>
__device__ __forceinline__ void accumulate_f32(const AccumulateF32& p, const F32Item& item) {
    if (whole_fours<E>(cta_start(item), item.n, item.gradient, item.sum)) {
        accumulate_f32_tile<E, true>(p, item);
    } else {
        accumulate_f32_tile<E, false>(p, item);
    }
}

// Exact counts of 32 bits: fine levels, rounded to nearest, so no draw is made. The maxima of the CTA's blocks are found first, as
// a block that is seen for the first time takes its scale from them.
template <class E, bool WHOLE>
__device__ __forceinline__ void accumulate_fine_tile(const AccumulateExact& p, const ExactItem& item, uint32_t* maxima,
                                                     uint32_t* scales) {
    const uint64_t start = cta_start(item), own = start + 4 * threadIdx.x;
    const uint64_t block = (start >> p.block_shift) + threadIdx.x;  // the thread's, where the tile has as many
    const bool owns = threadIdx.x << p.block_shift < CTA_TILE && block << p.block_shift < item.n;
    uint32_t s = 0, before = 0;
    if (owns) {
        s = static_cast<uint32_t>(item.scales[block]) << 16;
        before = item.seen[block];
    }
    maxima[threadIdx.x] = 0;
    Four<E> gradient[FOURS];
    uint32_t x[FOURS][4], counts[FOURS][4];
#pragma unroll
    for (int i = 0; i < FOURS; ++i) {
        gradient[i].template load<WHOLE>(item.gradient, own + 512 * i, item.n);
        load_four_words<WHOLE>(item.counts, own + 512 * i, item.n, counts[i]);
    }
    __syncthreads();
    uint32_t found = 0, clipped = 0;
#pragma unroll
    for (int i = 0; i < FOURS; ++i) {
        uint32_t max = 0;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const uint32_t product = weighted(gradient[i].at(e), p.weight);
            const bool refused = out_of_range(magnitude(product));
            x[i][e] = refused ? 0u : product;
            found |= refused ? 1u << (4 * i + e) : 0u;
            max = ::max(max, magnitude(x[i][e]));
        }
        // A block has 8 lanes or more.
        max = ::max(max, __shfl_xor_sync(ALL, max, 1));
        max = ::max(max, __shfl_xor_sync(ALL, max, 2));
        max = ::max(max, __shfl_xor_sync(ALL, max, 4));
        if (threadIdx.x % 8 == 0) {
            atomicMax(&maxima[(4 * threadIdx.x + 512 * i) >> p.block_shift], max);
        }
    }
    __syncthreads();
    if (owns) {
        const uint32_t seen = stochastic_scale(maxima[threadIdx.x]);
        if (s == 0 && p.headroom) {
            s = count_scale(32, seen, p.headroom);
            item.scales[block] = static_cast<uint16_t>(s >> 16);
        }
        if (seen >> 16 > before) {
            item.seen[block] = static_cast<uint16_t>(seen >> 16);
        }
    }
    scales[threadIdx.x] = s;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < FOURS; ++i) {
        const uint32_t q = scales[(4 * threadIdx.x + 512 * i) >> p.block_shift];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            bool cut;
            counts[i][e] += static_cast<uint32_t>(round_fine(x[i][e], q, cut));
            clipped += cut ? 1 : 0;
        }
        store_four_words<WHOLE>(item.counts, own + 512 * i, item.n, counts[i]);
    }
    report_fours(item.report, found, item.first + own, clipped);
}

template <class E>
__device__ __forceinline__ void accumulate_fine(const AccumulateExact& p, const ExactItem& item) {
    __shared__ uint32_t maxima[CTA_TILE / 32], scales[CTA_TILE / 32];
    if (whole_fours<E>(cta_start(item), item.n, item.gradient, item.counts)) {
        accumulate_fine_tile<E, true>(p, item, maxima, scales);
    } else {
        accumulate_fine_tile<E, false>(p, item, maxima, scales);
    }
}
