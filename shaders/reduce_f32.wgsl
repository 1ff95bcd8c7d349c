// Reduce, squared norm of floats: the exact sum of x^2, into bins. What is subnormal or not finite counts as 0.
//
// Mirrors: src/numerics/reduce.rs (add_square): a square of mantissas goes to bin 2 E, in units of 2^-300.
// Launch: 128 threads a workgroup, each taking a group of 32 elements, then the next one workgroup's stride ahead.
// Buffers: x, n floats; bins, added to.
// Determinism: cross-backend; integer sums have no order.
// Bytes an element: 4.
#include dispatch
#include bins
struct SquaresParams {
    n: u32,       // elements in the piece
    x: u32,       // where it begins in its binding, in words
    bins: u32,    // where it begins in its binding, in words
}
@group(0) @binding(0) var<uniform> params: SquaresParams;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> bins: array<atomic<u32>>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    clear_bins(lane);
    let groups = (params.n + 31u) / 32u;
    let stride = count.x * count.y * 128u;
    for (var g = workgroup_index(id, count) * 128u + lane; g < groups; g += stride) {
        for (var i = 32u * g; i < min(32u * g + 32u, params.n); i++) {
            let bits = x[params.x + i];
            let exponent = (bits >> 23u) & 0xffu;
            if (exponent != 0u && exponent != 0xffu) {
                let mantissa = (bits & 0x007fffffu) | MIN_NORMAL;
                add_term(2u * exponent, mul_wide(mantissa, mantissa));
            }
        }
    }
    join_bins(lane);
}
