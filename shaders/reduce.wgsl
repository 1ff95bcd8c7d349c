// Reduce: the exact sum of products over packed data, as one 96-bit integer for each power of two.
//
// Mirrors: src/numerics/reduce.rs. A term n ms_a ms_b 2^(E - 268) is added to bin E = E_a + E_b; the host joins the
// 512 bins and rounds once.
// Launch: 128 threads a workgroup, each taking a group of 32 elements, then the next one workgroup's stride ahead.
// Buffers: a and b, words; scales and scales_b, half-words (NORM: b and scales_b are a and scales again; COUNT: no
// scales); bins, 3 words each.
// Determinism: cross-backend; integer sums have no order.
// Bytes an element: bits / 8 + 2 / group a side.
#include dispatch
#include groups
#include wide
#include scales_read
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> b: array<u32>;
@group(0) @binding(4) var<storage, read> scales_b: array<u32>;
@group(0) @binding(5) var<storage, read_write> bins: array<atomic<u32>>;
var<workgroup> near: array<atomic<u32>, 1536>;

// Adds a 64-bit number in two's complement to a bin of the workgroup.
fn add_term(bin: u32, term: vec2<u32>) {
    let low = atomicAdd(&near[3u * bin], term.x);
    let carry = u32(low + term.x < low);
    let middle = term.y + carry;
    let wrapped = u32(middle < term.y);
    let before = atomicAdd(&near[3u * bin + 1u], middle);
    atomicAdd(&near[3u * bin + 2u], (0u - (term.y >> 31u)) + wrapped + u32(before + middle < before));
}

// n ms_a ms_b for scales given as f32 bits; n is a 64-bit number of at most 36 bits and a sign.
fn add_product(n: vec2<u32>, sa: u32, sb: u32) {
    if (all(n == vec2<u32>(0u)) || sa == 0u || sb == 0u) {
        return;
    }
    let negative = (n.y >> 31u) == 1u;
    var m = n;
    if (negative) {
        m = wide_sub(vec2<u32>(0u), n);
    }
    let ms = (((sa >> 16u) & 0x7fu) | 0x80u) * (((sb >> 16u) & 0x7fu) | 0x80u);
    var term = mul_wide(m.x, ms);
    term.y += m.y * ms;
    if (negative) {
        term = wide_sub(vec2<u32>(0u), term);
    }
    add_term((sa >> 23u) + (sb >> 23u), term);
}

fn scale_b_at(i: u32) -> u32 {
    let at = params.seen + i;
    return (scales_b[at / 2u] >> (16u * (at % 2u))) << 16u;
}

// What elements start to end of group g, all of one scale group, come to.
fn partial(g: u32, start: u32, end: u32) -> vec2<u32> {
    let mask = select((1u << (end - start)) - 1u, 0xffffffffu, end - start == 32u) << start;
#if DOT
    let ap = a[params.words + 2u * g];
    let am = a[params.words + 2u * g + 1u];
    let bp = b[params.other + 2u * g];
    let bm = b[params.other + 2u * g + 1u];
    let same = countOneBits(ap & bp & mask) + countOneBits(am & bm & mask);
    let opposite = countOneBits(ap & bm & mask) + countOneBits(am & bp & mask);
    let n = same - opposite;
    return vec2<u32>(n, 0u - (n >> 31u));
#end
#if BITS2
    let plus = a[params.words + 2u * g];
    let minus = a[params.words + 2u * g + 1u];
    return vec2<u32>(countOneBits((plus ^ minus) & mask), 0u);
#end
#if BITS4|BITS8|BITS16
#if BITS4
    let bits = 4u;
#end
#if BITS8
    let bits = 8u;
#end
#if BITS16
    let bits = 16u;
#end
    let per = 32u / bits;
    var sum = vec2<u32>(0u);
    for (var i = start; i < end; i++) {
        let l = extractBits(bitcast<i32>(a[params.words + bits * g + i / per]), bits * (i % per), bits);
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
    for (var i = lane; i < 1536u; i += 128u) {
        atomicStore(&near[i], 0u);
    }
    workgroupBarrier();
    let groups = (params.n + 31u) / 32u;
    let stride = count.x * count.y * 128u;
    for (var g = workgroup_index(id, count) * 128u + lane; g < groups; g += stride) {
#if COUNT
        add_term(0u, partial(g, 0u, 32u));
#else
        let last = min(32u, params.n - 32u * g);
        var start = 0u;
        while (start < last) {
            let end = min(last, group_end(32u * g + start) - 32u * g);
            let group = group_of(32u * g + start);
            add_product(partial(g, start, end), scale_at(group), scale_b_at(group));
            start = end;
        }
#end
    }
    workgroupBarrier();
    for (var bin = lane; bin < 512u; bin += 128u) {
        let low = atomicLoad(&near[3u * bin]);
        let middle = atomicLoad(&near[3u * bin + 1u]);
        let high = atomicLoad(&near[3u * bin + 2u]);
        if ((low | middle | high) != 0u) {
            let old_low = atomicAdd(&bins[3u * bin], low);
            let carry = u32(old_low + low < old_low);
            let more = middle + carry;
            let wrapped = u32(more < middle);
            let old_middle = atomicAdd(&bins[3u * bin + 1u], more);
            atomicAdd(&bins[3u * bin + 2u], high + wrapped + u32(old_middle + more < old_middle));
        }
    }
}
