// Reductions: exact integer sums, which stay on the device. Mirrors src/op/reduce.rs, src/cpu/reduce.rs and
// src/numerics/reduce.rs.
//
// reduce_*: one CTA of 128 threads for each 1024 units of each item; a unit is 16 bytes, of planes 8 bytes a side. A CTA adds
// what it found to a row of limbs in scratch memory by integer atomics: no order matters.
// reduce_finish: one CTA for each sum; adds up its rows and what the sum held, carries, and writes it in canonical form.
// Determinism: cross-backend. Bytes an element: bits / 8 + 2 / group, a side.
#include "output.cuh"

constexpr int LIMBS = SUM_WORDS;  // limb i has weight 2^(32 i - 320)
constexpr uint32_t LOWEST = SUM_LOWEST;
constexpr int UNITS = 8;          // units of a thread,
constexpr uint64_t CTA_UNITS = UNITS * 128;

struct Reduce {
    unsigned long long* rows;  // LIMBS limbs each, zero at first
    uint32_t rows_per_sum;     // CTAs take turns, so that few of them meet at an address
    uint32_t shift;            // log2 of the elements of a scale group; 64 where it is no power of two from 32 up
};

struct CountItem {
    const uint32_t* words;
    uint64_t n;  // pairs of words
    uint32_t sum;
    uint32_t begin;
};

struct DotItem {
    const uint32_t* words_a;
    const uint16_t* scales_a;
    const uint32_t* words_b;
    const uint16_t* scales_b;
    uint64_t n;
    uint64_t size;  // elements of a scale group
    uint32_t sum;
    uint32_t begin;
};

struct NormItem {
    const uint32_t* levels;
    const uint16_t* scales;
    uint64_t n;
    uint64_t size;
    uint32_t sum;
    uint32_t begin;
};

struct NormF32Item {
    const uint32_t* x;  // f32 bits
    uint64_t n;
    uint32_t sum;
    uint32_t begin;
};

struct Finish {
    uint64_t pad;
};

struct FinishItem {
    const unsigned long long* rows;
    uint32_t* sum;
    uint64_t n;  // rows
    uint32_t begin;
    uint32_t pad;
};

// An integer of 128 bits in two's complement.
struct Wide {
    unsigned long long low;
    long long high;

    __device__ __forceinline__ void add(const Wide& o) {
        low += o.low;
        high += o.high + (low < o.low ? 1 : 0);
    }
    // Times 2^by, by below 64.
    __device__ __forceinline__ Wide shifted(uint32_t by) const {
        return {low << by, static_cast<long long>(static_cast<unsigned long long>(high) << by | low >> 1 >> (63 - by))};
    }
};

__device__ __forceinline__ Wide wide(long long x) { return {static_cast<unsigned long long>(x), x >> 63}; }

// Digit k, 0 to 4, of x 2^shift in base 2^32, shift below 32; the last has the sign.
__device__ __forceinline__ long long digit(const Wide& x, uint32_t shift, int k) {
    const uint32_t w[4] = {static_cast<uint32_t>(x.low), static_cast<uint32_t>(x.low >> 32), static_cast<uint32_t>(x.high),
                           static_cast<uint32_t>(static_cast<unsigned long long>(x.high) >> 32)};
    if (k == 4) {
        return static_cast<long long>(static_cast<int32_t>(w[3])) >> (32 - shift);
    }
    const uint32_t below = k == 0 ? 0 : w[k - 1];
    return __funnelshift_l(below, k == 0 ? w[0] : k == 1 ? w[1] : k == 2 ? w[2] : w[3], shift);
}

// What a CTA has found beside the sums of its warps.
struct Limbs {
    unsigned long long of[LIMBS];
    Wide warps[WARPS];
    uint32_t bits[WARPS];  // the weights of the warps' sums are 2^(bits - 320)
};

__device__ __noinline__ void add_slowly(Limbs& limbs, Wide x, uint32_t bit) {
    for (int k = 0; k < 5; ++k) {
        const long long d = digit(x, bit % 32, k);
        const uint32_t limb = bit / 32 + k;
        if (d != 0 && limb < LIMBS) {
            atomicAdd(&limbs.of[limb], static_cast<unsigned long long>(d));
        }
    }
}

// A thread's sum: terms from 2^(base - 320) on, up to SPAN places further, in a register; others, which are rare, in the CTA's limbs.
template <uint32_t SPAN>
struct Window {
    Wide sum = {0, 0};
    uint32_t base;

