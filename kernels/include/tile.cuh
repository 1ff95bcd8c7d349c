// A warp's tile: 1024 consecutive elements of which lane l holds elements 32 l to 32 l + 31, one draw group and one
// pair of plane words.
//
// Memory is read in 16-byte pieces, piece p by lane p mod 32, so that every load instruction covers 512 consecutive
// bytes; the pieces then change owners through shared memory. The pieces of lane t are stored rotated by an XOR
// with t, so that neither the writes nor the reads meet in a bank.
#pragma once
#include "float.cuh"

constexpr int WARPS = 4;                      // a CTA: 4 warps,
constexpr int TILE = 1024;                    // each with a tile of 1024 elements,
constexpr int CTA_TILE = WARPS * TILE;        // together one chunk of 4096
constexpr uint32_t ALL = 0xffffffffu;

__device__ __forceinline__ int lane_id() { return threadIdx.x & 31; }
__device__ __forceinline__ int warp_id() { return threadIdx.x >> 5; }

template <class E>
struct Stage {
    uint4 piece[32 * E::PIECES];

    __device__ static __forceinline__ int slot(int lane, int sub) {
        int turn = E::PIECES == 8 ? lane & 7 : (lane >> 1) & 3;
        return lane * E::PIECES + (sub ^ turn);
    }

    // Element e of the lane's own, as raw bits.
    __device__ __forceinline__ typename E::Scalar& at(int lane, int e) {
        constexpr int PER = 16 / E::SIZE;
        return reinterpret_cast<typename E::Scalar*>(&piece[slot(lane, e / PER)])[e % PER];
    }

    // Brings the lane's elements into registers.
    __device__ __forceinline__ void take(uint32_t (&w)[E::WORDS]) {
        int lane = lane_id();
#pragma unroll
        for (int j = 0; j < E::PIECES; ++j) {
            uint4 v = piece[slot(lane, j)];
            w[4 * j] = v.x;
            w[4 * j + 1] = v.y;
            w[4 * j + 2] = v.z;
            w[4 * j + 3] = v.w;
        }
    }
};

// The pieces a lane has in flight between `begin` and `end`.
template <class E>
struct Flight {
    uint4 v[E::PIECES];
};

// Whether the tile from `start` lies inside n elements and its pieces are aligned.
template <class E>
__device__ __forceinline__ bool whole(const void* x, uint64_t start, uint64_t n) {
    return start + TILE <= n && (reinterpret_cast<uintptr_t>(x) & 15) == 0;
}

// Starts the loads of a whole tile.
template <class E>
__device__ __forceinline__ void begin(const void* x, uint64_t start, Flight<E>& flight) {
    const uint4* src = reinterpret_cast<const uint4*>(static_cast<const char*>(x) + start * E::SIZE) + lane_id();
#pragma unroll
    for (int i = 0; i < E::PIECES; ++i) {
        flight.v[i] = __ldcs(src + 32 * i);
    }
}

// Ends them: afterwards every lane may take its elements.
template <class E>
__device__ __forceinline__ void end(const Flight<E>& flight, Stage<E>& stage) {
    int lane = lane_id();
#pragma unroll
    for (int i = 0; i < E::PIECES; ++i) {
        int p = 32 * i + lane;
        stage.piece[Stage<E>::slot(p / E::PIECES, p % E::PIECES)] = flight.v[i];
    }
    __syncwarp();
}

// The slow way for tails and views that are not aligned: one element a load, zeros past n.
template <class E>
__device__ __noinline__ void load_parts(const void* x, uint64_t start, uint64_t n, Stage<E>& stage) {
    const typename E::Scalar* src = static_cast<const typename E::Scalar*>(x);
    int lane = lane_id();
    for (int e = 0; e < 32; ++e) {
        uint64_t i = start + 32 * e + lane;
        stage.at(e, lane) = i < n ? src[i] : typename E::Scalar(0);
    }
    __syncwarp();
}
