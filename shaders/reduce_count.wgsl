// Reduce, count of nonzero trits, into bin 0. An invalid pair counts as zero.
//
// Mirrors: src/numerics/reduce.rs (nonzero_words).
// Launch: 128 threads a workgroup, each taking a group of 32 elements, then the next one workgroup's stride ahead.
// Buffers: words, 2 a group; bins, added to.
// Determinism: cross-backend.
// Bytes an element: 1/4.
#include dispatch
#include bins
struct CountParams {
    n: u32,        // elements in the piece
    words: u32,    // where it begins in its binding, in words
    bins: u32,     // where it begins in its binding, in words
}
@group(0) @binding(0) var<uniform> params: CountParams;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read_write> bins: array<atomic<u32>>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    clear_bins(lane);
    let groups = (params.n + 31u) / 32u;
    let stride = count.x * count.y * 128u;
    for (var g = workgroup_index(id, count) * 128u + lane; g < groups; g += stride) {
        add_term(0u, wide(countOneBits(words[params.words + 2u * g] ^ words[params.words + 2u * g + 1u])));
    }
    join_bins(lane);
}
