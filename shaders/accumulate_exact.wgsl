// Accumulate, exact: the trit of weight x under the window's scale is added to an integer count.
//
// Mirrors: src/numerics/{draw,level,scale,trit}.rs.
// Launch: a thread a group of 32 elements, 128 threads a workgroup.
// Buffers: x, n elements; counts, 4, 8 or 16 words a group, read and written; scales, 1 half-word a block;
// seen, 1 half-word a block, read and written; reports.
// Determinism: cross-backend, and free of the order of micro-batches.
// Bytes an element: 4 (f32) or 2 in, bits / 4 + 6 / block in and out.
#include dispatch
#include gradient
#include draw
#include guess
#include scale
#include block
#include report
#include counts
#include scales_read
#include seen
@group(0) @binding(2) var<storage, read_write> counts: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;
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
    var found = 0u;
    if (live) {
        s = scale_at(g >> params.shift);
        e = load_weighted(g);
        flush(&e);
#for i 0 32
        m = max(m, e[$i] & 0x7fffffffu);
#end
        if (m >= RANGE_LIMIT) {
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
        if (m > s) {
            // What exceeds the scale is kept, as what equals it is, and |x| / s stays at most 1.
            var clipped = 0u;
#for i 0 32
            clipped += u32((e[$i] & 0x7fffffffu) > s);
            e[$i] = min(e[$i] & 0x7fffffffu, s) | (e[$i] & 0x80000000u);
#end
            report_clipped(clipped);
        }
    }
    let maximum = block_max(lane, m);
    if (!live) {
        return;
    }
    if ((g & ((1u << params.shift) - 1u)) == 0u) {
        join_seen(g >> params.shift, stochastic_scale(maximum));
    }

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
    let at = params.words + WORDS * g;
    for (var i = 0u; i < WORDS; i++) {
        let ones = (1u << FIELDS) - 1u;
        let added = spread((plus >> (FIELDS * i)) & ones) | (spread((minus >> (FIELDS * i)) & ones) * ((1u << WORDS) - 1u));
        counts[at + i] = add_counts(counts[at + i], added);
    }
}
