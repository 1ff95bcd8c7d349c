// Update: weights follow their gradients by SGD or AdamW, straight out of levels and scales, in place.
//
// Mirrors: src/numerics/{level,update}.rs, src/op/update.rs.
// Launch: a thread a word of weights (one f32, two bf16), 128 threads a workgroup.
// Buffers: gradient, levels or counts of 2, 4, 8 or 16 words a group of 32, or with DENSE n floats; scales, 1 half-word
// a block; weights, n elements, read and written; moment and second, n floats each, read and written (SGD: the
// momentum, or nothing); guards, reports.
// Invariants: nothing is written where any guard counts non-finite elements.
// Determinism: cross-backend; sums, products, quotients and roots are those of IEEE 754 on every adapter.
// Bytes an element: bits / 8 + 2 / block in, twice the weight and its state in and out.
#include dispatch
#include groups
#include level
#include ieee
#include draw
#include scales_read
@group(0) @binding(1) var<storage, read> levels: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read_write> weights: array<u32>;
@group(0) @binding(4) var<storage, read_write> moment: array<u32>;
@group(0) @binding(5) var<storage, read_write> second: array<u32>;
@group(0) @binding(6) var<storage, read> guards: array<u32>;
#if !DENSE
#include level_at
#end
var<workgroup> found: atomic<u32>;

fn gradient(i: u32) -> u32 {
#if DENSE
    return ieee_mul(levels[params.words + i], params.weight);
#else
    return read_level(level_at(i), scale_at(group_of(i)), params.weight);
#end
}

// The new weight of element i; its state is stored.
fn step(i: u32, w: u32) -> u32 {
    let g = gradient(i);
#if SGD
    var d = g;
    if ((params.term2 & ABS) != 0u) {
        d = ieee_add(g, ieee_mul(params.term2, w));
    }
    if ((params.term1 & ABS) != 0u) {
        let b = ieee_add(ieee_mul(params.term1, moment[params.seen + i]), d);
        moment[params.seen + i] = b;
        d = select(b, ieee_add(d, ieee_mul(params.term1, b)), params.mode != 0u);
    }
    return ieee_sub(w, ieee_mul(params.term0, d));
#else
    let m = ieee_add(ieee_mul(moment[params.seen + i], params.term1), ieee_mul(g, params.term2));
    let v = ieee_add(ieee_mul(second[params.other + i], params.term3), ieee_mul(ieee_mul(g, g), params.term4));
    moment[params.seen + i] = m;
    second[params.other + i] = v;
    let root = ieee_add(ieee_sqrt(ieee_mul(v, params.term6)), params.term7);
    let adjusted = ieee_div(ieee_mul(m, params.term5), root);
    return ieee_sub(ieee_mul(w, params.term8), ieee_mul(adjusted, params.term0));
#end
}

#if BF16
// Up in magnitude if the upper 16 bits of the draw are below the 16 bits that are dropped.
fn to_bf16(bits: u32, k: u32) -> u32 {
    if ((bits & INF) == INF) {
        return (bits >> 16u) | select(0u, 0x40u, (bits & 0x007fffffu) != 0u);
    }
    return (bits >> 16u) + u32((k >> 7u) < (bits & 0xffffu));
}

// Half `side` of a word that holds element i there, or something outside the view.
fn stepped(word: u32, i: i32, side: u32) -> u32 {
    if (i < 0 || u32(i) >= params.n) {
        return word;
    }
    let at = u32(i);
    let w = (word >> (16u * side)) << 16u;
    let half = to_bf16(step(at, w), draw(group_words(at / 32u), at % 32u));
    return insertBits(word, half, 16u * side, 16u);
}
#end

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    if (lane == 0u) {
        atomicStore(&found, 0u);
    }
    workgroupBarrier();
    for (var i = lane; i < params.slots; i += 128u) {
        if ((guards[4u * i] | guards[4u * i + 1u]) != 0u) {
            atomicStore(&found, 1u);
        }
    }
    workgroupBarrier();
    if (atomicLoad(&found) != 0u) {
        return;
    }
    let t = workgroup_index(id, count) * 128u + lane;
#if F32
    if (t < params.n) {
        weights[params.out + t] = step(t, weights[params.out + t]);
    }
#else
    // The first word may hold one element of the view only.
    let first = i32(2u * t) - i32(params.out % 2u);
    if (first < i32(params.n)) {
        let at = params.out / 2u + t;
        weights[at] = stepped(stepped(weights[at], first, 0u), first + 1, 1u);
    }
#end
}
