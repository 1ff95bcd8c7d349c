// Quantize by rows or whole tensors: groups of any length, so the scale of a group is known only after all of it has
// been read, and a second pass writes the codes. Two reads in total.
//
//   group_sums     reads every chunk of 4096 elements (from its group's first element): maximum, sum, moments
//   group_combine  joins the chunks of groups that have more than one, and computes what the group needs
//   group_codes    reads again, writes planes; for thresholds sums what is kept, by chunk
//   group_combine  for thresholds: the magnitude of each group from the sums of what it kept
//
// Scratch of an item: Group[groups], then Chunk[groups * chunks of a group], zeroed before the first pass.
#pragma once
#include "block.cuh"
#include "item.cuh"
#include "quantize.cuh"

struct Group {
    uint32_t max;     // largest magnitude
    uint32_t ticket;  // CTAs of group_combine that are done
    uint32_t t;       // threshold, or the magnitude to clip at (0x7f7fffff: none)
    uint32_t s;       // stochastic scale
    unsigned long long total, count;          // units and elements of a sum
    unsigned long long first, second;         // moments, the first in two's complement
    unsigned long long unused[2];
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

__device__ __forceinline__ Groups groups_of(const QuantizeGroup& p, const Item& item) {
    Groups g;
    g.size = p.size ? p.size : item.n;
    g.groups = p.size ? item.n / p.size : 1;
    g.chunks = (g.size + CHUNK - 1) / CHUNK;
    g.group = static_cast<Group*>(item.c);
    g.chunk = reinterpret_cast<Chunk*>(g.group + g.groups);
    return g;
}

// What a group needs, once its maximum and sums are whole.
__device__ inline void conclude(const QuantizeGroup& p, const Item& item, Group& group, uint64_t index, uint64_t size,
                                const Sum& sum, const Moments& moments) {
    if (p.kept) {
        static_cast<uint16_t*>(item.b)[index] = static_cast<uint16_t>(mean_bf16(sum) >> 16);
        return;
    }
    uint32_t t = 0x7f7fffffu;
    if (p.goal == GIVEN) {
        t = p.parameter;
    } else if (p.goal == OF_MEAN) {
        t = relative(sum, p.parameter);
    } else if (p.goal == CLIPPED) {
        const uint32_t limit = clip(moments, p.parameter);
        t = limit ? limit : t;
    }
    group.t = t;
    if (p.goal <= CLIPPED) {
        const uint32_t s = stochastic_scale(min(sum.exponent, t));  // the caller passes the maximum there
        group.s = s;
        static_cast<uint16_t*>(item.b)[index] = static_cast<uint16_t>(s >> 16);
    }
}

// A CTA's threads joined: any number of values, one after the other.
template <class T, class Join>
__device__ __forceinline__ T join_cta(T value, Join join) { return join_block(value, 128, join); }

template <class E>
__device__ __forceinline__ void group_sums(const QuantizeGroup& p, const Item& item) {
    __shared__ Stage<E> stages[WARPS];
    Stage<E>& stage = stages[warp_id()];
    const Groups g = groups_of(p, item);
    // Groups of at most one tile take a warp each, all others a CTA for each chunk.
    const bool by_warp = g.size <= TILE;
    const uint64_t unit = by_warp ? static_cast<uint64_t>(blockIdx.x - item.begin) * WARPS + warp_id() : blockIdx.x - item.begin;
    const bool exists = unit < g.groups * g.chunks;
    const bool tensor = p.size == 0;  // needs no division
    const uint64_t index = by_warp ? unit : tensor ? 0 : unit / g.chunks;
    const uint64_t chunk = by_warp ? 0 : tensor ? unit : unit % g.chunks;
    const uint64_t start = index * g.size + chunk * CHUNK;
    const uint64_t end_of_unit = exists ? min(start + CHUNK, (index + 1) * g.size) : 0;
    Place at;
    at.start = start + (by_warp ? 0 : warp_id() * TILE);
    at.own = at.start + 32 * lane_id();

    Flight<E> flight;
    const bool fast = at.start + TILE <= end_of_unit &&
                      ((reinterpret_cast<uintptr_t>(item.x) + at.start * E::SIZE) & 15) == 0;
    if (fast) {
        begin<E, true>(item.x, at, flight);
        end<E, true>(item.x, at, end_of_unit, flight, stage);
    } else {
        end<E, false>(item.x, at, end_of_unit, flight, stage);
    }
    uint32_t w[E::WORDS];
    stage.take(w);
    uint32_t raw = raw_max<E>(w);
    if (__any_sync(ALL, raw >= E::LIMIT)) {
        scrub<E>(stage, item.first + at.own, item.report);
        stage.take(w);
        raw = raw_max<E>(w);
    }

    const uint32_t lanes = by_warp ? 32 : 128;
    const uint32_t max_of_chunk = magnitude(block_max(E::to_f32(raw), lanes));
    const uint32_t exponent = chunk_exponent(max_of_chunk);
    uint32_t total = 0;
    int32_t first = 0;
    uint64_t second = 0;
    if (p.goal == OF_MEAN) {
        total = block_sum(sum_fixed<E>(w, exponent), lanes);
    } else if (p.goal == CLIPPED) {
        sum_moments<E>(w, exponent, first, second);
        first = static_cast<int32_t>(block_sum(static_cast<uint32_t>(first), lanes));
        second = join_block(second, lanes, Add<uint64_t>());
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
    g.chunk[unit] = found;
    Group& group = g.group[index];
    if (g.chunks == 1) {
        group.max = max_of_chunk;
        const uint32_t top = p.goal <= CLIPPED ? max_of_chunk : exponent;
        conclude(p, item, group, index, g.size, Sum{total, top, g.size}, Moments{first, second, exponent, g.size});
    } else if (max_of_chunk > *static_cast<volatile uint32_t*>(&group.max)) {
        atomicMax(&group.max, max_of_chunk);  // the look before it keeps most chunks from queueing here
    }
}

// Grid: p.slices CTAs for each group of each item; an item whose groups have one chunk concludes only kept sums here.
__device__ __forceinline__ void group_combine(const QuantizeGroup& p, const Item& item) {
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
    const uint32_t exponent = p.kept || p.goal > CLIPPED ? top : group.max;
    const uint64_t elements = p.kept ? count : g.size;
    conclude(p, item, group, index, g.size, Sum{total, exponent, elements},
             Moments{static_cast<int64_t>(first), second, top, g.size});
}

// One element at a time, for tiles in which groups or chunks meet.
template <class E>
__device__ __noinline__ void codes_of_parts(const QuantizeGroup& p, const Item& item, const Groups& g, Stage<E>& stage,
                                            uint64_t own, uint4 random, uint32_t& plus, uint32_t& minus, uint32_t& clipped) {
    plus = minus = clipped = 0;
    const int lane = lane_id();
    const int many = own >= item.n ? 0 : static_cast<int>(min(item.n - own, uint64_t(32)));
    uint64_t index = own / g.size, within = own % g.size;
    uint32_t t = 0, s = 0, exponent = 0, kept = 0, total = 0;
    Chunk* chunk = nullptr;
    for (int e = 0; e < many; ++e) {
        if (within == g.size) {
            index += 1;
            within = 0;
        }
        Chunk* const here = g.chunk + index * g.chunks + within / CHUNK;
        if (here != chunk) {
            if (kept) {
                atomicAdd(&chunk->kept, total);
                atomicAdd(&chunk->kept_count, kept);
            }
            kept = total = 0;
            chunk = here;
            t = g.group[index].t;
            s = g.group[index].s;
            exponent = chunk_exponent(chunk->max);
        }
        const uint32_t bits = E::to_f32(stage.at(lane, e));
        const uint32_t m = magnitude(bits);
        bool keep;
        if (p.goal <= CLIPPED) {
            clipped += m > t ? 1 : 0;
            const float x = __uint_as_float(min(m, t));
            keep = s != 0 && __fmaf_rn(unit_of(draw_of(random, e)), __uint_as_float(s), -x) < 0.0f;
        } else {
            keep = m > t;
            kept += keep ? 1 : 0;
            total += keep ? fixed<SUM_BITS>(m, exponent) : 0u;
        }
        plus |= (keep && !(bits >> 31) ? 1u : 0u) << e;
        minus |= (keep && bits >> 31 ? 1u : 0u) << e;
        within += 1;
    }
    if (kept) {
        atomicAdd(&chunk->kept, total);
        atomicAdd(&chunk->kept_count, kept);
    }
}

template <class E, bool FAST>
__device__ __forceinline__ void group_codes_tile(const QuantizeGroup& p, const Item& item, const Groups& g, Stage<E>& stage) {
    const Place at = place<FAST>(item, cta_start(item));
    Flight<E> flight;
    begin<E, FAST>(item.x, at, flight);
    uint4 random = make_uint4(0, 0, 0, 0);
    if (p.goal <= CLIPPED) {
        random = call(p.draw, item.tensor, at.group);
    }
    end<E, FAST>(item.x, at, item.n, flight, stage);
    uint32_t w[E::WORDS];
    stage.take(w);
    if (__any_sync(ALL, raw_max<E>(w) >= E::LIMIT)) {
        scrub<E>(stage, 0, nullptr);  // reported by the first pass
        stage.take(w);
    }
    uint32_t plus, minus, clipped = 0;
    if (FAST) {
        const uint64_t start = cta_start(item);
        const bool tensor = p.size == 0;  // needs no division
        const uint64_t index = tensor ? 0 : start / g.size, chunk = tensor ? start / CHUNK : start % g.size / CHUNK;
        const Group& group = g.group[index];
        uint32_t kept;
        if (p.goal == STOCHASTIC) {
            kept = keep<E>(w, group.s, expand(random));
        } else if (p.goal == CLIPPED) {
            kept = keep_clipped<E>(w, group.s, group.t, expand(random), clipped);
        } else {
            Chunk& of = g.chunk[index * g.chunks + chunk];
            uint32_t total;
            kept = keep_above<E>(w, group.t, chunk_exponent(of.max), total);
            uint32_t count = __popc(kept);
            for (int d = 16; d; d >>= 1) {
                total += __shfl_xor_sync(ALL, total, d);
                count += __shfl_xor_sync(ALL, count, d);
            }
            if (lane_id() == 0 && count) {
                atomicAdd(&of.kept, total);
                atomicAdd(&of.kept_count, count);
            }
        }
        const uint32_t signs = sign_plane<E>(w);
        plus = kept & ~signs;
        minus = kept & signs;
    } else {
        codes_of_parts<E>(p, item, g, stage, at.own, random, plus, minus, clipped);
    }
    if (at.inside) {
        store_planes<FAST>(item.a, at.own >> 5, plus, minus);
    }
    if (__any_sync(ALL, clipped != 0)) {
        report(item.report, 0, ~0ull, clipped);
    }
}

template <class E>
__device__ __forceinline__ void group_codes(const QuantizeGroup& p, const Item& item) {
    __shared__ Stage<E> stages[WARPS];
    const Groups g = groups_of(p, item);
    const uint64_t start = cta_start(item);
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(item.x) | reinterpret_cast<uintptr_t>(item.a) << 1;
    // One group, and for thresholds one chunk of it, for the whole CTA.
    const bool alone = p.size == 0 || start % g.size + CTA_TILE <= (p.goal <= CLIPPED || start % g.size % CHUNK == 0 ? g.size : 0);
    if (alone && whole(start, CTA_TILE, item.n, addresses, 16)) {
        group_codes_tile<E, true>(p, item, g, stages[warp_id()]);
    } else {
        group_codes_tile<E, false>(p, item, g, stages[warp_id()]);
    }
}
