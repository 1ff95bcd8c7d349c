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

constexpr int MANY = 440;    // with the hints 30,224 bytes of the 32,764 that parameters may take
constexpr int HINTS = 1024;  // runs of CTAs for which the table says where their items begin

template <int N>
struct Table {
    Item items[N];
    uint32_t count;
    uint32_t shift;            // log2 of the CTAs in a run
    uint16_t hints[HINTS + 4]; // the item of each run's first CTA; after the last run the last item
};

template <>
struct Table<1> {
    Item items[1];
    uint32_t count;
    uint32_t pad;
};
static_assert(sizeof(Table<1>) == 72 && sizeof(Table<MANY>) == 30224);

// The item a CTA works for: the last whose `begin` is not above it. Most runs lie within one item, and then nothing is
// searched for: nine steps of dependent loads took an eighth of a CTA's time.
template <int N>
__device__ __forceinline__ const Item& item_of(const Table<N>& table, uint32_t cta) {
    uint32_t lo = table.hints[cta >> table.shift], hi = table.hints[(cta >> table.shift) + 1] + 1u;
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

__device__ __forceinline__ const Item& item_of(const Table<1>& table, uint32_t) { return table.items[0]; }

// The first element, in its item, of the TILES * 4096 that a CTA works on.
template <int TILES = 1>
__device__ __forceinline__ uint64_t cta_start(const Item& item, uint32_t cta = blockIdx.x) {
    return static_cast<uint64_t>(cta - item.begin) * (TILES * CTA_TILE);
}

// The place of a thread in the 4096 elements from `start` on.
__device__ __forceinline__ Place place(const Item& item, uint64_t start, bool fast) {
    Place at;
    at.start = start + warp_id() * TILE;
    at.own = start + 32 * threadIdx.x;
    at.group = static_cast<uint32_t>((item.first + start) >> 5) + threadIdx.x;
    at.inside = fast || at.own < item.n;
    at.fast = fast;
    return at;
}

template <bool FAST>
__device__ __forceinline__ Place place(const Item& item, uint64_t start) {
    return place(item, start, FAST);
}

// For the macros that name a kernel after its element type and its table.
#define ELEMENT_f32 F32
#define ELEMENT_f16 F16
#define ELEMENT_bf16 Bf16
#define TABLE_one 1
#define TABLE_many MANY
