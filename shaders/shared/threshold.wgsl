// Mirrors src/numerics/threshold.rs: integer sums and what is computed from them. What Rust computes in 128 bits is
// done here by division and square root bit by bit, once a group.
#include wide

fn chunk_exponent(largest: u32) -> u32 {
    return max(largest >> 23u, 1u);
}

fn fixed(m: u32, exponent: u32, bits: u32) -> u32 {
    let d = exponent - (m >> 23u);
    if (m < MIN_NORMAL || d > 31u) {
        return 0u;
    }
    return (((m & 0x007fffffu) | MIN_NORMAL) >> (24u - bits)) >> d;
}

// A sum over a group: `total` units of 2^(exponent - 127 - 19).
struct Sum {
    total: vec2<u32>,
    count: vec2<u32>,
    exponent: u32,
}

// The leading bits of total / count: `bits` of them in x, the biased exponent of the quotient in y (as a wrapped
// number), and in z whether what follows is below (0), at (1) or above (2) half of the last bit.
fn quotient(sum: Sum, bits: u32) -> vec3<u32> {
    let top_total = wide_top(sum.total);
    let top_count = wide_top(sum.count);
    // Both with their top bit at bit 62: a remainder twice as large still fits.
    var rest = wide_left(sum.total, 62u - top_total);
    let divisor = wide_left(sum.count, 62u - top_count);
    var exponent = sum.exponent + top_total - top_count - (SUM_BITS - 1u);
    if (wide_below(rest, divisor)) {
        rest = wide_left(rest, 1u);
        exponent -= 1u;
    }
    var q = 0u;
    for (var i = 0u; i < bits; i++) {
        q <<= 1u;
        if (!wide_below(rest, divisor)) {
            rest = wide_sub(rest, divisor);
            q |= 1u;
        }
        rest = wide_left(rest, 1u);
    }
    let half = select(select(2u, 1u, all(rest == divisor)), 0u, wide_below(rest, divisor));
    return vec3<u32>(q, exponent, half);
}

fn empty(sum: Sum) -> bool {
    return all(sum.total == vec2<u32>(0u)) || all(sum.count == vec2<u32>(0u));
}

fn mean(sum: Sum) -> u32 {
    if (empty(sum)) {
        return 0u;
    }
    let q = quotient(sum, 24u);
    if (i32(q.y) < 1) {
        return 0u;
    }
    return (q.y << 23u) | (q.x & 0x007fffffu);
}

fn mean_bf16(sum: Sum) -> u32 {
    if (empty(sum)) {
        return 0u;
    }
    let q = quotient(sum, 8u);
    if (i32(q.y) < 1) {
        return 0u;
    }
    let up = q.z == 2u || (q.z == 1u && (q.x & 1u) == 1u);
    return ((q.y << 7u) + (q.x & 0x7fu) + u32(up)) << 16u;
}

fn mul_trunc(a: u32, b: u32) -> u32 {
    if (a < MIN_NORMAL || b < MIN_NORMAL) {
        return 0u;
    }
    let p = mul_wide((a << 8u) | 0x80000000u, (b << 8u) | 0x80000000u).y;
    let carry = p >> 31u;
    let exponent = i32(a >> 23u) + i32(b >> 23u) - 127 + i32(carry);
    if (exponent < 1) {
        return 0u;
    }
    if (exponent > 254) {
        return 0x7f7fffffu;
    }
    return (u32(exponent) << 23u) | ((p >> (7u + carry)) & 0x007fffffu);
}

// Moments over a group, for clipping; `first` in two's complement.
struct Moments {
    first: vec2<u32>,
    second: vec2<u32>,
    count: vec2<u32>,
    exponent: u32,
}

// floor(sqrt(a)) for a below 2^62.
fn wide_sqrt(a: vec2<u32>) -> u32 {
    var root = 0u;
    for (var i = 0u; i < 31u; i++) {
        let tried = root | (0x40000000u >> i);
        if (!wide_below(a, mul_wide(tried, tried))) {
            root = tried;
        }
    }
    return root;
}

fn sigma(m: Moments) -> u32 {
    if (all(m.count == vec2<u32>(0u))) {
        return 0u;
    }
    var first = m.first;
    if ((first.y >> 31u) == 1u) {
        first = wide_sub(vec2<u32>(0u), first);
    }
    let average = wide_div(first, m.count);
    let square = wide_div(m.second, m.count);
    let less = average * average;
    if (square <= less) {
        return 0u;
    }
    let root = wide_sqrt(vec2<u32>(0u, square - less));
    let top = firstLeadingBit(root);
    let exponent = i32(top + m.exponent) - i32(16u + SQUARE_BITS - 1u);
    if (exponent < 1) {
        return 0u;
    }
    let mantissa = select(root << (23u - min(top, 23u)), root >> (max(top, 23u) - 23u), top >= 23u);
    return (u32(exponent) << 23u) | (mantissa & 0x007fffffu);
}
