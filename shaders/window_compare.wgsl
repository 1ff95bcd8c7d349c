// Compares the scales of two windows: blocks that differ are reported, with the first.
//
// Launch: a thread a block, 128 threads a workgroup.
// Buffers: a and b, n half-words each; reports.
// Determinism: cross-backend.
#include dispatch
#include report
struct CompareParams {
    found: Found,
    n: u32,    // blocks in the piece
    a: u32,    // where it begins in its binding, in half-words
    b: u32,    // where it begins in its binding, in half-words
}
@group(0) @binding(0) var<uniform> params: CompareParams;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read_write> reports: array<atomic<u32>>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = workgroup_index(id, count) * 128u + lane;
    if (i >= params.n) {
        return;
    }
    let at_a = params.a + i;
    let at_b = params.b + i;
    let differ = (a[at_a / 2u] >> (16u * (at_a % 2u))) ^ (b[at_b / 2u] >> (16u * (at_b % 2u)));
    if ((differ & 0xffffu) != 0u) {
        report_found(1u, i);
    }
}
