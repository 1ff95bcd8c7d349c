// What an operation found on the way. Mirrors op::Report.
#pragma once
#include "tile.cuh"

// All-zero memory is the empty report, so `first` is kept as its complement.
struct Report {
    unsigned long long non_finite;
    unsigned long long not_first;
    unsigned long long clipped;
};

// Adds what the lanes of a warp found; all lanes take part. Off the fast path.
__device__ __noinline__ void report(Report* to, uint32_t non_finite, uint64_t first, uint32_t clipped) {
    for (int d = 16; d; d >>= 1) {
        non_finite += __shfl_xor_sync(ALL, non_finite, d);
        clipped += __shfl_xor_sync(ALL, clipped, d);
        first = min(first, static_cast<uint64_t>(__shfl_xor_sync(ALL, first, d)));
    }
    if (lane_id() == 0) {
        if (non_finite) {
            atomicAdd(&to->non_finite, static_cast<unsigned long long>(non_finite));
            atomicMax(&to->not_first, ~static_cast<unsigned long long>(first));
        }
        if (clipped) {
            atomicAdd(&to->clipped, static_cast<unsigned long long>(clipped));
        }
    }
}

// Zeroes the elements out of range in a staged tile and reports them (unless `to` is null); then the lanes take their
// elements again.
// `index` is the index in the tensor of the lane's first element.
template <class E>
__device__ __noinline__ void scrub(Stage<E>& stage, uint64_t index, Report* to) {
    uint32_t found = 0;
    uint64_t first = ~0ull;
    int lane = lane_id();
    for (int e = 0; e < 32; ++e) {
        typename E::Scalar& raw = stage.at(lane, e);
        if ((raw & (E::SIZE == 4 ? 0x7fffffffu : 0x7fffu)) >= E::LIMIT) {
            raw = 0;
            found += 1;
            first = min(first, index + e);
        }
    }
    if (to) {
        report(to, found, first, 0);
    }
}
