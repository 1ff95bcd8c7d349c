// Accumulate in f32: sum' = sum + weight x, the product and the sum each rounded once.
//
// Mirrors: src/numerics/level.rs (weighted, sum_f32).
// Launch: a thread a group of 32 elements, 128 threads a workgroup.
// Buffers: x, n elements; sum, n floats, read and written; reports.
// Invariants: where the product or the sum is out of range the sum stays as it was, and is reported.
// Determinism: cross-backend.
// Bytes an element: 4 (f32) or 2 in, 8 in and out.
#include dispatch
#include gradient
#include ieee
#include report
struct SumParams {
    found: Found,
    zero: u32,      // always 0, which no compiler can know
    n: u32,         // elements in the piece
    x: u32,         // where it begins in its binding, in elements
    sum: u32,       // where it begins in its binding, in words
    weight: u32,    // f32 bits
}
@group(0) @binding(0) var<uniform> params: SumParams;
@group(0) @binding(2) var<storage, read_write> sum: array<u32>;
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
    var e = load_weighted(g);
    flush(&e);
    var found = 0u;
    let length = min(32u, params.n - 32u * g);
    let at = params.sum + 32u * g;
#for i 0 32
    if ($iu < length) {
        let v = ieee_add(sum[at + $iu], e[$i]);
        let m = magnitude(v);
        if (out_of_range(e[$i] & ABS) || out_of_range(m)) {
            found |= 1u << $iu;
        } else {
            sum[at + $iu] = select(v, 0u, m == 0u);
        }
    }
#end
    if (found != 0u) {
        report_found(found, 32u * g);
    }
}
