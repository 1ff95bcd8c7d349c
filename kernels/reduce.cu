// Reductions over packed data: exact integer sums, finished on the host. Mirrors src/op/reduce.rs, src/cpu/reduce.rs
// and src/numerics/reduce.rs.
//
// Launch: up to 1024 CTAs of 128 threads, which share the groups of 32 elements among them. One item.
// Item: x = words; a = scales; b, c = words and scales of the right side (dot); n = elements.
// Out: a row for each CTA, every entry written: one count, or LIMBS limbs of which limb i has weight 2^(32 i - 268).
// All sums are integers, so neither the grid nor the order matters. Determinism: cross-backend.
// Bytes an element: bits / 8 + 2 / group, a side.
#include "output.cuh"
#include "pack.cuh"

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

// Calls op(scale group, mask of elements) for each scale group that a group of 32 elements meets, for rows of any length.
template <class Op>
__device__ __forceinline__ void each_part(const Reduce& p, uint64_t own, uint64_t n, Op op) {
    const uint64_t end = min(own + 32, n);
    uint64_t group = own / p.size;
    uint64_t at = own;
    while (at < end) {
        const uint64_t next = min((group + 1) * p.size, end);
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
    static constexpr int AT_ONCE = 4;
    uint2 a, b;
    __device__ __forceinline__ void load(const Item& item, uint64_t group) {
        a = load_pair(item.x, group);
        b = load_pair(item.b, group);
    }
    __device__ static __forceinline__ uint2 scales(const Item& item, uint64_t at) {
        return make_uint2(scale_at(item.a, at), scale_at(item.c, at));
    }
    __device__ __forceinline__ long long sum(uint32_t mask) const { return dot_words(a, b, mask); }
};

__device__ __forceinline__ uint2 scale_twice(const Item& item, uint64_t at) {
    const uint32_t s = scale_at(item.a, at);
    return make_uint2(s, s);
}

struct Planes {
    static constexpr int AT_ONCE = 4;
    uint2 a;
    __device__ __forceinline__ void load(const Item& item, uint64_t group) { a = load_pair(item.x, group); }
    __device__ static __forceinline__ uint2 scales(const Item& item, uint64_t at) { return scale_twice(item, at); }
    __device__ __forceinline__ long long sum(uint32_t mask) const { return __popc((a.x ^ a.y) & mask); }
};

// The squares of a word's fields: four products in an instruction where the fields fit bytes.
template <int BITS>
__device__ __forceinline__ long long squares(uint32_t w) {
    if (BITS == 4) {  // each field as the upper half of a byte: 16 l
        const int upper = static_cast<int>(w & 0xf0f0f0f0u), lower = static_cast<int>((w << 4) & 0xf0f0f0f0u);
        return __dp4a(upper, upper, __dp4a(lower, lower, 0)) >> 8;
    }
    if (BITS == 8) {
        return __dp4a(static_cast<int>(w), static_cast<int>(w), 0);
    }
    const int low = static_cast<int>(w << 16) >> 16, high = static_cast<int>(w) >> 16;
    return static_cast<uint32_t>(low * low) + static_cast<long long>(static_cast<uint32_t>(high * high));
}

template <int BITS>
struct Fields {
    static constexpr int AT_ONCE = BITS == 16 ? 2 : 4;
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
    __device__ static __forceinline__ uint2 scales(const Item& item, uint64_t at) { return scale_twice(item, at); }
    __device__ __forceinline__ long long sum(uint32_t mask) const {
        constexpr int IN_WORD = 32 / BITS;
        long long total = 0;
#pragma unroll
        for (int i = 0; i < BITS; ++i) {
            const uint32_t fields = spread_to_fields<BITS>(mask >> (IN_WORD * i)) * ((1u << BITS) - 1);
            total += squares<BITS>(mask == ~0u ? words[i] : words[i] & fields);
        }
        return total;
    }
};

template <class Group>
__device__ __forceinline__ void exact_sum(const Reduce& p, const Item& item) {
    constexpr int MANY_AT_ONCE = Group::AT_ONCE;
    __shared__ unsigned long long limbs[LIMBS];
    if (threadIdx.x < LIMBS) {
        limbs[threadIdx.x] = 0;
    }
    __syncthreads();
    Window w = {{0, 0, 0, 0}, 0};
    const uint64_t groups = (item.n + 31) / 32, stride = static_cast<uint64_t>(gridDim.x) * 128;
    const bool one_scale = p.shift < 64;  // for each group of 32
    for (uint64_t first = static_cast<uint64_t>(blockIdx.x) * 128 + threadIdx.x; first < groups; first += MANY_AT_ONCE * stride) {
        Group group[MANY_AT_ONCE];
        uint2 scales[MANY_AT_ONCE];
        // All loads come before the first sum: one group at a time waits for memory most of the time.
#pragma unroll
        for (int i = 0; i < MANY_AT_ONCE; ++i) {
            const uint64_t g = first + i * stride;
            if (g < groups) {
                group[i].load(item, g);
                if (one_scale) {
                    scales[i] = Group::scales(item, 32 * g >> p.shift);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < MANY_AT_ONCE; ++i) {
            const uint64_t g = first + i * stride;
            if (g >= groups) {
                break;
            }
            if (one_scale) {
                const uint64_t left = item.n - 32 * g;
                add_product(w, limbs, group[i].sum(left < 32 ? (1u << left) - 1 : ~0u), scales[i].x, scales[i].y);
            } else {
                each_part(p, 32 * g, item.n, [&](uint64_t at, uint32_t mask) {
                    const uint2 s = Group::scales(item, at);
                    add_product(w, limbs, group[i].sum(mask), s.x, s.y);
                });
            }
        }
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
