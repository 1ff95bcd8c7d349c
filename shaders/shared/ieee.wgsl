// Sums, products, quotients and roots of f32 bits as IEEE 754 asks, rounded to nearest, ties to even, subnormals kept;
// every NaN is 0x7fc00000. A sum or product goes through floats where the adapter rounds so and the result is far from
// subnormals and Inf; everything else is decided in integers. No operation can be joined with another: integers lie
// between them.
#include soft
const NAN: u32 = 0x7fc00000u;
const INF: u32 = 0x7f800000u;
const ABS: u32 = 0x7fffffffu;

// Whether a float result stands: a flushed operand lies below an eighth of the last place of 2^-100.
fn stands(r: u32) -> bool {
    return (r & ABS) - 0x0d800000u < 0x71800000u;
}

// m 2^e rounded, and a little more where `sticky`; m is not 0, or nothing is sticky.
fn rounded(sign: u32, m: u32, e: i32, sticky: bool) -> u32 {
    if (m == 0u) {
        return sign;
    }
    let by = countLeadingZeros(m);
    let top = m << by;
    let exponent = e - i32(by) + 158;
    if (exponent >= 255) {
        return sign | INF;
    }
    let drop = u32(8 + max(0, 1 - exponent));
    if (drop > 32u) {
        return sign;
    }
    let kept = select(top >> drop, 0u, drop == 32u);
    let rest = select(top << (32u - drop), top, drop == 32u);
    let up = rest > 0x80000000u || (rest == 0x80000000u && (sticky || (kept & 1u) == 1u));
    return sign | ((u32(max(exponent - 1, 0)) << 23u) + kept + u32(up));
}

// Mantissa with its hidden bit, and the exponent of its last place, of a finite magnitude.
fn parts(m: u32) -> vec2<i32> {
    let e = i32(m >> 23u);
    return vec2<i32>(i32((m & 0x007fffffu) | select(0u, MIN_NORMAL, e > 0)), max(e, 1) - 150);
}

fn ieee_add(a: u32, b: u32) -> u32 {
#if !SOFT
    let r = bitcast<u32>(bitcast<f32>(a) + bitcast<f32>(b)) ^ params.zero;
    if (stands(r)) {
        return r;
    }
#end
    let ma = a & ABS;
    let mb = b & ABS;
    if (ma >= INF || mb >= INF) {
        if (ma > INF || mb > INF || (ma == mb && a != b)) {
            return NAN;
        }
        return select(b, a, ma == INF);
    }
    if (ma == 0u && mb == 0u) {
        return a & b;
    }
    let large = select(a, b, mb > ma);
    let small = select(b, a, mb > ma);
    let pl = parts(large & ABS);
    let ps = parts(small & ABS);
    let d = u32(pl.y - ps.y);
    let x = u32(pl.x) << 7u;
    let y = u32(ps.x) << 7u;
    let down = min(d, 31u);
    // What is shifted out is remembered in the lowest bit.
    let shifted = (y >> down) | u32((y & ((1u << down) - 1u)) != 0u);
    let sum = select(x + shifted, x - shifted, ((a ^ b) >> 31u) == 1u);
    return rounded(select(large & 0x80000000u, 0u, sum == 0u), sum, pl.y - 7, false);
}

fn ieee_sub(a: u32, b: u32) -> u32 {
    return ieee_add(a, b ^ 0x80000000u);
}

fn ieee_mul(a: u32, b: u32) -> u32 {
#if !SOFT
    let r = bitcast<u32>(bitcast<f32>(a) * bitcast<f32>(b)) ^ params.zero;
    if (stands(r)) {
        return r;
    }
#end
    let ma = a & ABS;
    let mb = b & ABS;
    if (ma >= INF || mb >= INF) {
        if (ma > INF || mb > INF || ma == 0u || mb == 0u) {
            return NAN;
        }
        return ((a ^ b) & 0x80000000u) | INF;
    }
    return soft_mul(a, b);
}

// The quotient: an estimate in floats of its 24 leading bits, put right by the exact remainder, of which 32 bits are
// enough as long as the estimate is within 100 units.
fn ieee_div(a: u32, b: u32) -> u32 {
    let sign = (a ^ b) & 0x80000000u;
    let ma = a & ABS;
    let mb = b & ABS;
    if (ma > INF || mb > INF || (ma == INF && mb == INF) || (ma == 0u && mb == 0u)) {
        return NAN;
    }
    if (ma == INF || mb == 0u) {
        return sign | INF;
    }
    if (ma == 0u || mb == INF) {
        return sign;
    }
    let pa = soft_parts(ma);
    let pb = soft_parts(mb);
    let x = pa.x >> 8u;
    let y = pb.x >> 8u;
    let shift = select(24u, 23u, x >= y);
    var q = u32(f32(x) / f32(y) * f32(1u << shift));
    var rest = bitcast<i32>((x << shift) - q * y);
    while (rest < 0) {
        q -= 1u;
        rest += i32(y);
    }
    while (rest >= i32(y)) {
        q += 1u;
        rest -= i32(y);
    }
    let below = u32(2 * rest >= i32(y)) * 2u | u32(rest != 0);
    // A quotient of two 24-bit numbers never lies in the middle between two of 24 bits.
    return rounded(sign, (q << 2u) | below, i32(pa.y) - i32(pb.y) - i32(shift) - 2, false);
}

// The root, found like the quotient.
fn ieee_sqrt(a: u32) -> u32 {
    let m = a & ABS;
    if (m > INF) {
        return NAN;
    }
    if (m == 0u || a == INF) {
        return a;
    }
    if ((a >> 31u) == 1u) {
        return NAN;
    }
    let p = soft_parts(m);
    let x = p.x >> 8u;
    // x 2^shift has 47 or 48 bits and an even exponent.
    let e = i32(p.y) - 150;
    let shift = 23u + u32((e - 23) & 1);
    var root = u32(sqrt(f32(x) * f32(1u << shift)));
    var rest = bitcast<i32>((x << shift) - root * root);
    while (rest < 0) {
        root -= 1u;
        rest += i32(2u * root + 1u);
    }
    while (rest > i32(2u * root)) {
        rest -= i32(2u * root + 1u);
        root += 1u;
    }
    let below = u32(rest > i32(root)) * 2u | u32(rest != 0);
    return rounded(0u, (root << 2u) | below, (e - i32(shift)) / 2 - 2, false);
}
