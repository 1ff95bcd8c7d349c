// Quantize: a gradient becomes packed planes and bf16 scales. Mirrors src/op/quantize.rs and src/cpu/quantize.rs.
//
// Blocks, one pass. Launch: one CTA of 128 threads for each 8192 (f32) or 16384 (f16, bf16) elements of each item; a lane
// holds 32 elements of each 4096.
// Every word is written, bits past n are zero. Bytes an element: input + 1/4 + 2 / block.
//
// Rows and whole tensors, two passes: see group.cuh. Bytes an element: twice the input + 1/4. Rows that are as
// long as a block may be are blocks.
//
// Determinism: cross-backend.
#include "group.cuh"

#define KERNEL(name, P, E, N)                                                                                    \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        name##_##E##_##N(const __grid_constant__ P p, const __grid_constant__ TABLE_##N<QuantizeItem> table) {       \
        name<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                                        \
    }
#define EVERY_TYPE(name, P)                                                                                      \
    KERNEL(name, P, f32, one) KERNEL(name, P, f32, many)                                                         \
    KERNEL(name, P, f16, one) KERNEL(name, P, f16, many)                                                         \
    KERNEL(name, P, bf16, one) KERNEL(name, P, bf16, many)
EVERY_TYPE(quantize_block_stochastic, QuantizeBlock)
EVERY_TYPE(quantize_block_threshold, QuantizeBlockThreshold)
EVERY_TYPE(quantize_block_clip, QuantizeBlockClip)
EVERY_TYPE(group_sums, QuantizeGroup)

// The last CTA takes the first tiles: see group.cuh.
#define CODES(E, N)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        group_codes_##E##_##N(const __grid_constant__ QuantizeGroup p,                                           \
                              const __grid_constant__ TABLE_##N<QuantizeItem> table) {                           \
        const uint32_t cta = gridDim.x - 1 - blockIdx.x;                                                         \
        group_codes<ELEMENT_##E>(p, item_of(table, cta), cta);                                                   \
    }
CODES(f32, one)
CODES(f32, many)
CODES(f16, one)
CODES(f16, many)
CODES(bf16, one)
CODES(bf16, many)

extern "C" __global__ void __launch_bounds__(128)
    group_combine_one(const __grid_constant__ QuantizeGroup p, const __grid_constant__ One<QuantizeItem> table) {
    group_combine(p, item_of(table, blockIdx.x));
}

extern "C" __global__ void __launch_bounds__(128)
    group_combine_many(const __grid_constant__ QuantizeGroup p, const __grid_constant__ Many<QuantizeItem> table) {
    group_combine(p, item_of(table, blockIdx.x));
}