    // `highest`: the place of the lane's highest term.
    __device__ __forceinline__ explicit Window(uint32_t highest) {
        for (int d = 16; d; d >>= 1) {
            highest = max(highest, __shfl_xor_sync(ALL, highest, d));
        }
        base = highest < SPAN ? 0 : highest - SPAN;
    }

    __device__ __forceinline__ void add(Limbs& limbs, const Wide& x, uint32_t bit) {
        const uint32_t by = bit - base;
        if (by <= SPAN) {
            sum.add(x.shifted(by));
        } else {
            add_slowly(limbs, x, bit);
        }
    }

    // Joins the lanes of the warp.
    __device__ __forceinline__ void finish(Limbs& limbs) {
        for (int d = 16; d; d >>= 1) {
            const Wide other = {__shfl_xor_sync(ALL, sum.low, d), __shfl_xor_sync(ALL, sum.high, d)};
            sum.add(other);
        }
        if (lane_id() == 0) {
            limbs.warps[warp_id()] = sum;
            limbs.bits[warp_id()] = base;
        }
    }
};

__device__ __forceinline__ void clear(Limbs& limbs) {
    if (threadIdx.x < LIMBS) {
        limbs.of[threadIdx.x] = 0;
    }
    __syncthreads();
}

__device__ __forceinline__ unsigned long long* row_of(const Reduce& p, uint32_t sum) {
    return p.rows + (static_cast<uint64_t>(sum) * p.rows_per_sum + blockIdx.x % p.rows_per_sum) * LIMBS;
}

// Adds what the CTA found to its row.
__device__ __forceinline__ void add_to_row(const Reduce& p, uint32_t sum, Limbs& limbs) {
    __syncthreads();
    const int limb = threadIdx.x;
    if (limb >= LIMBS) {
        return;
    }
    // Limbs are carried by a place, so that a row holds as many of them as there can be CTAs.
    long long total = static_cast<long long>(limbs.of[limb] & 0xffffffffull);
    if (limb == LIMBS - 1) {
        total = static_cast<long long>(limbs.of[limb]);
    }
    if (limb > 0) {
        total += static_cast<long long>(limbs.of[limb - 1]) >> 32;
    }
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        const int k = limb - static_cast<int>(limbs.bits[w] / 32);
        if (k >= 0 && k <= 4) {
            total += digit(limbs.warps[w], limbs.bits[w] % 32, k);
        }
    }
    if (total != 0) {
        atomicAdd(&row_of(p, sum)[limb], static_cast<unsigned long long>(total));
    }
}

// A scale as mantissa and exponent; a subnormal counts as zero, and the sign can not matter.
struct Scale {
    uint32_t mantissa, exponent;
};

__device__ __forceinline__ Scale scale_of(uint32_t bf16) {
    const uint32_t exponent = bf16 >> 7 & 0xffu;
    return {exponent == 0 ? 0u : (bf16 & 0x7fu) | 0x80u, exponent};
}

// The product of two scales: its place, and what multiplies it.
struct Product {
    uint32_t bit, mantissa;
};

__device__ __forceinline__ Product product_of(uint32_t a, uint32_t b) {
    const Scale x = scale_of(a), y = scale_of(b);
    return {x.exponent + y.exponent + (LOWEST - 268), x.mantissa * y.mantissa};
}

// The lowest `many` bits.
__device__ __forceinline__ uint32_t lowest(uint32_t many) { return many >= 32 ? ~0u : (1u << many) - 1; }

__device__ __forceinline__ uint2 pair_at(const uint32_t* words, uint64_t unit, bool aligned) {
    return aligned ? __ldcs(reinterpret_cast<const uint2*>(words) + unit) : make_uint2(words[2 * unit], words[2 * unit + 1]);
}

// Planes: a unit is a pair of words, 32 elements.
// Equal signs less opposite ones; an invalid pair counts as zero.
struct Dot {
    using Item = DotItem;
    static constexpr int ELEMENTS = 32;
    static constexpr uint32_t SPAN = 63;  // a term has 22 bits, and 256 are added
    uint2 a, b;

