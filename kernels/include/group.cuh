// Quantize by rows or whole tensors: groups of any length, so the scale of a group is known only after all of it has
// been read, and a second pass writes the codes. Two reads in total.
//
//   group_sums     reads every chunk of 4096 elements (from its group's first element): maximum, sum, moments
//   group_combine  joins the chunks of groups that have more than one, and computes what the group needs; left out for
//                  stochastic rules without clipping, which need the maximum alone
//   group_codes    reads again, writes planes and stochastic scales; for thresholds sums what is kept, by chunk. From the
//                  end on: what was read last is still in the L2
//   group_combine  for thresholds: the magnitude of each group from the sums of what it kept
//
// Scratch of an item: Group[groups], then (but for the maximum alone) Chunk[groups * chunks of a group], zeroed before the
// first pass.
#pragma once
#include "block.cuh"
#include "item.cuh"
#include "quantize.cuh"

struct Group {
    uint32_t max;     // largest magnitude
    uint32_t ticket;  // CTAs of group_combine that are done
    uint32_t t;       // threshold, or the magnitude to clip at (0x7f7fffff: none)
    uint32_t unused;
    unsigned long long total, count;          // units and elements of a sum
    unsigned long long first, second;         // moments, the first in two's complement
    unsigned long long spare[2];
};
static_assert(sizeof(Group) == 64);

struct Chunk {
    uint32_t max;         // largest magnitude
    uint32_t total;       // sum of all; or the first moment
    uint32_t kept;        // sum of what was kept; or the second moment, low word
    uint32_t kept_count;  // how many were kept; or the second moment, high word
};

enum Goal : uint32_t { STOCHASTIC = 0, CLIPPED = 1, GIVEN = 2, OF_MEAN = 3 };

struct QuantizeGroup {
    Draw draw;
    uint64_t size;       // elements of a group; 0: the whole tensor
    uint32_t goal;
    uint32_t parameter;  // bits of c, of the threshold, or of the factor of the mean
    uint32_t kept;       // group_combine: whether the sums of what was kept are joined
    uint32_t slices;     // group_combine: CTAs of a group
};

struct Groups {
    uint64_t size, groups, chunks;  // elements of a group, groups, chunks of a group
    Group* group;
    Chunk* chunk;
};

__device__ __forceinline__ Groups groups_of(const QuantizeGroup& p, const QuantizeItem& item) {
    Groups g;
    g.size = p.size ? p.size : item.n;
    g.groups = p.size ? item.n / p.size : 1;
    g.chunks = (g.size + CHUNK - 1) / CHUNK;
    g.group = static_cast<Group*>(item.scratch);
    g.chunk = reinterpret_cast<Chunk*>(g.group + g.groups);
    return g;
}

// No magnitude to clip at.
constexpr uint32_t UNCLIPPED = 0x7f7fffffu;

// What a group needs, once its maximum and sums are whole.
__device__ inline void conclude(const QuantizeGroup& p, const QuantizeItem& item, Group& group, uint64_t index, const Sum& sum,
                                const Moments& moments) {
    if (p.kept) {
        item.scales[index] = static_cast<uint16_t>(mean_bf16(sum) >> 16);
    } else if (p.goal == GIVEN) {
        group.t = p.parameter;
    } else if (p.goal == OF_MEAN) {
        group.t = relative(sum, p.parameter);
    } else if (p.goal == CLIPPED) {
        const uint32_t limit = clip(moments, p.parameter);
        group.t = limit ? limit : UNCLIPPED;
    }
}

// A CTA's threads joined: any number of values, one after the other.
template <class T, class Join>
__device__ __forceinline__ T join_cta(T value, Join join) { return join_block(value, 128, join); }

