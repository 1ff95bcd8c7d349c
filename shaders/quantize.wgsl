// Quantize, stochastic, one scale a block of 32 to 4096: one read of the gradient, one write of planes and scales.
//
// Mirrors: src/numerics/{draw,scale,trit}.rs.
// Launch: a thread a group of 32 elements (one Philox call), 128 threads a workgroup; a block is 1 to 128 threads.
// Buffers: x, n elements; words, 2 a group; scales, 1 half-word a block; reports.
// Determinism: cross-backend; nothing depends on the launch.
// Bytes an element: 4 (f32) or 2 in, 1/4 + 2 / block out.
#include dispatch
#include input
#include draw
#include scale
#include guess
#include block
#include report
#include scales
struct QuantizeParams {
    found: Found,
    draws: Draws,
    zero: u32,      // always 0, which no compiler can know
    n: u32,         // elements in the piece
    x: u32,         // where it begins in its binding, in elements
    words: u32,     // where it begins in its binding, in words
    scales: u32,    // where it begins in its binding, in half-words
    shift: u32,     // log2 of the groups of 32 in a block
}
@group(0) @binding(0) var<uniform> params: QuantizeParams;
#if VECTOR
@group(0) @binding(2) var<storage, read_write> words: array<vec2<u32>>;
#else
@group(0) @binding(2) var<storage, read_write> words: array<u32>;
#end
@group(0) @binding(3) var<storage, read_write> scales: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> reports: array<atomic<u32>>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let g = workgroup_index(id, count) * 128u + lane;
    var e: array<u32, 32>;
    if (32u * g < params.n) {
        e = load_group(g);
    }
    var m = 0u;
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
    let s = stochastic_scale(block_max(lane, m));
    if (32u * g >= params.n) {
        return;
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
            let value = magnitude(element(32u * g + i));
            let used = select(value, 0u, out_of_range(value));
            kept |= select(0u, 1u << i, keep(used, s, draw(w, i)));
        }
    }
    let planes = vec2<u32>(kept & ~guess.signs, kept & guess.signs);
#if VECTOR
    words[params.words / 2u + g] = planes;
#else
    words[params.words + 2u * g] = planes.x;
    words[params.words + 2u * g + 1u] = planes.y;
#end
    if ((g & ((1u << params.shift) - 1u)) == 0u) {
        store_scale(g >> params.shift, s);
    }
}
