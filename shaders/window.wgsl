// The scales of a window of exact counts from the maxima seen; a maximum of 0 leaves the scale as it was.
//
// Mirrors: src/numerics/scale.rs (count_scale).
// Launch: a thread a block, 128 threads a workgroup. FINE: counts of 32 bits.
// Buffers: seen, n half-words; scales, n half-words, read and written.
// Determinism: cross-backend.
#include dispatch
#include count_scale
#include scales
struct WindowParams {
    n: u32,           // blocks in the piece
    seen: u32,        // where it begins in its binding, in half-words
    scales: u32,      // where it begins in its binding, in half-words
    headroom: u32,    // f32 bits
}
@group(0) @binding(0) var<uniform> params: WindowParams;
@group(0) @binding(1) var<storage, read> seen: array<u32>;
@group(0) @binding(2) var<storage, read_write> scales: array<atomic<u32>>;

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
    if (max == 0u) {
        return;
    }
#if FINE
    store_scale(i, fine_scale(max, params.headroom));
#else
    store_scale(i, window_scale(max, params.headroom));
#end
}
