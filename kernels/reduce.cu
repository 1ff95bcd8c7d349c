// Reductions over packed data: exact integer sums, finished on the host. Mirrors src/op/reduce.rs, src/cpu/reduce.rs
// and src/numerics/reduce.rs.
//
// Launch: up to 1024 CTAs of 128 threads, which share the groups of 32 elements among them. One item.
// Item: x = words; a = scales; b, c = words and scales of the right side (dot); n = elements.
// Out: a row for each CTA, every entry written: one count, or LIMBS limbs of which limb i has weight 2^(32 i - 268).
// All sums are integers, so neither the grid nor the order matters. Determinism: cross-backend.
// Bytes an element: bits / 8 + 2 / group, a side.
#include "output.cuh"

constexpr int LIMBS = 20;

struct Reduce {
    unsigned long long* out;
    uint64_t size;   // elements of a scale group
    uint32_t shift;  // log2 of it; 64 where it is no power of two
    uint32_t pad;
};

// A thread's sum: four limbs from `base` on, moved to the CTA's when a term lies elsewhere. A term is below 2^51, so
// each limb takes less than 2^32 from it, and 2^31 terms fit.
struct Window {
    long long limb[4];
    int base;
};

__device__ __forceinline__ void flush(Window& w, unsigned long long* limbs) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (w.limb[i] != 0) {
            atomicAdd(&limbs[w.base + i], static_cast<unsigned long long>(w.limb[i]));
        }
        w.limb[i] = 0;
    }
}

// Adds count a b for two scales.
__device__ __forceinline__ void add_product(Window& w, unsigned long long* limbs, long long count, uint32_t a, uint32_t b) {
    a = magnitude(a);
    b = magnitude(b);
    if (count == 0 || a == 0 || b == 0) {
        return;
    }
    const uint32_t ma = ((a >> 16) & 0x7fu) | 0x80u, mb = ((b >> 16) & 0x7fu) | 0x80u;
    const uint32_t exponent = (a >> 23) + (b >> 23);
    const int limb = exponent / 32;
    if (limb != w.base && limb != w.base + 1) {
        flush(w, limbs);
        w.base = limb;
    }
    const uint32_t shift = exponent % 32;
    const long long term = count * static_cast<long long>(ma * mb);
    const unsigned long long low = static_cast<unsigned long long>(term) << shift;
    const long long t0 = static_cast<long long>(low & 0xffffffffull);
    const long long t1 = static_cast<long long>(low >> 32);
    const long long t2 = shift == 0 ? term >> 63 : term >> (64 - shift);
    const bool upper = limb != w.base;
    w.limb[0] += upper ? 0 : t0;
    w.limb[1] += upper ? t0 : t1;
    w.limb[2] += upper ? t1 : t2;
    w.limb[3] += upper ? t2 : 0;
}

__device__ __forceinline__ uint32_t scale_at(const void* scales, uint64_t group) {
    return static_cast<uint32_t>(static_cast<const uint16_t*>(scales)[group]) << 16;
}

// Calls op(scale group, mask of elements) for each scale group that a group of 32 elements meets.
template <class Op>
__device__ __forceinline__ void each_part(const Reduce& p, uint64_t own, uint64_t n, Op op) {
    const uint64_t end = min(own + 32, n);
    uint64_t group = p.shift < 64 ? own >> p.shift : own / p.size;
    uint64_t at = own;
    while (at < end) {
        const uint64_t next = p.shift < 64 ? end : min((group + 1) * p.size, end);
        const uint32_t low = static_cast<uint32_t>(at - own), high = static_cast<uint32_t>(next - own);
        op(group, (high == 32 ? ~0u : (1u << high) - 1) & (~0u << low));
        group += 1;
        at = next;
    }
}

// Equal signs less opposite ones; an invalid pair counts as zero.
__device__ __forceinline__ int dot_words(uint2 a, uint2 b, uint32_t mask) {
    const uint32_t both = (a.x ^ a.y) & (b.x ^ b.y) & mask;
    return __popc(both) - 2 * __popc(both & (a.x ^ b.x));
}

struct Dot {
    uint2 a, b;
    __device__ __forceinline__ void load(const Item& item, uint64_t group) {
        a = load_pair(item.x, group);
        b = load_pair(item.b, group);
    }
    __device__ __forceinline__ void add(Window& w, unsigned long long* limbs, const Item& item, uint64_t group, uint32_t mask) {
        const int count = dot_words(a, b, mask);
        if (count != 0) {
            add_product(w, limbs, count, scale_at(item.a, group), scale_at(item.c, group));
        }
    }
};

