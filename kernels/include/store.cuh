// Writing floats: a lane writes 16 consecutive bytes, so that a warp's store covers 512.
#pragma once
#include "item.cuh"

// Elements in 16 bytes.
template <class E>
constexpr int PER_PIECE = 16 / E::SIZE;

// Writes a lane's PER_PIECE elements (raw bits) from element i on, those below n.
template <class E, bool FAST>
__device__ __forceinline__ void store_piece(void* out, uint64_t i, uint64_t n, const uint32_t (&raw)[PER_PIECE<E>]) {
    if (FAST) {
        uint4 v;
        if (E::SIZE == 4) {
            v = make_uint4(raw[0], raw[1 % PER_PIECE<E>], raw[2 % PER_PIECE<E>], raw[3 % PER_PIECE<E>]);
        } else {
            constexpr int P = PER_PIECE<E>;
            v = make_uint4(raw[0] | raw[1 % P] << 16, raw[2 % P] | raw[3 % P] << 16, raw[4 % P] | raw[5 % P] << 16,
                           raw[6 % P] | raw[7 % P] << 16);
        }
        __stcs(reinterpret_cast<uint4*>(static_cast<char*>(out) + i * E::SIZE), v);
    } else {
#pragma unroll
        for (int j = 0; j < PER_PIECE<E>; ++j) {
            if (i + j < n) {
                static_cast<typename E::Scalar*>(out)[i + j] = static_cast<typename E::Scalar>(raw[j]);
            }
        }
    }
}
