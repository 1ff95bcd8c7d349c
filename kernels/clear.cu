// Clear: writes zeros to a list of buffers in one launch. Mirrors `clear_all` in src/cuda/memory.rs.
//
// Launch: one CTA of 128 threads for each 64 KiB of each item.
// Determinism: cross-backend.
// Bytes an element: its own.
#include "item.cuh"
#include "output.cuh"

constexpr uint64_t CLEAR_TILE = 1 << 16;

// One buffer to clear. n: bytes.
struct ClearItem {
    void* out;
    uint64_t n;
    uint32_t begin;
    uint32_t pad;
};

__device__ __forceinline__ void clear(const ClearItem& item) {
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CLEAR_TILE;
    const uint64_t end = min(item.n, start + CLEAR_TILE);
    char* out = static_cast<char*>(item.out);
    // A tile begins at a multiple of 16 bytes, so the buffer's own address decides.
    uint64_t at = start;
    if (aligned_to(item.out, 16)) {
        const uint64_t whole = end / 16 * 16;
        for (uint64_t i = start + 16 * threadIdx.x; i < whole; i += 16 * blockDim.x) {
            *reinterpret_cast<uint4*>(out + i) = make_uint4(0, 0, 0, 0);
        }
        at = max(start, whole);
    }
    for (uint64_t i = at + threadIdx.x; i < end; i += blockDim.x) {
        out[i] = 0;
    }
}

#define KERNEL(N)                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                          \
        clear_##N(const __grid_constant__ uint64_t, const __grid_constant__ TABLE_##N<ClearItem> table) { \
        clear(item_of(table, blockIdx.x));                                                     \
    }
KERNEL(one)
KERNEL(many)
