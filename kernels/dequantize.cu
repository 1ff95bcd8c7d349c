// Dequantize: planes and scales become floats. Mirrors src/op/dequantize.rs and src/cpu/dequantize.rs.
//
// Launch: one CTA of 128 threads for each 4096 elements of each item.
// Every element is written; what would become infinite becomes the largest finite number. An invalid pair gives 0.
// Determinism: cross-backend.
// Bytes an element: output + 1/4 + 2 / group.
#include "output.cuh"

// One tensor to dequantize.
struct DequantizeItem {
    const uint32_t* words;  // planes
    const uint16_t* scales;
    void* out;
    uint64_t n;
    uint64_t size;          // elements of a group (rows only)
    uint32_t begin;
    uint32_t pad;
};

struct Dequantize {
    uint32_t shift;  // log2 of the group, 63 for the whole tensor; not used for rows of other lengths
    uint32_t pad;
};

template <class E>
__device__ __forceinline__ void dequantize_block(const Dequantize& p, const DequantizeItem& item) {
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_TILE + warp_id() * TILE;
    const uint64_t own = start + 32 * lane_id();
    uint2 pair = make_uint2(0, 0);
    uint32_t own_value = 0;
    if (own < item.n) {
        pair = load_pair(item.words, own >> 5);
        own_value = from_f32_saturating<E>(static_cast<uint32_t>(item.scales[own >> p.shift]) << 16);
    }
    const bool aligned = aligned_to(item.out, 16), whole = aligned && start + TILE <= item.n;
#pragma unroll
    for (int i = 0; i < PIECES_PER_GROUP<E>; ++i) {
        const int piece = 32 * i + lane_id();
        const int owner = piece / PIECES_PER_GROUP<E>;
        const int bit = piece % PIECES_PER_GROUP<E> * PER<E>;
        const uint32_t plus = __shfl_sync(ALL, pair.x, owner) >> bit;
        const uint32_t minus = __shfl_sync(ALL, pair.y, owner) >> bit;
        const uint32_t value = __shfl_sync(ALL, own_value, owner);
        store_piece<E>(item.out, start + piece * PER<E>, item.n, aligned, piece_of_trits<E>(plus, minus, value, 0u), whole);
    }
}

// Rows of any length: the row of a lane's first element by one division, those of its pieces from there.
template <class E>
__device__ __forceinline__ void dequantize_row(const DequantizeItem& item) {
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_TILE + warp_id() * TILE;
    const uint64_t own = start + 32 * lane_id();
    const uint64_t size = item.size;
    const uint16_t* scales = item.scales;
    uint2 pair = make_uint2(0, 0);
    if (own < item.n) {
        pair = load_pair(item.words, own >> 5);
    }
    const uint64_t own_row = own / size;
    const uint64_t own_rest = own % size;
    const bool aligned = aligned_to(item.out, 16);
#pragma unroll 1
    for (int i = 0; i < PIECES_PER_GROUP<E>; ++i) {
        const int piece = 32 * i + lane_id();
        const int owner = piece / PIECES_PER_GROUP<E>;
        const int bit = piece % PIECES_PER_GROUP<E> * PER<E>;
        const uint32_t plus = __shfl_sync(ALL, pair.x, owner) >> bit;
        const uint32_t minus = __shfl_sync(ALL, pair.y, owner) >> bit;
        uint64_t row = __shfl_sync(ALL, own_row, owner);
        uint64_t rest = __shfl_sync(ALL, own_rest, owner) + bit;
        if (size < 64) {
            row += static_cast<uint32_t>(rest) / static_cast<uint32_t>(size);
            rest = static_cast<uint32_t>(rest) % static_cast<uint32_t>(size);
        } else if (rest >= size) {
            row += 1;
            rest -= size;
        }
        const uint64_t at = start + piece * PER<E>;
        uint32_t w[4] = {0, 0, 0, 0};
#pragma unroll
        for (int e = 0; e < PER<E>; ++e) {
            const uint32_t trit = ((plus >> e) & 1u) | (((minus >> e) & 1u) << 1);
            uint32_t v = 0;
            if (at + e < item.n && (trit == 1 || trit == 2)) {
                v = from_f32_saturating<E>(static_cast<uint32_t>(scales[row]) << 16) ^ ((trit >> 1) << (8 * E::SIZE - 1));
            }
            w[E::SIZE == 4 ? e % 4 : e / 2 % 4] |= v << (E::SIZE == 4 ? 0 : 16 * (e % 2));
            if (++rest == size) {
                rest = 0;
                row += 1;
            }
        }
        store_piece<E>(item.out, at, item.n, aligned, make_uint4(w[0], w[1], w[2], w[3]));
    }
}

#define KERNELS(E, N)                                                                                           \
    extern "C" __global__ void __launch_bounds__(128)                                                           \
        dequantize_block_##E##_##N(const __grid_constant__ Dequantize p,                                        \
                                   const __grid_constant__ TABLE_##N<DequantizeItem> table) {                   \
        dequantize_block<ELEMENT_##E>(p, item_of(table, blockIdx.x));                                           \
    }                                                                                                           \
    extern "C" __global__ void __launch_bounds__(128)                                                           \
        dequantize_row_##E##_##N(const __grid_constant__ Dequantize,                                            \
                                 const __grid_constant__ TABLE_##N<DequantizeItem> table) {                     \
        dequantize_row<ELEMENT_##E>(item_of(table, blockIdx.x));                                                \
    }
KERNELS(f32, one)
KERNELS(f32, many)
KERNELS(f16, one)
KERNELS(f16, many)
KERNELS(bf16, one)
KERNELS(bf16, many)
