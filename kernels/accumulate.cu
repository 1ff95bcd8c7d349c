// Accumulate: a gradient is added to levels, counts or floats where they lie, in one pass; and what windows of exact counts need.
// Mirrors src/op/accumulate.rs, src/op/window.rs, src/cpu/accumulate.rs and src/cpu/window.rs.
//
// Launch: one CTA of 128 threads for each 4096 elements of each item, for accumulate_adaptive with 4 or 8 bits and f16 or bf16
// for each 16384; a lane holds 32 elements, in 32 bits four at a time. merge, window_scales and compare_scales: one CTA for each
// 4096 words or scales.
// accumulate_adaptive: reads and writes levels and scales. Bytes an element: input + 2 BITS / 8 + 4 / block.
// accumulate_exact: the same with counts and seen; scales are written where a block is seen for the first time.
// accumulate_f32: bytes an element: input + 8.
// Fields past n stay zero. Determinism: cross-backend.
#include "fine.cuh"

#define ADAPTIVE(BITS, E, N)                                                                                     \
    extern "C" __global__ void __launch_bounds__(128, ADAPTIVE_CTAS<ELEMENT_##E, BITS>)                          \
        accumulate_adaptive_##BITS##_##E##_##N(const __grid_constant__ AccumulateAdaptive p,                     \
                                               const __grid_constant__ TABLE_##N<AdaptiveItem> table) {          \
        accumulate_adaptive<ELEMENT_##E, BITS>(p, item_of(table, blockIdx.x));                                   \
    }
#define EXACT(BITS, E, N)                                                                                        \
    extern "C" __global__ void __launch_bounds__(128) accumulate_exact_##BITS##_##E##_##N(                       \
        const __grid_constant__ AccumulateExact p, const __grid_constant__ TABLE_##N<ExactItem> table) {         \
        accumulate_exact<ELEMENT_##E, BITS>(p, item_of(table, blockIdx.x));                                      \
    }
#define FINE(E, N)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128) accumulate_exact_32_##E##_##N(                             \
        const __grid_constant__ AccumulateExact p, const __grid_constant__ TABLE_##N<ExactItem> table) {         \
        accumulate_fine<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                             \
    }
#define FLOATS(E, N)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        accumulate_f32_##E##_##N(const __grid_constant__ AccumulateF32 p,                                        \
                                 const __grid_constant__ TABLE_##N<F32Item> table) {                             \
        accumulate_f32<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                              \
    }
#define LOOK(E, N)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        look_##E##_##N(const __grid_constant__ Look p, const __grid_constant__ TABLE_##N<LookItem> table) {      \
        look<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                                        \
    }
#define EVERY_WIDTH(E, N)                                                                                        \
    ADAPTIVE(2, E, N) ADAPTIVE(4, E, N) ADAPTIVE(8, E, N) EXACT(4, E, N) EXACT(8, E, N) EXACT(16, E, N)          \
    FINE(E, N) FLOATS(E, N) LOOK(E, N)
EVERY_WIDTH(f32, one)
EVERY_WIDTH(f32, many)
EVERY_WIDTH(f16, one)
EVERY_WIDTH(f16, many)
EVERY_WIDTH(bf16, one)
EVERY_WIDTH(bf16, many)

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

// Bytes a word: 12.
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
