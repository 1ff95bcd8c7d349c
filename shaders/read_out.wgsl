// Read out: levels or counts to floats, (l s) factor.
//
// Mirrors: src/numerics/level.rs (read_out), src/op/read_out.rs.
// Launch: a thread 16 bytes of output (VECTOR) or a word, 128 threads a workgroup.
// Buffers: levels, 2, 4, 8 or 16 words a group of 32; scales, 1 half-word a block; out, n elements; guards, reports.
// Determinism: cross-backend.
// Bytes an element: bits / 8 + 2 / block in, 4 (f32) or 2 out.
#include dispatch
#include groups
#include level
#include scales_read
#include output
@group(0) @binding(1) var<storage, read> levels: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
#if VECTOR
@group(0) @binding(3) var<storage, read_write> out: array<vec4<u32>>;
#else
@group(0) @binding(3) var<storage, read_write> out: array<u32>;
#end
@group(0) @binding(4) var<storage, read> guards: array<u32>;
var<private> guarded: bool;

fn level_at(i: u32) -> i32 {
#if BITS2
    let at = params.words + i / 32u * 2u;
    return i32((levels[at] >> (i % 32u)) & 1u) - i32((levels[at + 1u] >> (i % 32u)) & 1u);
#end
#if BITS4
    return extractBits(bitcast<i32>(levels[params.words + i / 8u]), 4u * (i % 8u), 4u);
#end
#if BITS8
    return extractBits(bitcast<i32>(levels[params.words + i / 4u]), 8u * (i % 4u), 8u);
#end
#if BITS16
    return extractBits(bitcast<i32>(levels[params.words + i / 2u]), 16u * (i % 2u), 16u);
#end
}

fn out_element(i: u32) -> u32 {
    if (guarded) {
        return 0x7fffffffu;
    }
    return read_level(level_at(i), scale_at(group_of(i)), params.weight);
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    guarded = params.mode != 0u && (guards[4u * params.slot] | guards[4u * params.slot + 1u]) != 0u;
    store_unit(workgroup_index(id, count) * 128u + lane);
}
