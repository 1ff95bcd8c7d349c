// Quantize, stochastic, one scale a block of 32 to 4096: one read of the gradient, one write of planes and scales.
//
// Mirrors: src/numerics/{draw,scale,trit}.rs.
// Launch: a thread a group of 32 elements (one Philox call), 128 threads a workgroup; a block is 1 to 128 threads.
// Buffers: x, n elements; words, 2 a group; scales, 1 half-word a block; reports.
// Determinism: cross-backend; nothing depends on the launch.
// Bytes an element: 4 (f32) or 2 in, 1/4 + 2 / block out.
#include dispatch
#include quantize_group
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
    quantize_group(g, lane, e, group_words(g));
}
