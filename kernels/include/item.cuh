// The tensors of a launch, by value: a table in the kernel's parameters, so a captured graph keeps it, and no copy
// or allocation precedes a launch. Mirrors src/cuda/item.rs.
//
// Every operation has an item of its own, whose fields are called what they are. All have
//   n       units of work: elements where nothing else is said,
//   begin   the grid's first CTA for this item,
// and where they are reported or drawn for
//   first   the index of element 0 in the tensor,
//   tensor  the tensor's number.
#pragma once
#include "report.cuh"

constexpr int TABLE_BYTES = 32504;  // of the 32,764 that parameters may take
constexpr int HINTS = 1024;         // runs of CTAs for which a table says where their items begin

// Items in a table.
template <class I>
constexpr int MANY = (TABLE_BYTES - 8 - 2 * (HINTS + 4)) / sizeof(I);

template <class I>
struct One {
    I items[1];
};

template <class I>
struct Many {
    uint32_t count;
    uint32_t shift;             // log2 of the CTAs in a run
    uint16_t hints[HINTS + 4];  // the item of each run's first CTA; after the last run the last item
    I items[MANY<I>];
};

// The item a CTA works for: the last whose `begin` is not above it. Most runs lie within one item, and then nothing is
// searched for: nine steps of dependent loads took an eighth of a CTA's time.
template <class I>
__device__ __forceinline__ const I& item_of(const Many<I>& table, uint32_t cta) {
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

template <class I>
__device__ __forceinline__ const I& item_of(const One<I>& table, uint32_t) { return table.items[0]; }

// The first element, in its item, of the TILES * 4096 that a CTA works on.
template <int TILES = 1, class I>
__device__ __forceinline__ uint64_t cta_start(const I& item, uint32_t cta = blockIdx.x) {
    return static_cast<uint64_t>(cta - item.begin) * (TILES * CTA_TILE);
}

// The place of a thread in the 4096 elements from `start` on.
template <class I>
__device__ __forceinline__ Place place(const I& item, uint64_t start, bool fast) {
    Place at;
    at.start = start + warp_id() * TILE;
    at.own = start + 32 * threadIdx.x;
    at.group = static_cast<uint32_t>((item.first + start) >> 5) + threadIdx.x;
    at.inside = fast || at.own < item.n;
    at.fast = fast;
    return at;
}

template <bool FAST, class I>
__device__ __forceinline__ Place place(const I& item, uint64_t start) {
    return place(item, start, FAST);
}

// For the macros that name a kernel after its element type and its table.
#define ELEMENT_f32 F32
#define ELEMENT_f16 F16
#define ELEMENT_bf16 Bf16
#define TABLE_one One
#define TABLE_many Many