// One chunk a CTA; groups of at most one tile take a warp each.
template <class E>
__device__ __forceinline__ void group_sums(const QuantizeGroup& p, const QuantizeItem& item) {
    __shared__ Stage<E> stages[WARPS];
    Stage<E>& stage = stages[warp_id()];
    const Groups g = groups_of(p, item);
    const bool by_warp = g.size <= TILE;
    const uint64_t unit = by_warp ? static_cast<uint64_t>(blockIdx.x - item.begin) * WARPS + warp_id() : blockIdx.x - item.begin;
    const bool exists = unit < g.groups * g.chunks;
    const bool tensor = p.size == 0;  // needs no division
    const uint64_t index = by_warp ? unit : tensor ? 0 : unit / g.chunks;
    const uint64_t chunk = by_warp ? 0 : tensor ? unit : unit % g.chunks;
    const uint64_t from = index * g.size + chunk * CHUNK;
    const uint64_t end = exists ? min(from + CHUNK, (index + 1) * g.size) : 0;
    const uint64_t start = from + (by_warp ? 0 : warp_id() * TILE), own = start + 32 * lane_id();

    // Neither a maximum nor an integer sum asks in which order, so whole tiles stay in the registers they come to.
    uint32_t w[E::WORDS];
    const bool fast = start + TILE <= end && ((reinterpret_cast<uintptr_t>(item.gradient) + start * E::SIZE) & 15) == 0;
    if (fast) {
        const uint4* src = reinterpret_cast<const uint4*>(static_cast<const char*>(item.gradient) + start * E::SIZE) + lane_id();
#pragma unroll
        for (int i = 0; i < E::PIECES; ++i) {
            const uint4 v = __ldcs(src + 32 * i);
            w[4 * i] = v.x, w[4 * i + 1] = v.y, w[4 * i + 2] = v.z, w[4 * i + 3] = v.w;
        }
    } else {
        load_parts<E>(item.gradient, start, end, stage);
        __syncwarp();
        stage.take(w);
    }
    uint32_t raw = raw_max<E>(w);
    if (__any_sync(ALL, raw >= E::LIMIT)) {
        if (fast) {
            load_parts<E>(item.gradient, start, end, stage);
            __syncwarp();
        }
        scrub<E>(stage, item.first + own, item.report);
        stage.take(w);
        raw = raw_max<E>(w);
    }

    const uint32_t lanes = by_warp ? 32 : 128;
    const uint32_t max_of_chunk = magnitude(block_max(E::to_f32(raw), lanes));
    const uint32_t exponent = chunk_exponent(max_of_chunk);
    uint32_t total = 0;
    int32_t first = 0;
    uint64_t second = 0;
    if (p.goal == OF_MEAN || p.goal == CLIPPED) {
        const bool floats = __all_sync(ALL, sums_in_floats(exponent));
        if (!floats) {  // the slow sums read shared memory
            stage.put(w);
        }
        if (p.goal == OF_MEAN) {
            total = block_sum(floats ? sum_all<E>(w, exponent) : sum_slowly<E>(stage, exponent), lanes);
        } else {
            sum_moments<E>(stage, w, exponent, first, second);
            first = static_cast<int32_t>(block_sum(static_cast<uint32_t>(first), lanes));
            second = join_block(second, lanes, Add<uint64_t>());
        }
    }
    if (!exists || (by_warp ? lane_id() : threadIdx.x) != 0) {
        return;
    }
    Chunk found = {max_of_chunk, total, 0, 0};
    if (p.goal == CLIPPED) {
        found.total = static_cast<uint32_t>(first);
        found.kept = static_cast<uint32_t>(second);
        found.kept_count = static_cast<uint32_t>(second >> 32);
    }
    if (p.goal != STOCHASTIC) {
        g.chunk[unit] = found;
    }
    Group& group = g.group[index];
    if (g.chunks == 1) {
        group.max = max_of_chunk;
        conclude(p, item, group, index, Sum{total, exponent, g.size}, Moments{first, second, exponent, g.size});
    } else if (max_of_chunk > *static_cast<volatile uint32_t*>(&group.max)) {
        atomicMax(&group.max, max_of_chunk);  // the look before it keeps most chunks from queueing here
    }
}

