// Dequantize: planes and scales to floats.
//
// Mirrors: src/op/dequantize.rs.
// Launch: a thread 16 bytes of output (VECTOR) or a word, 128 threads a workgroup.
// Buffers: words, 2 a group of 32; scales, 1 half-word a scale group; out, n elements.
// Determinism: cross-backend.
// Bytes an element: 1/4 + 2 / group in, 4 (f32) or 2 out.
#include dispatch
#include groups
#include scales_read
#include output
struct DequantizeParams {
    n: u32,          // elements in the piece
    words: u32,      // where it begins in its binding, in words
    scales: u32,     // where it begins in its binding, in half-words
    out: u32,        // where it begins in its binding, in elements
    shift: u32,      // log2 of the groups of 32 in a block
    columns: u32,    // elements in a scale group that is no block, or 0
    head: u32,       // elements of the piece before the first group begins
}
@group(0) @binding(0) var<uniform> params: DequantizeParams;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
#if VECTOR
@group(0) @binding(3) var<storage, read_write> out: array<vec4<u32>>;
#else
@group(0) @binding(3) var<storage, read_write> out: array<u32>;
#end

fn out_element(i: u32) -> u32 {
    let at = params.words + i / 32u * 2u;
    let plus = (words[at] >> (i % 32u)) & 1u;
    let minus = (words[at + 1u] >> (i % 32u)) & 1u;
    if (plus == minus) {
        return 0u;
    }
    return scale_at(group_of(i)) ^ (minus << 31u);
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    none = count.z - 1u;
    let t = workgroup_index(id, count) * 128u + lane;
#if VECTOR
    let first = UNIT * t;
    if (whole_unit(t) && group_of(first) == group_of(first + UNIT - 1u)) {
        let at = params.words + first / 32u * 2u;
        let plus = words[at] >> (first % 32u);
        let minus = words[at + 1u] >> (first % 32u);
        let kept = plus ^ minus;
        let scale = saturated(scale_at(group_of(first)));
        var e: array<u32, UNIT>;
#for i 0 4
        e[$i] = select(0u, scale ^ (((minus >> $iu) & 1u) << 31u), ((kept >> $iu) & 1u) == 1u);
#end
#if !F32
#for i 4 8
        e[$i] = select(0u, scale ^ (((minus >> $iu) & 1u) << 31u), ((kept >> $iu) & 1u) == 1u);
#end
#end
        store_whole(t, e);
        return;
    }
#end
    store_unit(t);
}
