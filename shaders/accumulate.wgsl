// Accumulate, adaptive: l' s' ~ l s + weight x, where the levels lie, in one pass.
//
// Mirrors: src/numerics/{draw,level,scale}.rs.
// Launch: a thread a group of 32 elements, 128 threads a workgroup; a block is 1 to 128 threads.
// Buffers: x, n elements; levels, 2, 4 or 8 words a group, read and written; scales, 1 half-word a block, read and
// written; reports.
// Invariants: |sum| <= l_max s', so every level fits its field; fields past n stay 0.
// Determinism: cross-backend.
// Bytes an element: 4 (f32) or 2 in, bits / 4 + 4 / block in and out.
#include dispatch
#include gradient
#include draw
#include scale
#include block
#include report
#include scales
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
#end
#if BITS8
const WORDS: u32 = 8u;
const L_MAX: u32 = 127u;
#end

fn load_levels(g: u32) -> array<u32, WORDS> {
    let at = params.words + WORDS * g;
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
    let at = params.words + WORDS * g;
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
    if (live) {
        old = load_scale(g >> params.shift);
        e = load_weighted(g);
        var w = load_levels(g);
        var largest = 0u;
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
            largest = max(largest, e[$i] & 0x7fffffffu);
            e[$i] = add(l, old, e[$i]);
            m = max(m, e[$i] & 0x7fffffffu);
        }
#end
        if (max(largest, m) >= RANGE_LIMIT) {
            var found = 0u;
            for (var i = 0u; i < 32u; i++) {
                let sum = sum_element(g, i, old);
                found |= select(0u, 1u << i, sum.found);
#for j 0 32
                e[$j] = select(e[$j], sum.v, i == $ju);
#end
            }
            m = 0u;
#for i 0 32
            m = max(m, e[$i] & 0x7fffffffu);
#end
            if (found != 0u) {
                report_found(found, 32u * g);
            }
        }
    }
    let s = level_scale(block_max(lane, m), L_MAX);
    if (!live) {
        return;
    }

    // The estimate of trit.wgsl for levels: c = floor(|v| / s) from an approximate reciprocal; the remainder
    // r = |v| - c s is exact, so it tells whether c is right; the sign of u s - r decides the rest.
    let words = group_words(g);
    let draws = expand(words);
    let one = 0x3f800000u | shared_bits(words);
    let scale = guess_scale(s);
    let inverse = 1.0f / scale;
    var closest = scale;
    var lowest = scale;
    var highest = 0.0f;
    var w: array<u32, WORDS>;
#for i 0 32
    {
        let a = bitcast<f32>(e[$i] & 0x7fffffffu);
        let c = floor(a * inverse);
#if BITS8
        let r = bitcast<f32>(bitcast<u32>(a - c * scale) ^ params.zero);
#else
        let r = a - c * scale;
#end
        let k = (select(draws[$i / 2] << 8u, draws[$i / 2] >> 8u, $i % 2 == 1) & 0x7fff00u) | one;
        let d = (bitcast<f32>(k) - 0x0.ffffffp0f) * scale - r;
        closest = min(closest, abs(d));
        lowest = min(lowest, r);
        highest = max(highest, r);
        let l = (bitcast<u32>(c + 0x1p23f) & 0xffu) + (bitcast<u32>(d) >> 31u);
        let minus = e[$i] >> 31u;
#if BITS2
        w[0] |= (l & (1u - minus)) << $iu;
        w[1] |= (l & minus) << $iu;
#end
#if BITS4
        w[$i / 8] |= ((l ^ (0u - minus)) + minus & 0xfu) << (4u * ($iu % 8u));
#end
#if BITS8
        w[$i / 4] |= ((l ^ (0u - minus)) + minus & 0xffu) << (8u * ($iu % 4u));
#end
    }
#end
    // With the remainder used as it comes, an estimate may be off by (c + 1) 2^-23 s where a compiler regroups.
#if BITS4
    let margin = scale * 0x1p-18f;
#else
    let margin = guess_margin(scale);
#end
    if (closest <= margin || lowest < 0.0f || highest >= scale || params.exact != 0u) {
        for (var i = 0u; i < 32u; i++) {
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
