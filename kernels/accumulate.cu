// Accumulate.
#include "accumulate.cuh"
#define KERNEL(name, E, BITS, N)                                                                                 \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        name(const __grid_constant__ AccumulateAdaptive p, const __grid_constant__ Table<N> table) {             \
        accumulate_adaptive<E, BITS, PHILOX_ROUNDS>(p, item_of(table, blockIdx.x));                       \
    }
KERNEL(accumulate_adaptive_4_f32_one, F32, 4, 1)
KERNEL(accumulate_adaptive_4_bf16_one, Bf16, 4, 1)
KERNEL(accumulate_adaptive_8_bf16_one, Bf16, 8, 1)
#undef KERNEL