    __device__ static __forceinline__ bool aligned(const Item& item) { return aligned_to(item.words_a, 8) && aligned_to(item.words_b, 8); }
    __device__ __forceinline__ void load(const Item& item, uint64_t unit, bool aligned) {
        a = pair_at(item.words_a, unit, aligned);
        b = pair_at(item.words_b, unit, aligned);
    }
    __device__ static __forceinline__ uint32_t scales(const Item& item, uint64_t at) {
        return item.scales_a[at] | static_cast<uint32_t>(item.scales_b[at]) << 16;
    }
    __device__ static __forceinline__ Product product(uint32_t s) { return product_of(s & 0xffffu, s >> 16); }
    // Of the elements first to end - 1.
    __device__ __forceinline__ Wide sum(uint32_t first, uint32_t end, uint32_t mantissa) const {
        const uint32_t both = (a.x ^ a.y) & (b.x ^ b.y) & lowest(end) & ~lowest(first);
        return wide(static_cast<int32_t>(mantissa) * (__popc(both) - 2 * __popc(both & (a.x ^ b.x))));
    }
};

struct Planes {
    using Item = NormItem;
    static constexpr int ELEMENTS = 32;
    static constexpr uint32_t SPAN = 63;
    uint2 a;

    __device__ static __forceinline__ bool aligned(const Item& item) { return aligned_to(item.levels, 8); }
    __device__ __forceinline__ void load(const Item& item, uint64_t unit, bool aligned) { a = pair_at(item.levels, unit, aligned); }
    __device__ static __forceinline__ uint32_t scales(const Item& item, uint64_t at) { return item.scales[at]; }
    __device__ static __forceinline__ Product product(uint32_t s) { return product_of(s, s); }
    __device__ __forceinline__ Wide sum(uint32_t first, uint32_t end, uint32_t mantissa) const {
        return wide(mantissa * __popc((a.x ^ a.y) & lowest(end) & ~lowest(first)));
    }
};

// The squares of a word's fields of 4 and 8 bits: four products in an instruction.
template <int BITS>
__device__ __forceinline__ uint32_t squares(uint32_t w, uint32_t sum) {
    if (BITS == 4) {  // each field as the upper half of a byte: 16 l
        const int upper = static_cast<int>(w & 0xf0f0f0f0u), lower = static_cast<int>(w << 4 & 0xf0f0f0f0u);
        return static_cast<uint32_t>(__dp4a(upper, upper, __dp4a(lower, lower, static_cast<int>(sum))));
    }
    return static_cast<uint32_t>(__dp4a(static_cast<int>(w), static_cast<int>(w), static_cast<int>(sum)));
}

// Fields: a unit is four words.
template <int BITS>
struct Fields {
    using Item = NormItem;
    static constexpr int IN_WORD = 32 / BITS, ELEMENTS = 4 * IN_WORD;
    // Terms have 27, 34, 49 and 81 bits, and 256 are added.
    static constexpr uint32_t SPAN = BITS == 32 ? 36 : 63;
    uint32_t words[4];

    __device__ static __forceinline__ bool aligned(const Item& item) { return aligned_to(item.levels, 16); }
    __device__ __forceinline__ void load(const Item& item, uint64_t unit, bool aligned) {
        const uint32_t* const from = item.levels + 4 * unit;
        if (aligned) {
            const uint4 v = __ldcs(reinterpret_cast<const uint4*>(from));
            words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                words[i] = __ldcs(from + i);
            }
        }
    }
    __device__ static __forceinline__ uint32_t scales(const Item& item, uint64_t at) { return item.scales[at]; }
    __device__ static __forceinline__ Product product(uint32_t s) { return product_of(s, s); }

    // Without the elements before `first` and from `end` on.
    __device__ __forceinline__ uint32_t word(int i, uint32_t first, uint32_t end) const {
        const int at = i * IN_WORD;
        const uint32_t before = static_cast<uint32_t>(max(static_cast<int>(first) - at, 0)) * BITS;
        const uint32_t until = static_cast<uint32_t>(max(static_cast<int>(end) - at, 0)) * BITS;
        return words[i] & lowest(until) & ~lowest(before);
    }

    __device__ __forceinline__ Wide sum(uint32_t first, uint32_t end, uint32_t mantissa) const {
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            w[i] = first == 0 && end == ELEMENTS ? words[i] : word(i, first, end);
        }
        if (BITS <= 8) {
            uint32_t sum = 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                sum = squares<BITS>(w[i], sum);
            }
            sum = BITS == 4 ? sum >> 8 : sum;
            return wide(static_cast<long long>(static_cast<unsigned long long>(sum) * mantissa));
        }
        if (BITS == 16) {
            unsigned long long sum = 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int low = static_cast<int>(w[i] << 16) >> 16, high = static_cast<int>(w[i]) >> 16;
                sum += static_cast<uint32_t>(low * low);
                sum += static_cast<uint32_t>(high * high);
            }
            return wide(static_cast<long long>(sum * mantissa));
        }
        unsigned long long low = 0, high = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const long long l = static_cast<int32_t>(w[i]);
            const unsigned long long square = static_cast<unsigned long long>(l * l);
            low += square & 0xffffffffull;
            high += square >> 32;
        }
        Wide sum = wide(static_cast<long long>(low * mantissa));
        sum.add(wide(static_cast<long long>(high * mantissa)).shifted(32));
        return sum;
    }
};

