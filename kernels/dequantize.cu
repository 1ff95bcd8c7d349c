// Dequantize: planes and scales become floats. Mirrors src/op/dequantize.rs and src/cpu/dequantize.rs.
//
// Launch: one CTA of 128 threads for each 4096 elements of each item; a lane writes 16 bytes at a time.
// Item: x = 2 ceil(n / 32) words of planes; b = bf16 scales, one a group; a = n elements, written.
// An invalid pair gives 0. Determinism: cross-backend. Bytes an element: output + 1/4 + 2 / block.
#include "float.cuh"
#include "store.cuh"

struct Dequantize {
    uint64_t size;         // elements of a row; 0: blocks, or the whole tensor as one block of 2^63
    uint32_t block_shift;  // log2 of the block
};

// The bits of an element: s, or s with a sign, or 0.
template <class E>
__device__ __forceinline__ uint32_t element(uint32_t plus, uint32_t minus, int bit, uint32_t s) {
    const uint32_t p = 0u - (plus >> bit & 1u), m = 0u - (minus >> bit & 1u);
    constexpr uint32_t SIGN = E::SIZE == 4 ? 0x80000000u : 0x8000u;
    return (s & (p | m)) | (SIGN & m);
}

template <class E, bool FAST>
__device__ __forceinline__ void dequantize_tile(const Dequantize& p, const Item& item) {
    constexpr int PER = PER_PIECE<E>;
    constexpr int ROUNDS = CTA_TILE / (128 * PER);
    const uint64_t start = cta_start(item);
    const uint16_t* const scales = static_cast<const uint16_t*>(item.b);
    uint2 pair[ROUNDS];
    uint32_t s[ROUNDS];
#pragma unroll
    for (int r = 0; r < ROUNDS; ++r) {
        const uint64_t i = start + static_cast<uint32_t>(r * 128 + threadIdx.x) * PER;
        pair[r] = make_uint2(0, 0);
        s[r] = 0;
        if (FAST) {
            pair[r] = __ldg(static_cast<const uint2*>(item.x) + (i >> 5));
        } else if (i < item.n) {
            pair[r].x = static_cast<const uint32_t*>(item.x)[i >> 5 << 1];
            pair[r].y = static_cast<const uint32_t*>(item.x)[(i >> 5 << 1) + 1];
        }
        if ((FAST || i < item.n) && p.size == 0) {
            s[r] = __ldg(scales + (i >> p.block_shift));
        }
    }
#pragma unroll
    for (int r = 0; r < ROUNDS; ++r) {
        const uint64_t i = start + static_cast<uint32_t>(r * 128 + threadIdx.x) * PER;
        const uint32_t plus = pair[r].x & ~pair[r].y, minus = pair[r].y & ~pair[r].x;
        uint32_t raw[PER];
        if (p.size == 0) {
            const uint32_t bits = E::from_f32(s[r] << 16);
#pragma unroll
            for (int j = 0; j < PER; ++j) {
                raw[j] = element<E>(plus, minus, (i & 31) + j, bits);
            }
        } else {
            uint64_t row = i / p.size, left = (row + 1) * p.size - i;  // a row may end within the piece
#pragma unroll
            for (int j = 0; j < PER; ++j) {
                if (left == 0) {
                    row += 1;
                    left = p.size;
                }
                left -= 1;
                const bool exists = FAST || i + j < item.n;
                raw[j] = exists ? element<E>(plus, minus, (i & 31) + j, E::from_f32(static_cast<uint32_t>(scales[row]) << 16)) : 0u;
            }
        }
        store_piece<E, FAST>(item.a, i, item.n, raw);
    }
}

template <class E>
__device__ __forceinline__ void dequantize(const Dequantize& p, const Item& item) {
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(item.x) << 1 | reinterpret_cast<uintptr_t>(item.a);
    if (whole(cta_start(item), item.n, addresses, 16)) {
        dequantize_tile<E, true>(p, item);
    } else {
        dequantize_tile<E, false>(p, item);
    }
}

#define KERNEL(E, N)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        dequantize_##E##_##N(const __grid_constant__ Dequantize p, const __grid_constant__ Table<TABLE_##N> table) { \
        dequantize<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                                  \
    }
KERNEL(f32, one)
KERNEL(f32, many)
KERNEL(f16, one)
KERNEL(f16, many)
KERNEL(bf16, one)
KERNEL(bf16, many)
