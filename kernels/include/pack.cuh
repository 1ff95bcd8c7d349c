// Packed layouts. Mirrors src/numerics/pack.rs.
#pragma once
#include <cstdint>

// Bit i of 16 to bit 2 i.
__device__ __forceinline__ uint32_t spread(uint32_t x) {
    x = (x | (x << 8)) & 0x00ff00ffu;
    x = (x | (x << 4)) & 0x0f0f0f0fu;
    x = (x | (x << 2)) & 0x33333333u;
    return (x | (x << 1)) & 0x55555555u;
}

// Bit 2 i to bit i; odd bits are dropped.
__device__ __forceinline__ uint32_t gather(uint32_t x) {
    x &= 0x55555555u;
    x = (x | (x >> 1)) & 0x33333333u;
    x = (x | (x >> 2)) & 0x0f0f0f0fu;
    x = (x | (x >> 4)) & 0x00ff00ffu;
    return (x | (x >> 8)) & 0xffffu;
}

__device__ __forceinline__ uint2 planes_to_fields(uint32_t plus, uint32_t minus) {
    return make_uint2(spread(plus & 0xffffu) | (spread(minus & 0xffffu) << 1),
                      spread(plus >> 16) | (spread(minus >> 16) << 1));
}

__device__ __forceinline__ uint2 fields_to_planes(uint2 fields) {
    return make_uint2(gather(fields.x) | (gather(fields.y) << 16),
                      gather(fields.x >> 1) | (gather(fields.y >> 1) << 16));
}

// The lowest 32 / BITS bits of x, one to the bottom of each field.
template <int BITS>
__device__ __forceinline__ uint32_t spread_to_fields(uint32_t x) {
    if (BITS == 4) {
        x &= 0xffu;
        x = (x | (x << 12)) & 0x000f000fu;
        x = (x | (x << 6)) & 0x03030303u;
        return (x | (x << 3)) & 0x11111111u;
    }
    if (BITS == 8) {
        return ((x & 0xfu) * 0x00204081u) & 0x01010101u;
    }
    return ((x & 0x3u) * 0x00008001u) & 0x00010001u;
}

// Adds field by field, each wrapping within itself.
template <int BITS>
__device__ __forceinline__ uint32_t add_fields(uint32_t a, uint32_t b) {
    constexpr uint32_t TOP = BITS == 4 ? 0x88888888u : BITS == 8 ? 0x80808080u : 0x80008000u;
    return ((a & ~TOP) + (b & ~TOP)) ^ ((a ^ b) & TOP);
}
