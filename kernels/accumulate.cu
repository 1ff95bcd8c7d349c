// Accumulate: a gradient is added to levels, counts or floats where they lie, in one pass. Mirrors src/op/accumulate.rs and
// src/cpu/accumulate.rs.
//
// Launch: one CTA of 128 threads for each 4096 elements of each item, for accumulate_adaptive with 4 or 8 bits and f16 or bf16
// for each 16384; a lane holds 32 elements, in 32 bits four at a time.
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
    extern "C" __global__ void __launch_bounds__(128, 4) accumulate_exact_32_##E##_##N(                          \
        const __grid_constant__ AccumulateExact p, const __grid_constant__ TABLE_##N<ExactItem> table) {         \
        accumulate_fine<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                             \
    }
#define FLOATS(E, N)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128, 5)                                                         \
        accumulate_f32_##E##_##N(const __grid_constant__ AccumulateF32 p,                                        \
                                 const __grid_constant__ TABLE_##N<F32Item> table) {                             \
        accumulate_f32<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                              \
    }
#define EVERY_WIDTH(E, N)                                                                                        \
    ADAPTIVE(2, E, N) ADAPTIVE(4, E, N) ADAPTIVE(8, E, N) EXACT(4, E, N) EXACT(8, E, N) EXACT(16, E, N)          \
    FINE(E, N) FLOATS(E, N)
EVERY_WIDTH(f32, one)
EVERY_WIDTH(f32, many)
EVERY_WIDTH(f16, one)
EVERY_WIDTH(f16, many)
EVERY_WIDTH(bf16, one)
EVERY_WIDTH(bf16, many)
