// Merge: the block maxima of two windows, the larger of each.
//
// Launch: a thread a block, 128 threads a workgroup.
// Buffers: added, n half-words; seen, n half-words, read and written.
// Determinism: cross-backend.
#include dispatch
#include seen
struct SeenParams {
    n: u32,        // blocks in the piece
    added: u32,    // where it begins in its binding, in half-words
    seen: u32,     // where it begins in its binding, in half-words
}
@group(0) @binding(0) var<uniform> params: SeenParams;
@group(0) @binding(1) var<storage, read> added: array<u32>;
@group(0) @binding(2) var<storage, read_write> seen: array<atomic<u32>>;

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
    let at = params.added + i;
    join_seen(i, (added[at / 2u] >> (16u * (at % 2u))) << 16u);
}
