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
struct __align__(16 * E::PIECES) Stage {
    uint4 piece[32 * E::PIECES];

    __device__ static __forceinline__ int slot(int lane, int sub) {
        int turn = E::PIECES == 8 ? lane & 7 : (lane >> 1) & 3;
        return lane * E::PIECES + (sub ^ turn);
    }

    // slot(p / PIECES, p % PIECES) of piece p = 32 i + lane, with what depends on i left to constants.
    __device__ static __forceinline__ int slot_of_piece(int i, int lane) {
        int turn = lane >> 3 ^ (E::PIECES == 8 ? 4 * (i & 1) : 0);
        return 32 * i + (lane ^ turn);
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

    // The same with fewer logic instructions: slot(lane, j) is slot(lane, 0) with j joined by XOR. As a stage is aligned to a lane's
    // pieces, these are bits of the address as well.
    __device__ __forceinline__ void take_by_address(uint32_t (&w)[E::WORDS]) {
        const uint32_t first = static_cast<uint32_t>(__cvta_generic_to_shared(&piece[slot(lane_id(), 0)]));
#pragma unroll
        for (int j = 0; j < E::PIECES; ++j) {
            uint4 v = *static_cast<const uint4*>(__cvta_shared_to_generic(first ^ 16 * j));
            w[4 * j] = v.x;
            w[4 * j + 1] = v.y;
            w[4 * j + 2] = v.z;
            w[4 * j + 3] = v.w;
        }
    }

    // The reverse; only the lane itself may read them at once.
    __device__ __forceinline__ void put(const uint32_t (&w)[E::WORDS]) {
        int lane = lane_id();
#pragma unroll
        for (int j = 0; j < E::PIECES; ++j) {
            piece[slot(lane, j)] = make_uint4(w[4 * j], w[4 * j + 1], w[4 * j + 2], w[4 * j + 3]);
        }
    }
};

// Where a CTA and a lane work: the item's elements from `start` on, of which the lane owns 32 from `own` on.
struct Place {
    uint64_t start;  // the warp's first element
    uint64_t own;    // the lane's first element
    uint32_t group;  // the draw group of the lane's elements
    bool inside;     // whether the lane owns any element
    bool fast;       // whether the tile is whole and aligned: the same for all threads of a CTA
};

// Whether a CTA may take the fast path: its `many` elements from `start` on all exist and whatever it reads and writes in wide pieces
// is aligned. The same for all threads, so the two paths cost one branch.
__device__ __forceinline__ bool whole(uint64_t start, uint64_t many, uint64_t n, uintptr_t addresses, uint32_t alignment) {
    return start + many <= n && (addresses & (alignment - 1)) == 0;
}

// The pieces a lane has in flight between `begin` and `end`.
template <class E>
struct Flight {
    uint4 v[E::PIECES];
};

// Starts the loads of a tile. On the careful path nothing starts here.
template <class E, bool FAST>
__device__ __forceinline__ void begin(const void* x, const Place& at, Flight<E>& flight) {
    if (FAST) {
        const uint4* src = reinterpret_cast<const uint4*>(static_cast<const char*>(x) + at.start * E::SIZE) + lane_id();
#pragma unroll
        for (int i = 0; i < E::PIECES; ++i) {
            flight.v[i] = __ldcs(src + 32 * i);
        }
    }
}

// A 16-byte piece from device to shared memory: where the card can, with no register in between, so that any number
// of tiles can be under way while one is worked on.
__device__ __forceinline__ void copy_piece(uint4* to, const uint4* from) {
#if __CUDA_ARCH__ >= 800
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" : : "r"(address), "l"(from) : "memory");
#else
    *to = __ldcs(from);
#endif
}

// Ends a batch of copies, be it empty.
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}

// Waits until at most LEFT of this thread's batches are under way.
template <int LEFT>
__device__ __forceinline__ void await_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" : : "n"(LEFT) : "memory");
#endif
}

// Starts the copies of a tile that is whole and aligned.
template <class E>
__device__ __forceinline__ void fetch(const void* x, uint64_t start, Stage<E>& stage) {
    const int lane = lane_id();
    const uint4* src = reinterpret_cast<const uint4*>(static_cast<const char*>(x) + start * E::SIZE) + lane;
#pragma unroll
    for (int i = 0; i < E::PIECES; ++i) {
        copy_piece(&stage.piece[Stage<E>::slot_of_piece(i, lane)], src + 32 * i);
    }
}

// The careful way for tails and views that are not aligned: one element a load, zeros past n.
template <class E>
__device__ __noinline__ void load_parts(const void* x, uint64_t start, uint64_t n, Stage<E>& stage) {
    const typename E::Scalar* src = static_cast<const typename E::Scalar*>(x);
    int lane = lane_id();
    for (int e = 0; e < 32; ++e) {
        uint64_t i = start + 32 * e + lane;
        stage.at(e, lane) = i < n ? src[i] : typename E::Scalar(0);
    }
}

// Ends them: afterwards every lane may take its elements.
template <class E, bool FAST>
__device__ __forceinline__ void end(const void* x, const Place& at, uint64_t n, const Flight<E>& flight, Stage<E>& stage) {
    if (FAST) {
        const int lane = lane_id();
#pragma unroll
        for (int i = 0; i < E::PIECES; ++i) {
            stage.piece[Stage<E>::slot_of_piece(i, lane)] = flight.v[i];
        }
    } else {
        load_parts<E>(x, at.start, n, stage);
    }
    __syncwarp();
}
