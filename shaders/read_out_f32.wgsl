// Read out sums held in f32: sum times factor.
//
// Mirrors: src/op/read_out.rs (ReadOutF32).
// Launch: a thread 16 bytes of output (VECTOR) or a word, 128 threads a workgroup.
// Buffers: sum, n floats; out, n elements; guards, reports.
// Determinism: cross-backend.
// Bytes an element: 4 in, 4 (f32) or 2 out.
#include dispatch
#include ieee
#include output
struct ReadOutF32Params {
    zero: u32,       // always 0, which no compiler can know
    n: u32,          // elements in the piece
    sum: u32,        // where it begins in its binding, in words
    out: u32,        // where it begins in its binding, in elements
    factor: u32,     // f32 bits
    guarded: u32,    // not 0: the guard is looked at
    guard: u32,      // its slot
}
@group(0) @binding(0) var<uniform> params: ReadOutF32Params;
@group(0) @binding(1) var<storage, read> sum: array<u32>;
#if VECTOR
@group(0) @binding(2) var<storage, read_write> out: array<vec4<u32>>;
#else
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
#end
@group(0) @binding(3) var<storage, read> guards: array<u32>;
var<private> guarded: bool;

fn out_element(i: u32) -> u32 {
    if (guarded) {
        return 0x7fffffffu;
    }
    let v = ieee_mul(sum[params.sum + i], params.factor);
    return select(v, (v & 0x80000000u) | 0x7f7fffffu, (v & ABS) == INF);
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    guarded = params.guarded != 0u && (guards[4u * params.guard] | guards[4u * params.guard + 1u]) != 0u;
    none = count.z - 1u;
    store_unit(workgroup_index(id, count) * 128u + lane);
}
