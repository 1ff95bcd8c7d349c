// Update: weights follow their gradients by AdamW with moments in 8 bits each, straight out of levels and scales, in place.
//
// Mirrors: src/numerics/{level,moments,update}.rs (adamw), src/op/update_adamw_8bit.rs.
// Launch: a workgroup of 64 threads for each block of 64 elements, a thread an element.
// Buffers: levels, levels or counts of 2, 4, 8, 16 or 32 words a group of 32, or with DENSE n floats; scales, 1 half-word
// a block of levels; weights, n elements, read and written; moments, n half-words, read and written; moment_scales, 1
// half-word a block of 64, read and written; guards, reports that are looked at; reports.
// Invariants: nothing is written where any guard counts non-finite elements. An element whose new weight or moments would
// not be finite keeps them and is reported. Half-words are exchanged by atomic xor, for their neighbours in a word may
// belong to another workgroup or to something outside the view.
// Determinism: cross-backend; sums, products, quotients and roots are those of IEEE 754 on every adapter.
// Bytes an element: bits / 8 + 2 / block in, twice the weight and 2 + 2 / 64 in and out.
#include dispatch
#include level
#include read_level
#include draw
#include scales_read
#include report
#include update
#include adamw
#include moments
struct AdamW8Params {
    found: Found,
    draws: Draws,
    terms: AdamWTerms,
    zero: u32,             // always 0, which no compiler can know
    n: u32,                // elements in the piece
    levels: u32,           // where the gradient begins in its binding, in words
    scales: u32,           // where it begins in its binding, in half-words
    weights: u32,          // where it begins in its binding, in elements
    moments: u32,          // where it begins in its binding, in half-words
    moment_scales: u32,    // where it begins in its binding, in half-words
    factor: u32,           // f32 bits
    shift: u32,            // log2 of the groups of 32 in a block
    guards: u32,           // slots of the guards, 0 without
}
@group(0) @binding(0) var<uniform> params: AdamW8Params;
@group(0) @binding(1) var<storage, read> levels: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read_write> weights: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> moments: array<atomic<u32>>;
@group(0) @binding(5) var<storage, read_write> moment_scales: array<atomic<u32>>;
@group(0) @binding(6) var<storage, read> guards: array<u32>;
@group(0) @binding(7) var<storage, read_write> reports: array<atomic<u32>>;
// The largest new second moment of the block.
var<workgroup> largest: atomic<u32>;

// The bit at which half-word `at` begins in its word.
fn half_shift(at: u32) -> u32 {
    return 16u * (at % 2u);
}

fn weight_at(i: u32) -> u32 {
    let at = params.weights + i;
#if BF16
    return (atomicLoad(&weights[at / 2u]) >> half_shift(at)) << 16u;
#else
    return atomicLoad(&weights[at]);
#end
}

// Stores a weight in the place of `old`.
fn store_weight(i: u32, old: u32, bits: u32) {
    let at = params.weights + i;
#if BF16
    atomicXor(&weights[at / 2u], ((old ^ bits) >> 16u) << half_shift(at));
#else
    atomicStore(&weights[at], bits);
#end
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    if (lane == 0u) {
        atomicStore(&largest, 0u);
    }
    let stopped = any_guard(lane, 64u);
    let block = workgroup_index(id, count);
    let i = 64u * block + lane;
    let there = !stopped && i < params.n;
    let scale_place = params.moment_scales + block;
    let place = params.moments + i;
    var old_scale = 0u;
    var old_word = 0u;
    var m = 0u;
    var v = 0u;
    var k = 0u;
    if (there) {
        old_scale = (atomicLoad(&moment_scales[scale_place / 2u]) >> half_shift(scale_place)) & 0xffffu;
        old_word = (atomicLoad(&moments[place / 2u]) >> half_shift(place)) & 0xffffu;
        v = second_moment(old_word >> 8u, old_scale);
        m = first_moment(old_word & 0xffu, v);
        k = draw(group_words(i / 32u), i % 32u);
        let old = weight_at(i);
        let next = adamw(gradient_at(i), old, m, v);
        var bits = next.w;
#if BF16
        bits = to_bf16(bits, k);
#end
        if (finite(bits) && finite(next.m) && finite(next.v)) {
            store_weight(i, old, bits);
            m = next.m;
            v = next.v;
        } else {
            report_found(1u, i);
        }
        atomicMax(&largest, v & ABS);
    }
    workgroupBarrier();
    if (there) {
        let scale = moment_scale(atomicLoad(&largest));
        let second = code_second(v, scale, k);
        let word = (second << 8u) | code_first(m, second_moment(second, scale), k);
        atomicXor(&moments[place / 2u], (old_word ^ word) << half_shift(place));
        if (lane == 0u) {
            atomicXor(&moment_scales[scale_place / 2u], (old_scale ^ scale) << half_shift(scale_place));
        }
    }
}
