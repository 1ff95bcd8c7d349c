// Reduce, dot product: the exact sum of t_a s_a t_b s_b, into bins.
//
// Mirrors: src/numerics/reduce.rs (dot_words, add_product).
// Launch: 128 threads a workgroup, each taking a group of 32 elements, then the next one workgroup's stride ahead.
// Buffers: words_a and words_b, 2 a group; scales_a and scales_b, 1 half-word a scale group; bins, added to.
// Determinism: cross-backend; integer sums have no order.
// Bytes an element: 1/4 + 2 / group a side.
#include dispatch
#include groups
#include products
struct DotParams {
    n: u32,           // elements in the piece
    words_a: u32,     // where it begins in its binding, in words
    scales_a: u32,    // where it begins in its binding, in half-words
    words_b: u32,     // where it begins in its binding, in words
    scales_b: u32,    // where it begins in its binding, in half-words
    bins: u32,        // where it begins in its binding, in words
    shift: u32,       // log2 of the groups of 32 in a block
    columns: u32,     // elements in a scale group that is no block, or 0
    head: u32,        // elements of the piece before the second group begins
}
@group(0) @binding(0) var<uniform> params: DotParams;
@group(0) @binding(1) var<storage, read> words_a: array<u32>;
@group(0) @binding(2) var<storage, read> scales_a: array<u32>;
@group(0) @binding(3) var<storage, read> words_b: array<u32>;
@group(0) @binding(4) var<storage, read> scales_b: array<u32>;
@group(0) @binding(5) var<storage, read_write> bins: array<atomic<u32>>;

fn scale_a(i: u32) -> u32 {
    let at = params.scales_a + i;
    return scale_magnitude((scales_a[at / 2u] >> (16u * (at % 2u))) << 16u);
}

fn scale_b(i: u32) -> u32 {
    let at = params.scales_b + i;
    return scale_magnitude((scales_b[at / 2u] >> (16u * (at % 2u))) << 16u);
}

// Equal signs less opposite ones among elements start to end of group g.
fn dot_words(g: u32, start: u32, end: u32) -> vec2<u32> {
    let mask = select((1u << (end - start)) - 1u, 0xffffffffu, end - start == 32u) << start;
    let ap = words_a[params.words_a + 2u * g];
    let am = words_a[params.words_a + 2u * g + 1u];
    let bp = words_b[params.words_b + 2u * g];
    let bm = words_b[params.words_b + 2u * g + 1u];
    let same = countOneBits(ap & bp & mask) + countOneBits(am & bm & mask);
    let opposite = countOneBits(ap & bm & mask) + countOneBits(am & bp & mask);
    let n = same - opposite;
    return vec2<u32>(n, 0u - (n >> 31u));
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
            let group = group_of(32u * g + start);
            add_product(dot_words(g, start, end), scale_a(group), scale_b(group), 0u);
            start = end;
        }
    }
    join_bins(lane);
}
