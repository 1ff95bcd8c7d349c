// Check: counts the elements of weight x that are out of range. Mirrors src/op/check.rs and src/cpu/check.rs.
//
// Launch: one CTA of 128 threads for each 4096 elements of each item. Item: x = n elements; report.
// Determinism: cross-backend. Bytes an element: input.
#include "exact.cuh"

struct Check {
    uint32_t weight;  // f32 bits, a subnormal already 0
};

template <class E, bool FAST>
__device__ __forceinline__ void check_tile(const Check& p, const Item& item, Stage<E>& stage) {
    const Place at = place<FAST>(item);
    Flight<E> flight;
    begin<E, FAST>(item.x, at, flight);
    uint32_t w[E::WORDS];
    bool found;
    if (FAST) {
        // Which lane holds which element does not matter for the maximum: nothing is staged yet.
#pragma unroll
        for (int i = 0; i < E::PIECES; ++i) {
            w[4 * i] = flight.v[i].x;
            w[4 * i + 1] = flight.v[i].y;
            w[4 * i + 2] = flight.v[i].z;
            w[4 * i + 3] = flight.v[i].w;
        }
        found = __any_sync(ALL, out_of_range(max_product<E>(w, p.weight)));
        if (found) {
            end<E, FAST>(item.x, at, item.n, flight, stage);
        }
    } else {
        end<E, FAST>(item.x, at, item.n, flight, stage);
        stage.take(w);
        found = __any_sync(ALL, out_of_range(max_product<E>(w, p.weight)));
    }
    if (found) {
        inspect<E>(stage, p.weight, 0xffffffffu, item.first + at.own, item.report);
    }
}

template <class E>
__device__ __forceinline__ void check(const Check& p, const Item& item) {
    __shared__ Stage<E> stages[WARPS];
    if (whole(cta_start(item), item.n, reinterpret_cast<uintptr_t>(item.x), 16)) {
        check_tile<E, true>(p, item, stages[warp_id()]);
    } else {
        check_tile<E, false>(p, item, stages[warp_id()]);
    }
}

#define KERNEL(E, N)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        check_##E##_##N(const __grid_constant__ Check p, const __grid_constant__ Table<TABLE_##N> table) {       \
        check<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                                       \
    }
KERNEL(f32, one)
KERNEL(f32, many)
KERNEL(f16, one)
KERNEL(f16, many)
KERNEL(bf16, one)
KERNEL(bf16, many)
