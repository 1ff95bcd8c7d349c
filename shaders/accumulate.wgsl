// Accumulate, adaptive: l' s' ~ l s + weight x, where the levels lie, in one pass.
//
// Mirrors: src/numerics/{draw,level,scale,trit}.rs.
// Launch: a thread a group of 32 elements, 128 threads a workgroup; a block is 1 to 128 threads.
// Buffers: x, n elements; levels, 2, 4 or 8 words a group, read and written; scales, 1 half-word a block, read and
// written; reports.
// Invariants: |sum| <= l_max s', so every level fits its field; fields past n stay 0.
// Determinism: cross-backend.
// Bytes an element: 4 (f32) or 2 in, bits / 4 + 4 / block in and out.
#include dispatch
#include gradient
#include draw
#include guess
#include scale
#include block
#include report
#include scales
struct AccumulateParams {
    found: Found,
    draws: Draws,
    zero: u32,      // always 0, which no compiler can know
    n: u32,         // elements in the piece
    x: u32,         // where it begins in its binding, in elements
    levels: u32,    // where it begins in its binding, in words
    scales: u32,    // where it begins in its binding, in half-words
    shift: u32,     // log2 of the groups of 32 in a block
    weight: u32,    // f32 bits
}
@group(0) @binding(0) var<uniform> params: AccumulateParams;
#if VECTOR
#if BITS2
@group(0) @binding(2) var<storage, read_write> levels: array<vec2<u32>>;
#else
@group(0) @binding(2) var<storage, read_write> levels: array<vec4<u32>>;
#end
#else
@group(0) @binding(2) var<storage, read_write> levels: array<u32>;
#end
@group(0) @binding(3) var<storage, read_write> scales: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> reports: array<atomic<u32>>;
#if BITS2
const WORDS: u32 = 2u;
const L_MAX: u32 = 1u;
#end
#if BITS4
const WORDS: u32 = 4u;
const L_MAX: u32 = 7u;
const TOPS: u32 = 0x88888888u;
const GATHER: f32 = 0x1.01111p23f;
const EDGE: f32 = 0.5f - 0x1.4p-18f;
#end
#if BITS8
const WORDS: u32 = 8u;
const L_MAX: u32 = 127u;
const TOPS: u32 = 0x80808080u;
const GATHER: f32 = 0x1.0101p23f;
const EDGE: f32 = 0.5f - 0x1p-19f;
#end
// Under smaller scales |l s| stays below 2^104, so a product out of range brings its sum to 2^125 and more.
const SCALE_LARGE: u32 = 0x70000000u;
const SUM_CLOSE: u32 = 0x7e000000u;

fn load_levels(g: u32) -> array<u32, WORDS> {
    let at = params.levels + WORDS * g;
#if VECTOR
#if BITS2
    let v = levels[at / 2u];
    return array<u32, WORDS>(v.x, v.y);
#end
#if BITS4
    let v = levels[at / 4u];
    return array<u32, WORDS>(v.x, v.y, v.z, v.w);
#end
#if BITS8
    let v = levels[at / 4u];
    let u = levels[at / 4u + 1u];
    return array<u32, WORDS>(v.x, v.y, v.z, v.w, u.x, u.y, u.z, u.w);
#end
#else
    var w: array<u32, WORDS>;
    for (var i = 0u; i < WORDS; i++) {
        w[i] = levels[at + i];
    }
    return w;
#end
}

fn store_levels(g: u32, w: array<u32, WORDS>) {
    let at = params.levels + WORDS * g;
#if VECTOR
#if BITS2
    levels[at / 2u] = vec2<u32>(w[0], w[1]);
#end
#if BITS4
    levels[at / 4u] = vec4<u32>(w[0], w[1], w[2], w[3]);
#end
#if BITS8
    levels[at / 4u] = vec4<u32>(w[0], w[1], w[2], w[3]);
    levels[at / 4u + 1u] = vec4<u32>(w[4], w[5], w[6], w[7]);
#end
#else
#if BITS2
#for i 0 2
    levels[at + $iu] = w[$i];
#end
#end
#if BITS4
#for i 0 4
    levels[at + $iu] = w[$i];
#end
#end
#if BITS8
#for i 0 8
    levels[at + $iu] = w[$i];
#end
#end
#end
}

