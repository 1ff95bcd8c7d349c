// Copy bytes between buffers at any byte offsets, what shares a word with the edges left as it is; with VECTOR whole
// pieces of 16 bytes, which on an H100 is three times as fast as wgpu's own copy.
//
// Launch: a thread a word of the destination (VECTOR: 16 bytes), 128 threads a workgroup.
// Buffers: source, n bytes; destination, n bytes, written.
// Determinism: cross-backend.
#include dispatch
struct CopyParams {
    n: u32,       // bytes
    source: u32,  // where the bytes begin in their binding
    destination: u32,      // where they go to in theirs
}
@group(0) @binding(0) var<uniform> params: CopyParams;
#if VECTOR
@group(0) @binding(1) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> destination: array<vec4<u32>>;
#else
@group(0) @binding(1) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read_write> destination: array<u32>;
#end

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
#if VECTOR
    let i = workgroup_index(id, count) * 128u + lane;
    if (16u * i < params.n) {
        destination[params.destination / 16u + i] = source[params.source / 16u + i];
    }
#else
    // Bytes of the destination's words are counted from the word that holds its first byte.
    let head = params.destination % 4u;
    let w = workgroup_index(id, count) * 128u + lane;
    if (4u * w >= head + params.n) {
        return;
    }
    let at = params.destination / 4u + w;
    var value = destination[at];
    for (var b = 0u; b < 4u; b++) {
        let i = 4u * w + b;
        if (i >= head && i < head + params.n) {
            let byte = params.source + i - head;
            value = insertBits(value, source[byte / 4u] >> (8u * (byte % 4u)), 8u * b, 8u);
        }
    }
    destination[at] = value;
#end
}
