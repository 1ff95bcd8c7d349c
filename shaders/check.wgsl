// Check: counts the elements of weight x that are out of range.
//
// Mirrors: src/numerics/{float,level}.rs.
// Launch: a thread a group of 32 elements, 128 threads a workgroup.
// Buffers: x, n elements; reports.
// Determinism: cross-backend.
// Bytes an element: 4 (f32) or 2 in.
#include dispatch
#include gradient
#include report
struct CheckParams {
    found: Found,
    zero: u32,      // always 0, which no compiler can know
    n: u32,         // elements in the piece
    x: u32,         // where it begins in its binding, in elements
    weight: u32,    // f32 bits
}
@group(0) @binding(0) var<uniform> params: CheckParams;
@group(0) @binding(2) var<storage, read_write> reports: array<atomic<u32>>;

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
    var e = load_weighted(g);
    var found = 0u;
#for i 0 32
    found |= select(0u, 1u << $iu, out_of_range(e[$i] & 0x7fffffffu));
#end
    if (found != 0u) {
        report_found(found, 32u * g);
    }
}
