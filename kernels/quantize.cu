// Quantize: a gradient becomes packed planes and bf16 scales. Mirrors src/op/quantize.rs and src/cpu/quantize.rs.
//
// Blocks, one pass. Launch: one CTA of 128 threads for each 4096 elements of each item; a lane holds 32 elements.
// Item: x = n elements; a = 2 ceil(n / 32) words of planes; b = ceil(n / block) bf16 scales; report. Every word is
// written, bits past n are zero. Bytes an element: input + 1/4 + 2 / block.
//
// Rows and whole tensors, two passes: see group.cuh. c = scratch. Bytes an element: twice the input + 1/4.
//
// Determinism: cross-backend.
#include "group.cuh"

#define STOCHASTIC_BLOCKS(name, E, N)                                                                            \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        name(const __grid_constant__ QuantizeBlock p, const __grid_constant__ Table<N> table) {                  \
        quantize_block_stochastic<E, PHILOX_ROUNDS>(p, item_of(table, blockIdx.x));                              \
    }
STOCHASTIC_BLOCKS(quantize_block_stochastic_f32_one, F32, 1)
STOCHASTIC_BLOCKS(quantize_block_stochastic_f32_many, F32, MANY)
STOCHASTIC_BLOCKS(quantize_block_stochastic_f16_one, F16, 1)
STOCHASTIC_BLOCKS(quantize_block_stochastic_f16_many, F16, MANY)
STOCHASTIC_BLOCKS(quantize_block_stochastic_bf16_one, Bf16, 1)
STOCHASTIC_BLOCKS(quantize_block_stochastic_bf16_many, Bf16, MANY)

#define KERNEL(name, P, E, N)                                                                                    \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        name##_##E##_##N(const __grid_constant__ P p, const __grid_constant__ Table<TABLE_##N> table) {          \
        name<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                                        \
    }
#define EVERY_TYPE(name, P)                                                                                      \
    KERNEL(name, P, f32, one) KERNEL(name, P, f32, many)                                                         \
    KERNEL(name, P, f16, one) KERNEL(name, P, f16, many)                                                         \
    KERNEL(name, P, bf16, one) KERNEL(name, P, bf16, many)
EVERY_TYPE(quantize_block_threshold, QuantizeBlockThreshold)
EVERY_TYPE(quantize_block_clip, QuantizeBlockClip)
EVERY_TYPE(group_sums, QuantizeGroup)
EVERY_TYPE(group_codes, QuantizeGroup)

extern "C" __global__ void __launch_bounds__(128)
    group_combine_one(const __grid_constant__ QuantizeGroup p, const __grid_constant__ Table<1> table) {
    group_combine(p, item_of(table, blockIdx.x));
}

extern "C" __global__ void __launch_bounds__(128)
    group_combine_many(const __grid_constant__ QuantizeGroup p, const __grid_constant__ Table<MANY> table) {
    group_combine(p, item_of(table, blockIdx.x));
}
