// Pack: i8 trits to planes; anything outside -1..=1 becomes 0 and is reported.
//
// Mirrors: src/numerics/pack.rs (plane_words).
// Launch: a thread a group of 32 elements, 128 threads a workgroup.
// Buffers: trits, n bytes; words, 2 a group; reports.
// Determinism: cross-backend.
#include dispatch
#include report
struct PackParams {
    found: Found,
    n: u32,        // elements in the piece
    trits: u32,    // where it begins in its binding, in bytes
    words: u32,    // where it begins in its binding, in words
}
@group(0) @binding(0) var<uniform> params: PackParams;
@group(0) @binding(1) var<storage, read> trits: array<u32>;
@group(0) @binding(2) var<storage, read_write> words: array<u32>;
@group(0) @binding(3) var<storage, read_write> reports: array<atomic<u32>>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let g = workgroup_index(id, count) * 128u + lane;
    if (32u * g >= params.n) {
        return;
    }
    var plus = 0u;
    var minus = 0u;
    var found = 0u;
    let length = min(32u, params.n - 32u * g);
    for (var i = 0u; i < length; i++) {
        let at = params.trits + 32u * g + i;
        let t = (trits[at / 4u] >> (8u * (at % 4u))) & 0xffu;
        plus |= select(0u, 1u << i, t == 1u);
        minus |= select(0u, 1u << i, t == 0xffu);
        found |= select(0u, 1u << i, t != 0u && t != 1u && t != 0xffu);
    }
    words[params.words + 2u * g] = plus;
    words[params.words + 2u * g + 1u] = minus;
    if (found != 0u) {
        report_found(found, 32u * g);
    }
}
