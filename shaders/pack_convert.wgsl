// Convert between interleaved planes, separate planes and 2-bit fields; invalid pairs stay what they are.
//
// Mirrors: src/numerics/pack.rs (planes_to_fields, fields_to_planes).
// Launch: a thread a group of 32 elements, 128 threads a workgroup.
// Buffers: SPLIT a: planes in, b: plus out, c: minus out. JOIN a: plus in, b: planes out, c: minus (only read).
// TO_FIELDS and TO_PLANES a: in, b: out, c: unused.
// Determinism: cross-backend.
#include dispatch
#include params
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read_write> b: array<u32>;
@group(0) @binding(3) var<storage, read_write> c: array<u32>;

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
#if SPLIT
    b[params.out + g] = a[params.x + 2u * g];
    c[params.other + g] = a[params.x + 2u * g + 1u];
#end
#if JOIN
    b[params.out + 2u * g] = a[params.x + g];
    b[params.out + 2u * g + 1u] = c[params.other + g];
#end
#if TO_FIELDS
    let plus = a[params.x + 2u * g];
    let minus = a[params.x + 2u * g + 1u];
    b[params.out + 2u * g] = spread(plus & 0xffffu) | (spread(minus & 0xffffu) << 1u);
    b[params.out + 2u * g + 1u] = spread(plus >> 16u) | (spread(minus >> 16u) << 1u);
#end
#if TO_PLANES
    let low = a[params.x + 2u * g];
    let high = a[params.x + 2u * g + 1u];
    b[params.out + 2u * g] = gather(low) | (gather(high) << 16u);
    b[params.out + 2u * g + 1u] = gather(low >> 1u) | (gather(high >> 1u) << 16u);
#end
}