// The level of one element, still as it was before the call.
fn old_level(g: u32, i: u32) -> i32 {
    let w = load_levels(g);
#if BITS2
    return i32((w[0] >> i) & 1u) - i32((w[1] >> i) & 1u);
#else
    let per = 32u / WORDS;
    var word = w[0];
#if BITS4
#for j 1 4
    word = select(word, w[$j], i / per == $ju);
#end
#end
#if BITS8
#for j 1 8
    word = select(word, w[$j], i / per == $ju);
#end
#end
    return extractBits(bitcast<i32>(word), WORDS * (i % per), WORDS);
#end
}

struct Sum {
    v: u32,
    found: bool,
}

// The sum of one element, by the rule.
fn sum_element(g: u32, i: u32, s: u32) -> Sum {
    let l = old_level(g, i);
    let p = weighted_element(32u * g + i);
    let v = add(l, s, select(p, 0u, out_of_range(magnitude(p))));
    if (out_of_range(magnitude(p)) || out_of_range(magnitude(v))) {
        return Sum(value(l, s), true);
    }
    return Sum(v, false);
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let g = workgroup_index(id, count) * 128u + lane;
    let live = 32u * g < params.n;
    var e: array<u32, 32>;
    var old = 0u;
    var m = 0u;
    var careful = false;
    if (live) {
        old = load_scale(g >> params.shift);
        e = load_weighted(g);
        var w = load_levels(g);
        careful = old >= SCALE_LARGE;
#if SOFT
        flush(&e);
#end
#for i 0 32
        {
#if BITS2
            let l = i32((w[0] >> $iu) & 1u) - i32((w[1] >> $iu) & 1u);
#end
#if BITS4
            let l = bitcast<i32>(w[$i / 8] << (28u - 4u * ($iu % 8u))) >> 28u;
#end
#if BITS8
            let l = bitcast<i32>(w[$i / 4] << (24u - 8u * ($iu % 4u))) >> 24u;
#end
#if SOFT
            careful = careful || out_of_range(e[$i] & 0x7fffffffu);
            e[$i] = add(l, old, e[$i]);
#else
            e[$i] = bitcast<u32>(f32(l) * bitcast<f32>(old) + bitcast<f32>(e[$i]));
#end
            m = max(m, e[$i] & 0x7fffffffu);
        }
#end
        careful = careful || m >= SUM_CLOSE;
        if (careful) {
            // These sums are made one by one, here and again below; what `e` holds is used for nothing.
            var found = 0u;
            m = 0u;
            // From a zero that no compiler knows: unrolled, this rare loop would be most of the shader.
            for (var i = params.zero; i < 32u; i++) {
                let sum = sum_element(g, i, old);
                found |= select(0u, 1u << i, sum.found);
                m = max(m, sum.v & 0x7fffffffu);
            }
            if (found != 0u) {
                report_found(found, 32u * g);
            }
        }
    }
    let s = level_scale(block_max(lane, m), L_MAX);
    if (!live) {
        return;
    }

    let words = group_words(g);
    var w: array<u32, WORDS>;
#if BITS2
    let guess = guess_group(e, words, s);
    w[0] = guess.kept & ~guess.signs;
    w[1] = guess.kept & guess.signs;
    var open = guess.open;
#else
    // The level is the integer next to |v| / s + 1/2 - u. Its estimate t is off by at most 2^-18.1 at 4 bits, where
    // the quotient may be 7 and 1 / s be wrong by 2.5 units in the last place; at 8 bits the quotient's integer part
    // goes first, leaving an exact remainder, and what is left is off by less than 2^-21. Where t is not that close
    // to the middle between two integers, the nearest one is right, however the compiler groups or rounds.
    // Fields gather in floats, half a word above 2^23: exact integers.
    let draws = expand(words);
    let one = 0x3f800000u | shared_bits(words);
    // Of a block whose scale is 0 nothing exceeds this one.
    let scale = bitcast<f32>(select(s, 0x7e800000u, s == 0u));
    let inverse = 1.0f / scale;
    var edges: array<f32, 8>;
    var gathered = 0.0f;
#for i 0 32
#if BITS4
    gathered = select(gathered, GATHER, $i % 4 == 0);
#else
    gathered = select(gathered, GATHER, $i % 2 == 0);
#end
    {
        let k = (select(draws[$i / 2] << 8u, draws[$i / 2] >> 8u, $i % 2 == 1) & 0x7fff00u) | one;
        let a = bitcast<f32>(e[$i] & 0x7fffffffu);
#if BITS4
        let t = a * inverse + (1.5f - bitcast<f32>(k));
        let l = round(t);
        edges[$i / 4] = max(edges[$i / 4], abs(t - l));
        gathered += bitcast<f32>(bitcast<u32>(l) ^ (e[$i] & 0x80000000u)) * f32(1u << (4u * ($iu % 4u)));
#else
        let c = round(a * inverse);
        // Exact, and kept so: no compiler may join it with what follows.
        let r = bitcast<f32>(bitcast<u32>(a - c * scale) ^ params.zero);
        let t = r * inverse + (1.5f - bitcast<f32>(k));
        let up = round(t);
        edges[$i / 4] = max(edges[$i / 4], abs(t - up));
        gathered += bitcast<f32>(bitcast<u32>(c + up) ^ (e[$i] & 0x80000000u)) * f32(1u << (8u * ($iu % 2u)));
#end
    }
#if BITS4
    w[$i / 8] |= select(0u, (bitcast<u32>(gathered) & 0xffffu) << (16u * ($iu / 4u % 2u)), $i % 4 == 3);
#else
    w[$i / 4] |= select(0u, (bitcast<u32>(gathered) & 0xffffu) << (16u * ($iu / 2u % 2u)), $i % 2 == 1);
#end
#end
#for i 0 4
    w[$i] ^= TOPS;
#end
#if BITS8
#for i 4 8
    w[$i] ^= TOPS;
#end
#end
    var edge = edges[0];
#for j 1 8
    edge = max(edge, edges[$j]);
#end
    var open = params.draws.exact;
    if (!(edge < EDGE)) {
#for j 0 8
        open |= select(1u << $ju, 0u, edges[$j] < EDGE);
#end
    }
#end
    if (careful) {
        open = 0xffu;
    }
    if (open != 0u) {
        // Integers decide, four elements at a time, where one of the four is too close: deciding all 32 would cost an
        // eighth of the kernel's time on a card that is bound by instructions.
        for (var i = params.zero; i < 32u; i++) {
            if (((open >> (i / 4u)) & 1u) == 0u) {
                i += 3u;
                continue;
            }
            let l = round_level(sum_element(g, i, old).v, s, draw(words, i));
#if BITS2
            w[0] = insertBits(w[0], u32(l > 0), i, 1u);
            w[1] = insertBits(w[1], u32(l < 0), i, 1u);
#end
#if BITS4
#for j 0 4
            w[$j] = select(w[$j], insertBits(w[$j], bitcast<u32>(l), 4u * (i % 8u), 4u), i / 8u == $ju);
#end
#end
#if BITS8
#for j 0 8
            w[$j] = select(w[$j], insertBits(w[$j], bitcast<u32>(l), 8u * (i % 4u), 8u), i / 4u == $ju);
#end
#end
        }
    }
    store_levels(g, w);
    if ((g & ((1u << params.shift) - 1u)) == 0u) {
        store_scale(g >> params.shift, s);
    }
}