struct Planes {
    uint2 a;
    __device__ __forceinline__ void load(const Item& item, uint64_t group) { a = load_pair(item.x, group); }
    __device__ __forceinline__ void add(Window& w, unsigned long long* limbs, const Item& item, uint64_t group, uint32_t mask) {
        const uint32_t s = scale_at(item.a, group);
        add_product(w, limbs, __popc((a.x ^ a.y) & mask), s, s);
    }
};

template <int BITS>
struct Fields {
    uint32_t words[BITS];
    __device__ __forceinline__ void load(const Item& item, uint64_t group) {
        const uint32_t* from = static_cast<const uint32_t*>(item.x) + BITS * group;
        if (aligned_to(item.x, 16)) {
#pragma unroll
            for (int i = 0; i < BITS / 4; ++i) {
                const uint4 v = __ldcs(reinterpret_cast<const uint4*>(from) + i);
                words[4 * i] = v.x, words[4 * i + 1] = v.y, words[4 * i + 2] = v.z, words[4 * i + 3] = v.w;
            }
        } else {
#pragma unroll
            for (int i = 0; i < BITS; ++i) {
                words[i] = __ldcs(from + i);
            }
        }
    }
    __device__ __forceinline__ void add(Window& w, unsigned long long* limbs, const Item& item, uint64_t group, uint32_t mask) {
        constexpr int IN_WORD = 32 / BITS;
        long long squares = 0;
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            const int32_t level = static_cast<int32_t>(words[e / IN_WORD] << (32 - BITS - BITS * (e % IN_WORD))) >> (32 - BITS);
            squares += (mask >> e) & 1u ? level * level : 0;
        }
        const uint32_t s = scale_at(item.a, group);
        add_product(w, limbs, squares, s, s);
    }
};

template <class Group>
__device__ __forceinline__ void exact_sum(const Reduce& p, const Item& item) {
    __shared__ unsigned long long limbs[LIMBS];
    if (threadIdx.x < LIMBS) {
        limbs[threadIdx.x] = 0;
    }
    __syncthreads();
    Window w = {{0, 0, 0, 0}, 0};
    const uint64_t groups = (item.n + 31) / 32;
    for (uint64_t g = static_cast<uint64_t>(blockIdx.x) * 128 + threadIdx.x; g < groups;
         g += static_cast<uint64_t>(gridDim.x) * 128) {
        Group group;
        group.load(item, g);
        each_part(p, 32 * g, item.n,
                  [&](uint64_t scale, uint32_t mask) { group.add(w, limbs, item, scale, mask); });
    }
    flush(w, limbs);
    __syncthreads();
    if (threadIdx.x < LIMBS) {
        p.out[static_cast<uint64_t>(blockIdx.x) * LIMBS + threadIdx.x] = limbs[threadIdx.x];
    }
}

#define KERNEL(name, Group)                                                                                    \
    extern "C" __global__ void __launch_bounds__(128)                                                          \
        name(const __grid_constant__ Reduce p, const __grid_constant__ Table<1> table) {                       \
        exact_sum<Group>(p, table.items[0]);                                                                   \
    }
KERNEL(reduce_dot_one, Dot)
KERNEL(reduce_norm_2_one, Planes)
KERNEL(reduce_norm_4_one, Fields<4>)
KERNEL(reduce_norm_8_one, Fields<8>)
KERNEL(reduce_norm_16_one, Fields<16>)
#undef KERNEL

// n = pairs of words, all of them: bits past a tensor's end are zero.
extern "C" __global__ void __launch_bounds__(128)
    reduce_nonzero_one(const __grid_constant__ Reduce p, const __grid_constant__ Table<1> table) {
    __shared__ unsigned long long sum;
    if (threadIdx.x == 0) {
        sum = 0;
    }
    __syncthreads();
    const Item& item = table.items[0];
    unsigned long long own = 0;
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * 128;
#pragma unroll 4
    for (uint64_t g = static_cast<uint64_t>(blockIdx.x) * 128 + threadIdx.x; g < item.n; g += stride) {
        const uint2 pair = load_pair(item.x, g);
        own += __popc(pair.x ^ pair.y);
    }
    for (int d = 16; d; d >>= 1) {
        own += __shfl_xor_sync(ALL, own, d);
    }
    if (lane_id() == 0) {
        atomicAdd(&sum, own);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        p.out[blockIdx.x] = sum;
    }
}