// Adds the parts into which scale groups cut a unit.
template <class Unit, class W>
__device__ __forceinline__ void add_parts(const Reduce& p, const typename Unit::Item& item, uint64_t at, W& window, Limbs& limbs) {
    const uint64_t start = at * Unit::ELEMENTS, end = min(start + Unit::ELEMENTS, item.n);
    if (start >= end) {
        return;
    }
    Unit unit;
    unit.load(item, at, false);
    const bool one_scale = p.shift < 64;
    uint64_t group = one_scale ? start >> p.shift : start / item.size;
    for (uint64_t from = start; from < end; ++group) {
        const uint64_t to = one_scale ? end : min((group + 1) * item.size, end);
        const Product product = Unit::product(Unit::scales(item, group));
        if (product.mantissa) {
            const Wide sum = unit.sum(static_cast<uint32_t>(from - start), static_cast<uint32_t>(to - start), product.mantissa);
            window.add(limbs, sum, product.bit);
        }
        from = to;
    }
}

template <class Unit>
__device__ __forceinline__ void reduce(const Reduce& p, const typename Unit::Item& item) {
    __shared__ Limbs limbs;
    constexpr uint32_t E = Unit::ELEMENTS;
    const uint64_t start = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_UNITS, own = start + threadIdx.x;
    if ((start + CTA_UNITS) * E <= item.n && p.shift < 64 && Unit::aligned(item)) {
        // All loads come before the first sum: one unit at a time waits for memory most of the time.
        Unit unit[UNITS];
        uint32_t scales[UNITS];
#pragma unroll
        for (int i = 0; i < UNITS; ++i) {
            unit[i].load(item, own + 128 * i, true);
            scales[i] = Unit::scales(item, E * (own + 128 * i) >> p.shift);
        }
        clear(limbs);
        uint32_t highest = 0;
#pragma unroll
        for (int i = 0; i < UNITS; ++i) {
            const Product product = Unit::product(scales[i]);
            highest = product.mantissa ? max(highest, product.bit) : highest;
        }
        Window<Unit::SPAN> window(highest);
#pragma unroll
        for (int i = 0; i < UNITS; ++i) {
            const Product product = Unit::product(scales[i]);
            if (product.mantissa) {
                window.add(limbs, unit[i].sum(0, E, product.mantissa), product.bit);
            }
        }
        window.finish(limbs);
    } else {
        clear(limbs);
        uint32_t highest = 0;
        if (own * E < item.n) {
            const Product product = Unit::product(Unit::scales(item, p.shift < 64 ? E * own >> p.shift : E * own / item.size));
            highest = product.mantissa ? product.bit : 0;
        }
        Window<Unit::SPAN> window(highest);
#pragma unroll 1
        for (int i = 0; i < UNITS; ++i) {
            add_parts<Unit>(p, item, own + 128 * i, window, limbs);
        }
        window.finish(limbs);
    }
    add_to_row(p, item.sum, limbs);
}

