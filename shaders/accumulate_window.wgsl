// The scales of a window of exact counts from the maxima seen.
//
// Mirrors: src/numerics/scale.rs (window_scale).
// Launch: a thread a block, 128 threads a workgroup.
// Buffers: seen, n half-words; scales, n half-words.
// Determinism: cross-backend.
#include dispatch
#include threshold
#include scale
#include scales
@group(0) @binding(1) var<storage, read> seen: array<u32>;
@group(0) @binding(2) var<storage, read_write> scales: array<atomic<u32>>;

fn window_scale(max: u32, headroom: u32) -> u32 {
    return stochastic_scale(min(mul_trunc(max, headroom), RANGE_LIMIT));
}

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
    let at = params.seen + i;
    let max = (seen[at / 2u] >> (16u * (at % 2u))) << 16u;
    store_scale(i, window_scale(max, params.weight));
}
