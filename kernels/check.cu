// Check: reports the elements of weight x that are out of range, writing nothing else. Mirrors src/op/check.rs and
// src/cpu/check.rs.
//
// Launch: one CTA of 128 threads for each 4096 elements of each item.
// Determinism: cross-backend.
// Bytes an element: input.
#include "level.cuh"
#include "output.cuh"

struct Check {
    uint32_t weight;  // f32 bits
    uint32_t pad;
};

// One tensor to check.
struct CheckItem {
    const void* gradient;
    Report* report;
    uint64_t n;
    uint64_t first;
    uint32_t begin;
    uint32_t pad;
};

// Every element on its own: for tails, views that are not aligned, and tiles with something in them.
template <class E>
__device__ __noinline__ void check_each(const CheckItem& item, uint64_t start, uint32_t weight) {
    const typename E::Scalar* x = static_cast<const typename E::Scalar*>(item.gradient);
    uint32_t found = 0;
    uint64_t first = ~0ull;
    for (int e = 0; e < 32; ++e) {
        const uint64_t i = start + 32 * e + lane_id();
        if (i < item.n && out_of_range(magnitude(weighted(E::to_f32(x[i]), weight)))) {
            found += 1;
            first = min(first, item.first + i);
        }
    }
    if (__any_sync(ALL, found)) {
        report(item.report, found, first, 0);
    }
}

// |weight x| grows with |x|, so the largest magnitude of a tile decides whether anything is there.
template <class E>
__device__ __forceinline__ void check(const Check& p, const CheckItem& item) {
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_TILE + warp_id() * TILE;
    if (start >= item.n) {
        return;
    }
    if (start + TILE <= item.n && aligned_to(item.gradient, 16)) {
        const uint4* src = reinterpret_cast<const uint4*>(static_cast<const char*>(item.gradient) + start * E::SIZE);
        uint32_t w[E::WORDS];
#pragma unroll
        for (int i = 0; i < E::PIECES; ++i) {
            const uint4 v = __ldcs(src + 32 * i + lane_id());
            w[4 * i] = v.x, w[4 * i + 1] = v.y, w[4 * i + 2] = v.z, w[4 * i + 3] = v.w;
        }
        const uint32_t largest = E::to_f32(raw_max<E>(w));
        if (!__any_sync(ALL, out_of_range(magnitude(weighted(largest, p.weight))))) {
            return;
        }
    }
    check_each<E>(item, start, p.weight);
}

#define KERNEL(E, N)                                                                                                \
    extern "C" __global__ void __launch_bounds__(128)                                                               \
        check_##E##_##N(const __grid_constant__ Check p, const __grid_constant__ TABLE_##N<CheckItem> table) {      \
        check<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                                          \
    }
KERNEL(f32, one)
KERNEL(f32, many)
KERNEL(f16, one)
KERNEL(f16, many)
KERNEL(bf16, one)
KERNEL(bf16, many)
