// The tensors of a launch, by value: a table in the kernel's parameters, so a captured graph keeps it, and no copy
// or allocation precedes a launch.
#pragma once
#include "report.cuh"

// One tensor. What the pointers mean is said by each kernel.
struct Item {
    const void* x;
    void* a;
    void* b;
    void* c;
    Report* report;
    uint64_t n;
    uint64_t first;      // index of element 0 in the tensor
    uint32_t tensor;
    uint32_t begin;      // the grid's first CTA for this item
};
static_assert(sizeof(Item) == 64);

template <int N>
struct Table {
    Item items[N];
    uint32_t count;
};

constexpr int MANY = 440;  // 28,160 bytes of the 32,764 that parameters may take

// The item a CTA works for: the last whose `begin` is not above it.
template <int N>
__device__ __forceinline__ const Item& item_of(const Table<N>& table, uint32_t cta) {
    if (N == 1) {
        return table.items[0];
    }
    uint32_t lo = 0, hi = table.count;
    while (hi - lo > 1) {
        uint32_t mid = (lo + hi) / 2;
        if (table.items[mid].begin <= cta) {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    return table.items[lo];
}

// The first element, in its item, of the TILES * 4096 that a CTA works on.
template <int TILES = 1>
__device__ __forceinline__ uint64_t cta_start(const Item& item) {
    return static_cast<uint64_t>(blockIdx.x - item.begin) * (TILES * CTA_TILE);
}

// The place of a thread in the 4096 elements from `start` on.
template <bool FAST>
__device__ __forceinline__ Place place(const Item& item, uint64_t start) {
    Place at;
    at.start = start + warp_id() * TILE;
    at.own = start + 32 * threadIdx.x;
    at.group = static_cast<uint32_t>((item.first + start) >> 5) + threadIdx.x;
    at.inside = FAST || at.own < item.n;
    return at;
}

// For the macros that name a kernel after its element type and its table.
#define ELEMENT_f32 F32
#define ELEMENT_f16 F16
#define ELEMENT_bf16 Bf16
#define TABLE_one 1
#define TABLE_many MANY
