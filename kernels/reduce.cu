// Reductions over packed data, without unpacking. Mirrors src/op/reduce.rs, src/numerics/reduce.rs and
// src/cpu/reduce.rs.
//
// A group of elements that share a scale adds an integer times 2^(exponent - 268). Integers of one exponent are added
// in one bin, as a low and a high part that cannot overflow; the host joins the bins in its wide integer and rounds
// once. Order cannot matter.
//
// Launch: 1024 CTAs of 128 threads at most, each lane taking groups of 32 elements; bins in shared memory, then joined.
// `bins`: 2 * 512 words of 64 bits, zeroed before. Determinism: cross-backend. Bytes an element: 1/4 a side.
#include "float.cuh"
#include "tile.cuh"

constexpr int BINS = 512;  // exponents 0 to 508

struct Reduce {
    const uint32_t* a;
    const uint16_t* scales_a;
    const uint32_t* b;
    const uint16_t* scales_b;
    unsigned long long* bins;  // BINS low parts, then BINS high parts
    uint64_t n;                // elements
    uint64_t size;             // elements that share a scale
    uint32_t bits;             // squared_norm: of a level
};

struct Bins {
    unsigned long long low[BINS], high[BINS];

    __device__ __forceinline__ void clear() {
        for (int i = threadIdx.x; i < BINS; i += blockDim.x) {
            low[i] = high[i] = 0;
        }
        __syncthreads();
    }

    __device__ __forceinline__ void add(uint32_t exponent, int64_t term) {
        if (term != 0) {
            atomicAdd(&low[exponent], static_cast<unsigned long long>(term) & 0xffffffffull);
            atomicAdd(&high[exponent], static_cast<unsigned long long>(term >> 32));
        }
    }

    __device__ __forceinline__ void join(unsigned long long* into) {
        __syncthreads();
        for (int i = threadIdx.x; i < BINS; i += blockDim.x) {
            if (low[i]) {
                atomicAdd(into + i, low[i]);
            }
            if (high[i]) {
                atomicAdd(into + BINS + i, high[i]);
            }
        }
    }
};

// Terms of one lane with the same exponent, joined before they go to the bins.
struct Run {
    uint32_t exponent = 0;
    int64_t term = 0;

    // Terms are below 2^51 and a run is closed before it can leave 63 bits.
    __device__ __forceinline__ void add(Bins& bins, uint32_t e, int64_t t) {
        if (e != exponent || term > (1ll << 61) || term < -(1ll << 61)) {
            bins.add(exponent, term);
            exponent = e;
            term = 0;
        }
        term += t;
    }
};

// Mantissa and biased exponent of a bf16 scale; 0 where the scale is 0.
__device__ __forceinline__ int64_t mantissa(uint32_t s) { return s ? static_cast<int64_t>((s & 0x7fu) | 0x80u) : 0; }
__device__ __forceinline__ uint32_t exponent(uint32_t s) { return s >> 7; }

// The bits of a group of 32 that exist.
__device__ __forceinline__ uint32_t existing(uint64_t own, uint64_t n) {
    return n - own >= 32 ? ALL : ALL >> (32 - static_cast<int>(n - own));
}

extern "C" __global__ void __launch_bounds__(128) count_nonzero(const __grid_constant__ Reduce p) {
    unsigned long long count = 0;
    const uint64_t groups = (p.n + 31) / 32, step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    for (uint64_t g = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; g < groups; g += step) {
        count += __popc(p.a[2 * g] ^ p.a[2 * g + 1]);
    }
    for (int d = 16; d; d >>= 1) {
        count += __shfl_xor_sync(ALL, count, d);
    }
    if (lane_id() == 0 && count) {
        atomicAdd(p.bins, count);
    }
}

// Calls `term(from, to)` for the parts of a group of 32, from own on, that share a scale, with the number of that scale.
template <class F>
__device__ __forceinline__ void by_scale(uint64_t own, uint64_t n, uint64_t size, F term) {
    const uint64_t last = min(own + 32, n);
    uint64_t index = size >= n ? 0 : own / size;
    uint64_t from = own;
    while (from < last) {
        const uint64_t to = size >= n ? last : min(last, (index + 1) * size);
        term(static_cast<int>(from - own), static_cast<int>(to - own), index);
        from = to;
        index += 1;
    }
}

// The bits from `from` to `to` - 1.
__device__ __forceinline__ uint32_t between(int from, int to) {
    return (ALL >> (32 - (to - from))) << from;
}

extern "C" __global__ void __launch_bounds__(128) dot(const __grid_constant__ Reduce p) {
    __shared__ Bins bins;
    bins.clear();
    Run run;
    const uint64_t groups = (p.n + 31) / 32, step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    for (uint64_t g = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; g < groups; g += step) {
        const uint32_t a0 = p.a[2 * g], a1 = p.a[2 * g + 1], b0 = p.b[2 * g], b1 = p.b[2 * g + 1];
        by_scale(32 * g, p.n, p.size, [&](int from, int to, uint64_t index) {
            const uint32_t mask = between(from, to);
            const int same = __popc(a0 & b0 & mask) + __popc(a1 & b1 & mask);
            const int opposite = __popc(a0 & b1 & mask) + __popc(a1 & b0 & mask);
            if (same != opposite) {
                const uint32_t sa = p.scales_a[index], sb = p.scales_b[index];
                const int64_t product = mantissa(sa) * mantissa(sb);
                if (product) {
                    run.add(bins, exponent(sa) + exponent(sb), (same - opposite) * product);
                }
            }
        });
    }
    bins.add(run.exponent, run.term);
    bins.join(p.bins);
}

extern "C" __global__ void __launch_bounds__(128) squared_norm(const __grid_constant__ Reduce p) {
    __shared__ Bins bins;
    bins.clear();
    Run run;
    const uint64_t groups = (p.n + 31) / 32, step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    for (uint64_t g = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; g < groups; g += step) {
        by_scale(32 * g, p.n, p.size, [&](int from, int to, uint64_t index) {
            const uint32_t* const words = p.a + p.bits * g;
            int64_t squares = 0;
            if (p.bits == 2) {
                squares = __popc((words[0] ^ words[1]) & between(from, to));
            } else {
                const int per = 32 / p.bits;
                for (int e = from; e < to; ++e) {
                    const int shift = 32 - p.bits - p.bits * (e % per);
                    const int64_t l = static_cast<int32_t>(words[e / per] << shift) >> (32 - p.bits);
                    squares += l * l;
                }
            }
            const uint32_t s = p.scales_a[index];
            if (squares && s) {
                run.add(bins, 2 * exponent(s), squares * mantissa(s) * mantissa(s));
            }
        });
    }
    bins.add(run.exponent, run.term);
    bins.join(p.bins);
}
