// Philox4x32, the counter-based generator. Mirrors src/numerics/philox.rs.
#pragma once
#include "constants.h"

constexpr uint32_t M0 = 0xD2511F53u;
constexpr uint32_t M1 = 0xCD9E8D57u;

// One wide multiply; both halves of the product come from one instruction.
__device__ __forceinline__ uint2 mul_wide(uint32_t a, uint32_t b) {
    uint64_t p = static_cast<uint64_t>(a) * b;
    return make_uint2(static_cast<uint32_t>(p >> 32), static_cast<uint32_t>(p));
}

__device__ __forceinline__ uint4 round(uint4 c, uint32_t k0, uint32_t k1) {
    uint2 a = mul_wide(M0, c.x);
    uint2 b = mul_wide(M1, c.z);
    return make_uint4(b.x ^ c.y ^ k0, b.y, a.x ^ c.w ^ k1, a.y);
}

// Rounds FROM to ROUNDS - 1, of which FROM takes `state`. `keys`: the key of each round, from the kernel's parameters, so that their
// growth costs no instructions. The result is pinned: the compiler would rather run the rounds twice than keep four registers.
template <int FROM, int ROUNDS = PHILOX_ROUNDS>
__device__ __forceinline__ uint4 philox4x32_from(uint4 state, const uint32_t (&keys)[2 * PHILOX_ROUNDS]) {
    static_assert(FROM <= ROUNDS && ROUNDS <= PHILOX_ROUNDS);
    uint4 c = state;
#pragma unroll
    for (int r = FROM; r < ROUNDS; ++r) {
        c = round(c, keys[2 * r], keys[2 * r + 1]);
    }
    asm volatile("" : "+r"(c.x), "+r"(c.y), "+r"(c.z), "+r"(c.w) : : "memory");
    return c;
}

template <int ROUNDS>
__device__ __forceinline__ uint4 philox4x32(uint4 counter, const uint32_t (&keys)[2 * PHILOX_ROUNDS]) {
    return philox4x32_from<0, ROUNDS>(counter, keys);
}
