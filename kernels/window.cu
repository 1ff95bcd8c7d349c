// What windows of exact counts need: first looks, scales, comparing and merging. Mirrors src/op/window.rs and src/cpu/window.rs.
//
// Launch: one CTA of 128 threads for each 4096 elements, words or scales of each item, whatever is more.
// look: reads a gradient and raises the maxima of its blocks. Bytes an element: input + 2 / block.
// merge: counts of one window are added to those of another. Bytes a word: 12.
// window_scales, compare_scales: bytes a block: 4.
// Determinism: cross-backend.
#include "exact.cuh"
#include "output.cuh"

struct Look {
    uint32_t weight;
    uint32_t block_shift;
};

// One tensor to look at.
struct LookItem {
    const void* gradient;
    uint16_t* seen;
    Report* report;
    uint64_t n;
    uint64_t first;  // 0
    uint32_t begin;
    uint32_t pad;
};

template <class E, bool FAST>
__device__ __forceinline__ void look_tile(const Look& p, const LookItem& item, Stage<E>& stage) {
    const Place at = place<FAST>(item, cta_start(item));
    Flight<E> flight;
    begin<E, FAST>(item.gradient, at, flight);
    end<E, FAST>(item.gradient, at, item.n, flight, stage);
    uint32_t w[E::WORDS];
    stage.take(w);
    uint32_t max = max_product<E>(w, p.weight);
    if (__any_sync(ALL, out_of_range(max))) {
        max = inspect<E>(stage, p.weight, 0xffffffffu, item.first + at.own, item.report);
    }
    const uint32_t lanes = 1u << (p.block_shift - 5);
    const uint32_t now = stochastic_scale(block_max(max, lanes)) >> 16;
    if (at.inside && (threadIdx.x & (lanes - 1)) == 0) {
        uint16_t* const seen = item.seen + (at.own >> p.block_shift);
        if (now > *seen) {
            *seen = static_cast<uint16_t>(now);
        }
    }
}

template <class E>
__device__ __forceinline__ void look(const Look& p, const LookItem& item) {
    __shared__ Stage<E> stages[WARPS];
    if (whole(cta_start(item), CTA_TILE, item.n, reinterpret_cast<uintptr_t>(item.gradient), 16)) {
        look_tile<E, true>(p, item, stages[warp_id()]);
    } else {
        look_tile<E, false>(p, item, stages[warp_id()]);
    }
}

struct Merge {
    uint32_t bits;
    uint32_t pad;
};

// The counts and maxima of one tensor in two windows.
struct MergeItem {
    const uint32_t* from;
    uint32_t* into;
    const uint16_t* seen_from;
    uint16_t* seen;
    uint64_t n;       // words
    uint64_t blocks;  // maxima,
    uint32_t share;   // and how many of them a CTA takes
    uint32_t begin;
};

// Adds what the fields of two words hold; `top`: the top bit of each field, below which a carry stays within the field.
__device__ __forceinline__ uint32_t add_words(uint32_t a, uint32_t b, uint32_t top) {
    return ((a & ~top) + (b & ~top)) ^ ((a ^ b) & top);
}

__device__ __forceinline__ void merge(const Merge& p, const MergeItem& item) {
    constexpr int PIECES = CTA_TILE / (4 * 128);
    const uint32_t top = p.bits == 4 ? 0x88888888u : p.bits == 8 ? 0x80808080u : p.bits == 16 ? 0x80008000u : 0x80000000u;
    const uint64_t cta = blockIdx.x - item.begin, start = cta * CTA_TILE;
    if (start + CTA_TILE <= item.n && aligned_to(item.from, 16) && aligned_to(item.into, 16)) {
        const uint4* const from = reinterpret_cast<const uint4*>(item.from + start) + threadIdx.x;
        uint4* const into = reinterpret_cast<uint4*>(item.into + start) + threadIdx.x;
        uint4 a[PIECES], b[PIECES];
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            a[i] = into[128 * i];
            b[i] = __ldcs(from + 128 * i);
        }
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            into[128 * i] = make_uint4(add_words(a[i].x, b[i].x, top), add_words(a[i].y, b[i].y, top),
                                       add_words(a[i].z, b[i].z, top), add_words(a[i].w, b[i].w, top));
        }
    } else {
        for (uint64_t i = start + threadIdx.x; i < min(start + CTA_TILE, item.n); i += 128) {
            item.into[i] = add_words(item.into[i], item.from[i], top);
        }
    }
    // Patterns of magnitudes order like the magnitudes.
    const uint64_t first = cta * item.share, end = min(first + item.share, item.blocks);
    for (uint64_t i = first + threadIdx.x; i < end; i += 128) {
        item.seen[i] = max(item.seen[i], item.seen_from[i]);
    }
}

struct WindowScales {
    uint32_t headroom;  // f32 bits
    uint32_t bits;
};

// The maxima and scales of one tensor.
struct WindowScalesItem {
    const uint16_t* seen;
    uint16_t* scales;
    uint64_t n;
    uint32_t begin;
    uint32_t pad;
};

__device__ __forceinline__ void window_scales(const WindowScales& p, const WindowScalesItem& item) {
    const uint64_t start = cta_start(item);
    for (uint64_t i = start + threadIdx.x; i < min(start + CTA_TILE, item.n); i += 128) {
        const uint32_t seen = static_cast<uint32_t>(item.seen[i]) << 16;
        if (seen != 0) {
            item.scales[i] = static_cast<uint16_t>(count_scale(p.bits, seen, p.headroom) >> 16);
        }
    }
}

struct CompareScales {
    uint64_t pad;
};

// The scales of one tensor in two windows.
struct CompareScalesItem {
    const uint16_t* scales_a;
    const uint16_t* scales_b;
    Report* report;
    uint64_t n;
    uint32_t begin;
    uint32_t pad;
};

__device__ __forceinline__ void compare_scales(const CompareScales&, const CompareScalesItem& item) {
    const uint64_t start = cta_start(item);
    uint32_t found = 0;
    uint64_t first = ~0ull;
    for (uint64_t i = start + threadIdx.x; i < min(start + CTA_TILE, item.n); i += 128) {
        if (item.scales_a[i] != item.scales_b[i]) {
            found += 1;
            first = min(first, i);
        }
    }
    if (__any_sync(ALL, found)) {
        report(item.report, found, first, 0);
    }
}

#define LOOK(E, N)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        look_##E##_##N(const __grid_constant__ Look p, const __grid_constant__ TABLE_##N<LookItem> table) {      \
        look<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                                        \
    }
LOOK(f32, one)
LOOK(f32, many)
LOOK(f16, one)
LOOK(f16, many)
LOOK(bf16, one)
LOOK(bf16, many)

#define KERNEL(name, P, I, N)                                                                                    \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        name##_##N(const __grid_constant__ P p, const __grid_constant__ TABLE_##N<I> table) {                    \
        name(p, item_of(table, blockIdx.x));                                                                     \
    }
KERNEL(merge, Merge, MergeItem, one)
KERNEL(merge, Merge, MergeItem, many)
KERNEL(window_scales, WindowScales, WindowScalesItem, one)
KERNEL(window_scales, WindowScales, WindowScalesItem, many)
KERNEL(compare_scales, CompareScales, CompareScalesItem, one)
KERNEL(compare_scales, CompareScales, CompareScalesItem, many)
