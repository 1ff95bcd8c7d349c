// A first look: block maxima of weight x, rounded up to bf16, joined into `seen` by maximum.
//
// Mirrors: src/numerics/{level,scale}.rs.
// Launch: a thread a group of 32 elements, 128 threads a workgroup.
// Buffers: x, n elements; seen, 1 half-word a block, read and written; reports.
// Determinism: cross-backend.
// Bytes an element: 4 (f32) or 2 in, 4 / block in and out.
#include dispatch
#include gradient
#include scale
#include block
#include report
#include seen
struct LookParams {
    found: Found,
    zero: u32,      // always 0, which no compiler can know
    n: u32,         // elements in the piece
    x: u32,         // where it begins in its binding, in elements
    seen: u32,      // where it begins in its binding, in half-words
    shift: u32,     // log2 of the groups of 32 in a block
    weight: u32,    // f32 bits
}
@group(0) @binding(0) var<uniform> params: LookParams;
@group(0) @binding(2) var<storage, read_write> seen: array<atomic<u32>>;
@group(0) @binding(3) var<storage, read_write> reports: array<atomic<u32>>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let g = workgroup_index(id, count) * 128u + lane;
    var m = 0u;
    if (32u * g < params.n) {
        var e = load_weighted(g);
        var found = 0u;
#for i 0 32
        {
            let a = e[$i] & 0x7fffffffu;
            let bad = out_of_range(a);
            found |= select(0u, 1u << $iu, bad);
            m = max(m, select(a, 0u, bad));
        }
#end
        if (found != 0u) {
            report_found(found, 32u * g);
        }
    }
    let maximum = block_max(lane, m);
    if (32u * g < params.n && (g & ((1u << params.shift) - 1u)) == 0u) {
        join_seen(g >> params.shift, stochastic_scale(maximum));
    }
}
