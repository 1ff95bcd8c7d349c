// Unpack: planes to i8 trits; a pair with both bits becomes 0 and is reported.
//
// Mirrors: src/numerics/pack.rs (trit).
// Launch: a thread a word of output, 128 threads a workgroup.
// Buffers: words, 2 a group of 32; trits, n bytes; reports.
// Determinism: cross-backend.
#include dispatch
#include report
struct UnpackParams {
    found: Found,
    n: u32,        // elements in the piece
    words: u32,    // where it begins in its binding, in words
    trits: u32,    // where it begins in its binding, in bytes
}
@group(0) @binding(0) var<uniform> params: UnpackParams;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read_write> trits: array<u32>;
@group(0) @binding(3) var<storage, read_write> reports: array<atomic<u32>>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = params.trits % 4u;
    let t = workgroup_index(id, count) * 128u + lane;
    if (4u * t >= head + params.n) {
        return;
    }
    let at = params.trits / 4u + t;
    var value = trits[at];
    for (var b = 0u; b < 4u; b++) {
        let j = 4u * t + b;
        if (j >= head && j < head + params.n) {
            let i = j - head;
            let pair = params.words + i / 32u * 2u;
            let plus = (words[pair] >> (i % 32u)) & 1u;
            let minus = (words[pair + 1u] >> (i % 32u)) & 1u;
            if ((plus & minus) == 1u) {
                report_found(1u, i);
            }
            value = insertBits(value, select(plus - minus, 0u, (plus & minus) == 1u), 8u * b, 8u);
        }
    }
    trits[at] = value;
}