// Grid: p.slices CTAs for each group of each item; an item whose groups have one chunk concludes only kept sums here.
__device__ __forceinline__ void group_combine(const QuantizeGroup& p, const QuantizeItem& item) {
    const Groups g = groups_of(p, item);
    const uint64_t unit = blockIdx.x - item.begin;
    const uint64_t index = unit / p.slices, slice = unit % p.slices;
    Group& group = g.group[index];
    const Chunk* const chunks = g.chunk + index * g.chunks;
    const uint32_t top = chunk_exponent(group.max);
    unsigned long long total = 0, count = 0, first = 0, second = 0;
    for (uint64_t i = slice * blockDim.x + threadIdx.x; i < g.chunks; i += static_cast<uint64_t>(p.slices) * blockDim.x) {
        const uint4 c = *reinterpret_cast<const uint4*>(chunks + i);
        const uint32_t d = top - chunk_exponent(c.x);
        if (p.kept) {
            total += d > 31 ? 0u : c.z >> d;
            count += c.w;
        } else if (p.goal == CLIPPED) {
            first += static_cast<unsigned long long>(static_cast<int64_t>(static_cast<int32_t>(c.y)) >> (d > 63 ? 63 : d));
            const uint64_t squares = static_cast<uint64_t>(c.w) << 32 | c.z;
            second += d > 31 ? 0ull : squares >> (2 * d);
        } else {
            total += d > 31 ? 0u : c.y >> d;
        }
    }
    total = join_cta(total, Add<unsigned long long>());
    count = join_cta(count, Add<unsigned long long>());
    first = join_cta(first, Add<unsigned long long>());
    second = join_cta(second, Add<unsigned long long>());
    if (threadIdx.x != 0) {
        return;
    }
    if (p.slices > 1) {
        atomicAdd(&group.total, total);
        atomicAdd(&group.count, count);
        atomicAdd(&group.first, first);
        atomicAdd(&group.second, second);
        __threadfence();
        if (atomicAdd(&group.ticket, 1u) != p.slices - 1) {
            return;
        }
        __threadfence();
        total = atomicExch(&group.total, 0ull);  // zero again for the sums of what is kept
        count = atomicExch(&group.count, 0ull);
        first = atomicExch(&group.first, 0ull);
        second = atomicExch(&group.second, 0ull);
        group.ticket = 0;
    }
    conclude(p, item, group, index, Sum{total, top, p.kept ? count : g.size},
             Moments{static_cast<int64_t>(first), second, top, g.size});
}

// What a lane needs of the group whose element `within` it works on.
struct OfGroup {
    Chunk* chunk;
    uint32_t t, s, exponent;
};

// With a group's first element goes its stochastic scale.
__device__ __forceinline__ OfGroup of_group(const QuantizeGroup& p, const QuantizeItem& item, const Groups& g, uint64_t index,
                                            uint64_t within) {
    const Group& group = g.group[index];
    OfGroup of = {g.chunk + index * g.chunks + within / CHUNK, UNCLIPPED, 0, 0};
    if (p.goal != STOCHASTIC) {
        of.t = group.t;
    }
    if (p.goal <= CLIPPED) {
        of.s = stochastic_scale(min(group.max, of.t));
        if (within == 0) {
            item.scales[index] = static_cast<uint16_t>(of.s >> 16);
        }
    } else {
        of.exponent = chunk_exponent(of.chunk->max);
    }
    return of;
}

struct Codes {
    uint32_t plus, minus, clipped;
};

// One element at a time, for tiles in which groups or chunks meet.
template <class E>
__device__ __noinline__ Codes codes_of_parts(const QuantizeGroup& p, const QuantizeItem& item, Stage<E>& stage, uint64_t own,
                                             uint4 random) {
    Codes codes = {0, 0, 0};
    const Groups g = groups_of(p, item);
    const int lane = lane_id();
    const int many = own >= item.n ? 0 : static_cast<int>(min(item.n - own, uint64_t(32)));
    uint64_t index = own / g.size, within = own % g.size;
    uint32_t kept = 0, total = 0;
    OfGroup of = {nullptr, 0, 0, 0};
    for (int e = 0; e < many; ++e) {
        if (within == g.size) {
            index += 1;
            within = 0;
        }
        if (e == 0 || within % CHUNK == 0) {
            if (kept) {
                atomicAdd(&of.chunk->kept, total);
                atomicAdd(&of.chunk->kept_count, kept);
            }
            kept = total = 0;
            of = of_group(p, item, g, index, within);
        }
        const uint32_t bits = E::to_f32(stage.at(lane, e));
        const uint32_t m = magnitude(bits);
        bool keep;
        if (p.goal <= CLIPPED) {
            codes.clipped += m > of.t ? 1 : 0;
            const float x = __uint_as_float(min(m, of.t));
            keep = of.s != 0 && __fmaf_rn(unit_of(draw_of(random, e)), __uint_as_float(of.s), -x) < 0.0f;
        } else {
            keep = m > of.t;
            kept += keep ? 1 : 0;
            total += keep ? fixed<SUM_BITS>(m, of.exponent) : 0u;
        }
        codes.plus |= (keep && !(bits >> 31) ? 1u : 0u) << e;
        codes.minus |= (keep && bits >> 31 ? 1u : 0u) << e;
        within += 1;
    }
    if (kept) {
        atomicAdd(&of.chunk->kept, total);
        atomicAdd(&of.chunk->kept_count, kept);
    }
    return codes;
}

