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

// Four elements from `at` on as f32 bits, zeros past n.
template <class E>
__device__ __forceinline__ void load_four(const void* from, uint64_t at, uint64_t n, bool whole, uint32_t (&v)[4]) {
    const typename E::Scalar* const src = static_cast<const typename E::Scalar*>(from) + at;
    if (whole) {
        if (E::SIZE == 4) {
            const uint4 q = __ldcs(reinterpret_cast<const uint4*>(src));
            v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
        } else {
            const uint2 q = __ldcs(reinterpret_cast<const uint2*>(src));
            v[0] = E::to_f32(q.x & 0xffffu), v[1] = E::to_f32(q.x >> 16);
            v[2] = E::to_f32(q.y & 0xffffu), v[3] = E::to_f32(q.y >> 16);
        }
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        v[e] = at + e < n ? E::to_f32(src[e]) : 0u;
    }
}

__device__ __forceinline__ void load_four_words(const uint32_t* from, uint64_t at, uint64_t n, bool whole, uint32_t (&v)[4]) {
    if (whole) {
        const uint4 q = *reinterpret_cast<const uint4*>(from + at);
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        v[e] = at + e < n ? from[at + e] : 0u;
    }
}

__device__ __forceinline__ void store_four_words(uint32_t* to, uint64_t at, uint64_t n, bool whole, const uint32_t (&v)[4]) {
    if (whole) {
        __stwb(reinterpret_cast<uint4*>(to + at), make_uint4(v[0], v[1], v[2], v[3]));
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        if (at + e < n) {
            to[at + e] = v[e];
        }
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

template <class E>
__device__ __forceinline__ void accumulate_f32(const AccumulateF32& p, const F32Item& item) {
    const uint64_t start = cta_start(item), own = start + 4 * threadIdx.x;
    const bool all = whole_fours<E>(start, item.n, item.gradient, item.sum);
    uint32_t x[FOURS][4], sum[FOURS][4];
#pragma unroll
    for (int i = 0; i < FOURS; ++i) {
        load_four<E>(item.gradient, own + 512 * i, item.n, all, x[i]);
        load_four_words(item.sum, own + 512 * i, item.n, all, sum[i]);
    }
    uint32_t found = 0;
    uint64_t first = ~0ull;
#pragma unroll
    for (int i = 0; i < FOURS; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            bool refused;
            sum[i][e] = sum_f32(sum[i][e], weighted(x[i][e], p.weight), refused);
            if (refused) {
                found += 1;
                first = min(first, item.first + own + 512 * i + e);
            }
        }
        store_four_words(item.sum, own + 512 * i, item.n, all, sum[i]);
    }
    if (__any_sync(ALL, found)) {
        report(item.report, found, first, 0);
    }
}

// Exact counts of 32 bits: fine levels, rounded to nearest, so no draw is made. The maxima of the CTA's blocks are found first, as
// a block that is seen for the first time takes its scale from them.
template <class E>
__device__ __forceinline__ void accumulate_fine(const AccumulateExact& p, const ExactItem& item) {
    __shared__ uint32_t maxima[CTA_TILE / 32], scales[CTA_TILE / 32];
    const uint64_t start = cta_start(item), own = start + 4 * threadIdx.x;
    const bool all = whole_fours<E>(start, item.n, item.gradient, item.counts);
    const uint64_t block = (start >> p.block_shift) + threadIdx.x;  // the thread's, where the tile has as many
    const bool owns = threadIdx.x << p.block_shift < CTA_TILE && block << p.block_shift < item.n;
    uint32_t s = 0, before = 0;
    if (owns) {
        s = static_cast<uint32_t>(item.scales[block]) << 16;
        before = item.seen[block];
    }
    maxima[threadIdx.x] = 0;
    uint32_t x[FOURS][4], counts[FOURS][4];
#pragma unroll
    for (int i = 0; i < FOURS; ++i) {
        load_four<E>(item.gradient, own + 512 * i, item.n, all, x[i]);
        load_four_words(item.counts, own + 512 * i, item.n, all, counts[i]);
    }
    __syncthreads();
    uint32_t found = 0, clipped = 0;
    uint64_t first = ~0ull;
#pragma unroll
    for (int i = 0; i < FOURS; ++i) {
        uint32_t max = 0;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            x[i][e] = weighted(x[i][e], p.weight);
            const uint32_t m = magnitude(x[i][e]);
            if (out_of_range(m)) {
                x[i][e] = 0;
                found += 1;
                first = min(first, item.first + own + 512 * i + e);
            } else {
                max = m > max ? m : max;
            }
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
        store_four_words(item.counts, own + 512 * i, item.n, all, counts[i]);
    }
    if (__any_sync(ALL, found | clipped)) {
        report(item.report, found, first, clipped);
    }
}
