// Convert between planes and 2-bit fields; invalid pairs stay what they are.
//
// Mirrors: src/numerics/pack.rs (planes_to_fields, fields_to_planes).
// Launch: a thread a group of 32 elements, 128 threads a workgroup.
// Buffers: words, 2 a group; fields, 2 a group. TO_FIELDS reads words, TO_PLANES writes them.
// Determinism: cross-backend.
#include dispatch
struct FieldsParams {
    n: u32,         // groups of 32
    words: u32,     // where it begins in its binding, in words
    fields: u32,    // where it begins in its binding, in words
}
@group(0) @binding(0) var<uniform> params: FieldsParams;
@group(0) @binding(1) var<storage, read_write> words: array<u32>;
@group(0) @binding(2) var<storage, read_write> fields: array<u32>;

// Bit i of 16 to bit 2 i.
fn spread(v: u32) -> u32 {
    var x = v;
    x = (x | (x << 8u)) & 0x00ff00ffu;
    x = (x | (x << 4u)) & 0x0f0f0f0fu;
    x = (x | (x << 2u)) & 0x33333333u;
    return (x | (x << 1u)) & 0x55555555u;
}

// Bit 2 i to bit i; odd bits are dropped.
fn gather(v: u32) -> u32 {
    var x = v & 0x55555555u;
    x = (x | (x >> 1u)) & 0x33333333u;
    x = (x | (x >> 2u)) & 0x0f0f0f0fu;
    x = (x | (x >> 4u)) & 0x00ff00ffu;
    return (x | (x >> 8u)) & 0xffffu;
}

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
    let at = params.words + 2u * g;
    let field = params.fields + 2u * g;
#if TO_FIELDS
    let plus = words[at];
    let minus = words[at + 1u];
    fields[field] = spread(plus & 0xffffu) | (spread(minus & 0xffffu) << 1u);
    fields[field + 1u] = spread(plus >> 16u) | (spread(minus >> 16u) << 1u);
#else
    let low = fields[field];
    let high = fields[field + 1u];
    words[at] = gather(low) | (gather(high) << 16u);
    words[at + 1u] = gather(low >> 1u) | (gather(high >> 1u) << 16u);
#end
}