// Adds what a lane has kept to its chunk: at once for a warp that works on one.
__device__ __forceinline__ void add_kept(Chunk* chunk, uint32_t total, uint32_t count) {
    const unsigned long long first = __shfl_sync(ALL, reinterpret_cast<unsigned long long>(chunk), 0);
    if (__all_sync(ALL, reinterpret_cast<unsigned long long>(chunk) == first)) {
        for (int d = 16; d; d >>= 1) {
            total += __shfl_xor_sync(ALL, total, d);
            count += __shfl_xor_sync(ALL, count, d);
        }
        count = lane_id() == 0 ? count : 0;
    }
    if (count) {
        atomicAdd(&chunk->kept, total);
        atomicAdd(&chunk->kept_count, count);
    }
}

template <class E>
__device__ __forceinline__ void group_codes(const QuantizeGroup& p, const QuantizeItem& item, uint32_t cta) {
    using W = QuantizeWalk<E>;
    __shared__ Ring<E, W> ring;
    const Groups g = groups_of(p, item);
    // Whether each lane's 32 elements lie in one group, and for thresholds in one chunk of it.
    const bool alone = p.size % 32 == 0;
    walk<E, W>(
        item, cta, wide_planes(item), ring,
        [&](const Place& at) {
            if (!alone || !at.inside) {
                return OfGroup{nullptr, 0, 0, 0};
            }
            const uint64_t index = p.size == 0 ? 0 : at.own / g.size;
            return of_group(p, item, g, index, at.own - index * g.size);
        },
        [&](const Place& at) {
            return p.goal <= CLIPPED ? call(p.draw, item.tensor, at.group) : make_uint4(0, 0, 0, 0);
        },
        [&](const Place& at, const OfGroup& of, uint4 random, Stage<E>& stage, uint32_t (&w)[E::WORDS]) {
            if (__any_sync(ALL, raw_max<E>(w) >= E::LIMIT)) {
                scrub<E>(stage, 0, nullptr);  // reported by the first pass
                stage.take(w);
            }
            Codes codes = {0, 0, 0};
            if (alone) {
                uint32_t kept;
                if (p.goal == STOCHASTIC) {
                    kept = keep<E>(w, of.s, expand(random));
                } else if (p.goal == CLIPPED) {
                    kept = keep_clipped<E>(w, of.s, of.t, expand(random), codes.clipped);
                } else {
                    const bool floats = __all_sync(ALL, sums_in_floats(of.exponent));
                    const Kept k = floats ? keep_above<E>(w, of.t, of.exponent)
                                          : keep_above_slowly<E>(stage, of.t, of.exponent);
                    kept = k.plane;
                    add_kept(of.chunk, k.total, __popc(kept));
                }
                const uint32_t signs = sign_plane<E>(w);
                codes.plus = kept & ~signs;
                codes.minus = kept & signs;
            } else {
                codes = codes_of_parts<E>(p, item, stage, at.own, random);
            }
            store_planes(item, at, codes.plus, codes.minus);
            if (__any_sync(ALL, codes.clipped != 0)) {
                report(item.report, 0, ~0ull, codes.clipped);
            }
        });
}
