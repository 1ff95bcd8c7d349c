// Quantize, second pass: from the chunks of a group to its scale and its threshold or clipping magnitude.
//
// Mirrors: src/numerics/threshold.rs (of_chunks, mean, mean_bf16, relative, sigma, clip), scale.rs.
// Launch: with WIDE a workgroup of 128 threads a group; otherwise a thread a group of few chunks.
// Buffers: records, 8 words a chunk; rules, 2 words a group, written: scale, and threshold or clip; scales, 1
// half-word a group.
// Determinism: cross-backend.
#include dispatch
#include threshold
#include scale
#include scales
struct RulesParams {
    scales: u32,    // where it begins in its binding, in half-words
    chunks: u32,    // of a group
    count: u32,     // groups
    factor: u32,    // f32 bits: of the threshold or the clipping
}
@group(0) @binding(0) var<uniform> params: RulesParams;
@group(0) @binding(1) var<storage, read> records: array<u32>;
@group(0) @binding(2) var<storage, read_write> rules: array<u32>;
@group(0) @binding(3) var<storage, read_write> scales: array<atomic<u32>>;
#if WIDE
var<workgroup> shared_exponent: atomic<u32>;
var<workgroup> totals: array<vec2<u32>, 128>;
var<workgroup> counts: array<vec2<u32>, 128>;
var<workgroup> firsts: array<vec2<u32>, 128>;
#end

// v / 2^d in two's complement, rounded down.
fn shifted(v: u32, d: u32) -> vec2<u32> {
    let low = bitcast<u32>(bitcast<i32>(v) >> min(d, 31u));
    return vec2<u32>(low, 0u - (low >> 31u));
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
#if WIDE
    let group = workgroup_index(id, count);
    let begin = lane;
    let step = 128u;
#else
    let group = workgroup_index(id, count) * 128u + lane;
    let begin = 0u;
    let step = 1u;
#end
    let base = group * params.chunks;
    let chunks = select(0u, params.chunks, group < params.count);
    var max_seen = 0u;
    for (var c = begin; c < chunks; c += step) {
        max_seen = max(max_seen, records[8u * (base + c)]);
    }
#if WIDE
    if (lane == 0u) {
        atomicStore(&shared_exponent, 0u);
    }
    workgroupBarrier();
    atomicMax(&shared_exponent, max_seen);
    workgroupBarrier();
    max_seen = atomicLoad(&shared_exponent);
#end
    let exponent = chunk_exponent(max_seen);
    var total = vec2<u32>(0u);
    var first = vec2<u32>(0u);
    var number = vec2<u32>(0u);
#if !LARGEST
    for (var c = begin; c < chunks; c += step) {
        let at = 8u * (base + c);
        let d = exponent - chunk_exponent(records[at]);
#if MOMENTS
        first = wide_add(first, shifted(records[at + 3u], d));
        let second = wide_add(wide_left(wide(records[at + 5u]), 16u), wide(records[at + 4u]));
        if (d <= 31u) {
            total = wide_add(total, wide_right(second, 2u * d));
        }
#else
        if (d <= 31u) {
            total = wide_add(total, wide(records[at + 1u] >> d));
        }
#end
        number = wide_add(number, wide(records[at + 2u]));
    }
#if WIDE
    totals[lane] = total;
    counts[lane] = number;
    firsts[lane] = first;
    workgroupBarrier();
    if (lane == 0u) {
        for (var i = 1u; i < 128u; i++) {
            total = wide_add(total, totals[i]);
            number = wide_add(number, counts[i]);
            first = wide_add(first, firsts[i]);
        }
    }
#end
#end
#if WIDE
    if (lane != 0u) {
        return;
    }
#end
    if (group >= params.count) {
        return;
    }
    let at = 2u * group;
#if LARGEST
    let s = stochastic_scale(max_seen);
    rules[at] = s;
    rules[at + 1u] = 0xffffffffu;
    store_scale(group, s);
#end
#if MOMENTS
    let t = mul_trunc(params.factor, sigma(Moments(first, total, number, exponent)));
    let clip = select(t, 0xffffffffu, t == 0u);
    let s = stochastic_scale(min(max_seen, clip));
    rules[at] = s;
    rules[at + 1u] = clip;
    store_scale(group, s);
#end
#if SUM
    rules[at + 1u] = mul_trunc(params.factor, mean(Sum(total, number, exponent)));
#end
#if ABOVE
    store_scale(group, mean_bf16(Sum(total, number, exponent)));
#end
}
