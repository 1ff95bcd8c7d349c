// Copy bytes between buffers at any byte offsets, what shares a word with the edges left as it is.
//
// Launch: a thread a word of the destination, 128 threads a workgroup.
// Buffers: x, n bytes; out, n bytes.
// Determinism: cross-backend.
#include dispatch
#include params
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // Bytes of the destination's words are counted from the word that holds its first byte.
    let head = params.out % 4u;
    let w = workgroup_index(id, count) * 128u + lane;
    if (4u * w >= head + params.n) {
        return;
    }
    let at = params.out / 4u + w;
    var value = out[at];
    for (var b = 0u; b < 4u; b++) {
        let i = 4u * w + b;
        if (i >= head && i < head + params.n) {
            let source = params.x + i - head;
            value = insertBits(value, x[source / 4u] >> (8u * (source % 4u)), 8u * b, 8u);
        }
    }
    out[at] = value;
}
