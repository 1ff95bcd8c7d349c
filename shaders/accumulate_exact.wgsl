// Accumulate, exact: what weight x comes to under the window's scale is added to an integer count: a trit in 4, 8 and 16
// bits, fine levels in 32. A block whose scale is 0 may take it from this micro-batch first.
//
// Mirrors: src/numerics/{draw,level,scale,trit}.rs.
// Launch: a thread a group of 32 elements, 128 threads a workgroup; a block is 1 to 128 threads.
// Buffers: x, n elements; counts, 4, 8, 16 or 32 words a group, read and written; scales, 1 half-word a block, read and
// written; seen, 1 half-word a block, read and written; reports.
// Determinism: cross-backend, and free of the order of micro-batches.
// Bytes an element: 4 (f32) or 2 in, bits / 4 + 6 / block in and out.
#include dispatch
#include gradient
#include draw
#include guess
#include scale
#include count_scale
#include block
#include report
#include counts
#include scales
#include seen
struct ExactParams {
    found: Found,
    draws: Draws,
    zero: u32,        // always 0, which no compiler can know
    n: u32,           // elements in the piece
    x: u32,           // where it begins in its binding, in elements
    counts: u32,      // where it begins in its binding, in words
    scales: u32,      // where it begins in its binding, in half-words
    seen: u32,        // where it begins in its binding, in half-words
    shift: u32,       // log2 of the groups of 32 in a block
    weight: u32,      // f32 bits
    headroom: u32,    // f32 bits, or 0: a block whose scale is 0 counts nothing
}
@group(0) @binding(0) var<uniform> params: ExactParams;
@group(0) @binding(2) var<storage, read_write> counts: array<u32>;
@group(0) @binding(3) var<storage, read_write> scales: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> seen: array<atomic<u32>>;
@group(0) @binding(5) var<storage, read_write> reports: array<atomic<u32>>;
#if BITS4
const WORDS: u32 = 4u;
#end
#if BITS8
const WORDS: u32 = 8u;
#end
#if BITS16
const WORDS: u32 = 16u;
#end
#if BITS32
const WORDS: u32 = 32u;
// Fine levels of a micro-batch.
const FINE_LEVELS: u32 = 0x200000u;

// What an element adds to a count of fine levels of size q: p / q rounded to the nearest integer, ties to even. Its
// magnitude is at most 2^21 q.
fn round_fine(p: u32, q: u32) -> i32 {
    let m = p & 0x7fffffffu;
    // p / q is the mantissa over 2^by.
    let by = (q >> 23u) + 23u - (m >> 23u);
    if (m < MIN_NORMAL || by > 24u) {
        return 0;
    }
    let mantissa = (m & 0x007fffffu) | MIN_NORMAL;
    let whole = mantissa >> by;
    let rest = mantissa & ((1u << by) - 1u);
    let middle = 1u << (by - 1u);
    let l = i32(whole + u32(rest > middle || (rest == middle && (whole & 1u) == 1u)));
    return select(l, -l, (p >> 31u) == 1u);
}
#end
const FIELDS: u32 = 32u / WORDS;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let g = workgroup_index(id, count) * 128u + lane;
    let live = 32u * g < params.n;
    var e: array<u32, 32>;
    var m = 0u;
    var s = 0u;
    if (live) {
        s = load_scale(g >> params.shift);
        e = load_weighted(g);
        flush(&e);
#for i 0 32
        m = max(m, e[$i] & 0x7fffffffu);
#end
        if (m >= RANGE_LIMIT) {
            var found = 0u;
            m = 0u;
#for i 0 32
            if (out_of_range(e[$i] & 0x7fffffffu)) {
                found |= 1u << $iu;
                e[$i] = 0u;
            }
            m = max(m, e[$i] & 0x7fffffffu);
#end
            report_found(found, 32u * g);
        }
    }
    let maximum = stochastic_scale(block_max(lane, m));
    if (!live) {
        return;
    }
    let first = (g & ((1u << params.shift) - 1u)) == 0u;
    if (first) {
        join_seen(g >> params.shift, maximum);
    }
    if (s == 0u && params.headroom != 0u) {
        // The first look at this block.
#if BITS32
        s = fine_scale(maximum, params.headroom);
#else
        s = window_scale(maximum, params.headroom);
#end
        if (first) {
            store_scale(g >> params.shift, s);
        }
    }
#if BITS32
    // 2^21 fine levels; under a scale of 0 there are none. A scale so large that this is no f32 cuts nothing.
    let limit = select(min((s >> 23u) + 21u, 255u) << 23u, 0u, s == 0u);
#else
    let limit = s;
#end
    if (m > limit) {
        // What exceeds the limit counts as what equals it, and |x| / s stays at most 1.
        var clipped = 0u;
#for i 0 32
        clipped += u32((e[$i] & 0x7fffffffu) > limit);
        e[$i] = min(e[$i] & 0x7fffffffu, limit) | (e[$i] & 0x80000000u);
#end
        report_clipped(clipped);
    }
#if BITS32
    if (s == 0u) {
        return;
    }
    let at = params.counts + 32u * g;
#for i 0 32
    counts[at + $iu] += bitcast<u32>(round_fine(e[$i], s));
#end
#else
    let w = group_words(g);
    let guess = guess_group(e, w, s);
    var kept = guess.kept;
    if (guess.open != 0u) {
        for (var i = params.zero; i < 32u; i++) {
            if (((guess.open >> (i / 4u)) & 1u) == 0u) {
                i += 3u;
                continue;
            }
            kept &= ~(1u << i);
            let p = weighted_element(32u * g + i);
            let used = select(magnitude(p), 0u, out_of_range(magnitude(p)));
            kept |= select(0u, 1u << i, keep(used, s, draw(w, i)));
        }
    }
    let plus = kept & ~guess.signs;
    let minus = kept & guess.signs;
    let at = params.counts + WORDS * g;
    for (var i = 0u; i < WORDS; i++) {
        let ones = (1u << FIELDS) - 1u;
        let added = spread((plus >> (FIELDS * i)) & ones) | (spread((minus >> (FIELDS * i)) & ones) * ((1u << WORDS) - 1u));
        counts[at + i] = add_counts(counts[at + i], added);
    }
#end
}
