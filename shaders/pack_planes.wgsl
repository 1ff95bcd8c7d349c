// Convert between interleaved planes and separate ones; invalid pairs stay what they are.
//
// Mirrors: src/op/pack.rs.
// Launch: a thread a group of 32 elements, 128 threads a workgroup.
// Buffers: words, 2 a group; plus and minus, 1 a group. SPLIT reads words, JOIN writes them.
// Determinism: cross-backend.
#include dispatch
struct PlanesParams {
    n: u32,        // groups of 32
    words: u32,    // where it begins in its binding, in words
    plus: u32,     // where it begins in its binding, in words
    minus: u32,    // where it begins in its binding, in words
}
@group(0) @binding(0) var<uniform> params: PlanesParams;
@group(0) @binding(1) var<storage, read_write> words: array<u32>;
@group(0) @binding(2) var<storage, read_write> plus: array<u32>;
@group(0) @binding(3) var<storage, read_write> minus: array<u32>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let g = workgroup_index(id, count) * 128u + lane;
    if (g >= params.n) {
        return;
    }
#if SPLIT
    plus[params.plus + g] = words[params.words + 2u * g];
    minus[params.minus + g] = words[params.words + 2u * g + 1u];
#else
    words[params.words + 2u * g] = plus[params.plus + g];
    words[params.words + 2u * g + 1u] = minus[params.minus + g];
#end
}
