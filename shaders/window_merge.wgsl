// Merge: counts plus counts, field by field.
//
// Mirrors: src/numerics/level.rs.
// Launch: a thread a word, 128 threads a workgroup.
// Buffers: added, n words; counts, n words, read and written.
// Determinism: cross-backend.
#include dispatch
#include counts
struct MergeParams {
    n: u32,         // words in the piece
    added: u32,     // where it begins in its binding, in words
    counts: u32,    // where it begins in its binding, in words
}
@group(0) @binding(0) var<uniform> params: MergeParams;
@group(0) @binding(1) var<storage, read> added: array<u32>;
@group(0) @binding(2) var<storage, read_write> counts: array<u32>;

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
    counts[params.counts + i] = add_counts(counts[params.counts + i], added[params.added + i]);
}
