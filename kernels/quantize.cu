// Quantize: a gradient becomes packed planes and bf16 scales in one pass. Mirrors src/op/quantize.rs and
// src/cpu/quantize.rs.
//
// Launch: one CTA of 128 threads for each 4096 elements of each item; a lane holds 32 elements.
// Item: x = n elements; a = 2 ceil(n / 32) words of planes; b = ceil(n / block) bf16 scales; report.
// Every word is written, bits past n are zero. Determinism: cross-backend.
// Bytes an element: input + 1/4 + 2 / block.
#include "quantize.cuh"

#define KERNEL(name, E, N)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        name(const __grid_constant__ QuantizeBlock p, const __grid_constant__ Table<N> table) {                  \
        quantize_block_stochastic<E, PHILOX_ROUNDS>(p, item_of(table, blockIdx.x));                              \
    }
KERNEL(quantize_block_stochastic_f32_one, F32, 1)
KERNEL(quantize_block_stochastic_bf16_one, Bf16, 1)
KERNEL(quantize_block_stochastic_f16_one, F16, 1)
KERNEL(quantize_block_stochastic_f32_many, F32, MANY)
KERNEL(quantize_block_stochastic_bf16_many, Bf16, MANY)
KERNEL(quantize_block_stochastic_f16_many, F16, MANY)
#undef KERNEL
