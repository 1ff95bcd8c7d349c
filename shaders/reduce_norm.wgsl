// Reduce, squared norm: the exact sum of (l s)^2, into bins.
//
// Mirrors: src/numerics/reduce.rs (add_product, nonzero_words), src/cpu/reduce.rs.
// Launch: 128 threads a workgroup, each taking a group of 32 elements, then the next one workgroup's stride ahead.
// Buffers: levels, 2, 4, 8, 16 or 32 words a group; scales, 1 half-word a scale group; bins, added to.
// Determinism: cross-backend; integer sums have no order.
// Bytes an element: bits / 8 + 2 / group.
#include dispatch
#include groups
#include level_at
#include scales_read
#include products
struct NormParams {
    n: u32,          // elements in the piece
    levels: u32,     // where it begins in its binding, in words
    scales: u32,     // where it begins in its binding, in half-words
    bins: u32,       // where it begins in its binding, in words
    shift: u32,      // log2 of the groups of 32 in a block
    columns: u32,    // elements in a scale group that is no block, or 0
    head: u32,       // elements of the piece before the second group begins
}
@group(0) @binding(0) var<uniform> params: NormParams;
@group(0) @binding(1) var<storage, read> levels: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read_write> bins: array<atomic<u32>>;

// The squares of elements start to end of group g.
fn squares(g: u32, start: u32, end: u32) -> vec2<u32> {
#if BITS2
    let mask = select((1u << (end - start)) - 1u, 0xffffffffu, end - start == 32u) << start;
    let plus = levels[params.levels + 2u * g];
    let minus = levels[params.levels + 2u * g + 1u];
    return vec2<u32>(countOneBits((plus ^ minus) & mask), 0u);
#else
    var sum = vec2<u32>(0u);
    for (var i = start; i < end; i++) {
        let l = level_at(32u * g + i);
        sum = wide_add(sum, wide(u32(l * l)));
    }
    return sum;
#end
}

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
        let last = min(32u, params.n - 32u * g);
        var start = 0u;
        while (start < last) {
            let end = min(last, group_end(32u * g + start) - 32u * g);
            let s = scale_magnitude(scale_at(group_of(32u * g + start)));
#if BITS32
            // A square has 63 bits: each goes in two halves.
            for (var i = start; i < end; i++) {
                let l = u32(abs(level_at(32u * g + i)));
                let square = mul_wide(l, l);
                add_product(wide(square.x), s, s, 0u);
                add_product(wide(square.y), s, s, 32u);
            }
#else
            add_product(squares(g, start, end), s, s, 0u);
#end
            start = end;
        }
    }
    join_bins(lane);
}
