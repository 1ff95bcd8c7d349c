// Accumulate: a gradient is added to levels or counts where they lie, in one pass. Mirrors src/op/accumulate.rs and
// src/cpu/accumulate.rs.
//
// Launch: one CTA of 128 threads for each 4096 elements of each item, for accumulate_adaptive with 4 or 8 bits and f16 or bf16
// for each 16384; a lane holds 32 elements. merge and window_scales: one CTA for each 4096 words.
// accumulate_adaptive: x = n elements; a = BITS ceil(n / 32) words of levels; b = ceil(n / block) bf16 scales; report.
//   Reads and writes a and b. Bytes an element: input + 2 BITS / 8 + 4 / block.
// accumulate_exact: x, a = counts as above; b = scales, read; c = seen, one bf16 a block; report.
// look: x; a = seen; report.
// Fields past n stay zero. Determinism: cross-backend.
#include "exact.cuh"

#define ADAPTIVE(BITS, E, N)                                                                                     \
    extern "C" __global__ void __launch_bounds__(128, ADAPTIVE_CTAS<ELEMENT_##E, BITS>)                          \
        accumulate_adaptive_##BITS##_##E##_##N(const __grid_constant__ AccumulateAdaptive p,                     \
                                               const __grid_constant__ Table<TABLE_##N> table) {                 \
        accumulate_adaptive<ELEMENT_##E, BITS>(p, item_of(table, blockIdx.x));                                   \
    }
#define EXACT(BITS, E, N)                                                                                        \
    extern "C" __global__ void __launch_bounds__(128) accumulate_exact_##BITS##_##E##_##N(                       \
        const __grid_constant__ AccumulateExact p, const __grid_constant__ Table<TABLE_##N> table) {             \
        accumulate_exact<ELEMENT_##E, BITS>(p, item_of(table, blockIdx.x));                                      \
    }
#define LOOK(E, N)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        look_##E##_##N(const __grid_constant__ Look p, const __grid_constant__ Table<TABLE_##N> table) {         \
        look<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                                        \
    }
#define EVERY_WIDTH(E, N)                                                                                        \
    ADAPTIVE(2, E, N) ADAPTIVE(4, E, N) ADAPTIVE(8, E, N) EXACT(4, E, N) EXACT(8, E, N) EXACT(16, E, N) LOOK(E, N)
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

// Item: x = n words of counts; a = n words, added to. Bytes a word: 12.
extern "C" __global__ void __launch_bounds__(128)
    merge_one(const __grid_constant__ Merge p, const __grid_constant__ Table<1> table) {
    const Item& item = table.items[0];
    const uint32_t* const from = static_cast<const uint32_t*>(item.x);
    uint32_t* const into = static_cast<uint32_t*>(item.a);
    const uint64_t start = cta_start(item);
    for (uint64_t i = start + threadIdx.x; i < min(start + CTA_TILE, item.n); i += 128) {
        const uint32_t a = into[i], b = from[i];
        into[i] = p.bits == 4 ? add_fields<4>(a, b) : p.bits == 8 ? add_fields<8>(a, b) : add_fields<16>(a, b);
    }
}

struct WindowScales {
    uint32_t headroom;  // f32 bits
    uint32_t pad;
};

// Item: x = n maxima, bf16; a = n scales, bf16, written.
extern "C" __global__ void __launch_bounds__(128)
    window_scales_one(const __grid_constant__ WindowScales p, const __grid_constant__ Table<1> table) {
    const Item& item = table.items[0];
    const uint16_t* const seen = static_cast<const uint16_t*>(item.x);
    uint16_t* const scales = static_cast<uint16_t*>(item.a);
    const uint64_t start = cta_start(item);
    for (uint64_t i = start + threadIdx.x; i < min(start + CTA_TILE, item.n); i += 128) {
        scales[i] = static_cast<uint16_t>(window_scale(static_cast<uint32_t>(seen[i]) << 16, p.headroom) >> 16);
    }
}