// A subnormal, an infinity and a NaN count as 0.
__device__ __forceinline__ void reduce_f32(const Reduce& p, const NormF32Item& item) {
    __shared__ Limbs limbs;
    const uint64_t own = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_UNITS + threadIdx.x;
    const bool whole = 4 * (own - threadIdx.x + CTA_UNITS) <= item.n && aligned_to(item.x, 16);
    uint32_t x[UNITS][4];
#pragma unroll
    for (int i = 0; i < UNITS; ++i) {
        const uint64_t at = 4 * (own + 128 * i);
        if (whole) {
            const uint4 v = __ldcs(reinterpret_cast<const uint4*>(item.x + at));
            x[i][0] = v.x, x[i][1] = v.y, x[i][2] = v.z, x[i][3] = v.w;
        } else {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                x[i][e] = at + e < item.n ? item.x[at + e] : 0u;
            }
        }
    }
    clear(limbs);
    const auto exponent = [](uint32_t bits) {
        const uint32_t e = bits >> 23 & 0xffu;
        return e == 255 ? 0u : e;
    };
    uint32_t highest = 0;
#pragma unroll
    for (int i = 0; i < UNITS; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            highest = max(highest, exponent(x[i][e]));
        }
    }
    constexpr uint32_t PLACES = LOWEST - 300;
    Window<63> window(2 * highest + PLACES);
#pragma unroll
    for (int i = 0; i < UNITS; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const uint32_t of = exponent(x[i][e]), mantissa = (x[i][e] & 0x007fffffu) | MIN_NORMAL;
            if (of != 0) {
                window.add(limbs, wide(static_cast<long long>(static_cast<unsigned long long>(mantissa) * mantissa)), 2 * of + PLACES);
            }
        }
    }
    window.finish(limbs);
    add_to_row(p, item.sum, limbs);
}

// n = pairs of words, all of them: bits past a tensor's end are zero.
__device__ __forceinline__ void count(const Reduce& p, const CountItem& item) {
    __shared__ uint32_t counts[WARPS];
    const uint64_t own = static_cast<uint64_t>(blockIdx.x - item.begin) * CTA_UNITS + threadIdx.x;
    uint2 pair[UNITS];
#pragma unroll
    for (int i = 0; i < UNITS; ++i) {
        const uint64_t u = own + 128 * i;
        pair[i] = u < item.n ? load_pair(item.words, u) : make_uint2(0, 0);
    }
    uint32_t found = 0;
#pragma unroll
    for (int i = 0; i < UNITS; ++i) {
        found += __popc(pair[i].x ^ pair[i].y);
    }
    for (int d = 16; d; d >>= 1) {
        found += __shfl_xor_sync(ALL, found, d);
    }
    if (lane_id() == 0) {
        counts[warp_id()] = found;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        found = counts[0] + counts[1] + counts[2] + counts[3];
        if (found) {
            atomicAdd(&row_of(p, item.sum)[LOWEST / 32], static_cast<unsigned long long>(found));
        }
    }
}

__device__ __forceinline__ void finish(const Finish&, const FinishItem& item) {
    __shared__ long long limbs[LIMBS];
    const int limb = threadIdx.x;
    if (limb < LIMBS) {
        long long total = item.sum[limb];
        for (uint64_t row = 0; row < item.n; ++row) {
            total += static_cast<long long>(item.rows[row * LIMBS + limb]);
        }
        limbs[limb] = total;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        long long carry = 0;
        for (int i = 0; i < LIMBS; ++i) {
            carry += limbs[i];
            item.sum[i] = static_cast<uint32_t>(carry);
            carry >>= 32;
        }
    }
}

#define KERNEL(name, BODY, P, I, N)                                                                            \
    extern "C" __global__ void __launch_bounds__(128)                                                          \
        name##_##N(const __grid_constant__ P p, const __grid_constant__ TABLE_##N<I> table) {                  \
        BODY(p, item_of(table, blockIdx.x));                                                                   \
    }
#define KERNELS(name, BODY, P, I) KERNEL(name, BODY, P, I, one) KERNEL(name, BODY, P, I, many)
KERNELS(reduce_dot, reduce<Dot>, Reduce, DotItem)
KERNELS(reduce_norm_2, reduce<Planes>, Reduce, NormItem)
KERNELS(reduce_norm_4, reduce<Fields<4>>, Reduce, NormItem)
KERNELS(reduce_norm_8, reduce<Fields<8>>, Reduce, NormItem)
KERNELS(reduce_norm_16, reduce<Fields<16>>, Reduce, NormItem)
KERNELS(reduce_norm_32, reduce<Fields<32>>, Reduce, NormItem)
KERNELS(reduce_norm_f32, reduce_f32, Reduce, NormF32Item)
KERNELS(reduce_nonzero, count, Reduce, CountItem)
KERNELS(reduce_finish, finish, Finish, FinishItem)
