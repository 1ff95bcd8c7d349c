// Mirrors src/numerics/level.rs. Sums and products of floats go through f32 where the adapter rounds them as IEEE 754
// asks, and through soft.wgsl with SOFT. `^ params.zero` keeps a compiler from joining an operation with the next.
#include float
#include soft
#include trit

// weight x, rounded once; decided in integers throughout.
fn weighted(x: u32, weight: u32) -> u32 {
    if (magnitude(x) == 0u || magnitude(weight) == 0u) {
        return 0u;
    }
    if ((x & 0x7fffffffu) >= 0x7f800000u) {
        return x;
    }
    let p = soft_mul(x, weight);
    return select(p, 0u, magnitude(p) == 0u);
}

// The same as f32 product: right unless it lies below 2^-125, where flushing of subnormals could show.
fn product(x: u32, weight: u32) -> u32 {
#if SOFT
    return weighted(x, weight);
#else
    return bitcast<u32>(bitcast<f32>(x) * bitcast<f32>(weight)) ^ params.zero;
#end
}

// l s as f32 bits; exact, for levels of at most 16 bits and scales below 2^112.
fn value(l: i32, s: u32) -> u32 {
    return bitcast<u32>(f32(l) * bitcast<f32>(s));
}

// l s + p rounded once; the caller checks its range. The product is exact, so it may be fused with the sum.
fn add(l: i32, s: u32, p: u32) -> u32 {
#if SOFT
    return soft_add(value(l, s), p);
#else
    return bitcast<u32>(f32(l) * bitcast<f32>(s) + bitcast<f32>(p)) ^ params.zero;
#end
}

fn round_level(v: u32, s: u32, k: u32) -> i32 {
    let m = magnitude(v);
    if (s == 0u || m == 0u) {
        return 0;
    }
    let ev = m >> 23u;
    let es = s >> 23u;
    let mantissa = (m & 0x007fffffu) | MIN_NORMAL;
    let unit = (s & 0x007fffffu) | MIN_NORMAL;
    var l = 0;
    if (ev < es) {
        l = i32(keep(m, s, k));
    } else {
        // |v| is at most 127 s, so the shift is at most 7 and 31 bits hold what comes out.
        let x = mantissa << (ev - es);
        let c = x / unit;
        let rest = x - c * unit;
        let up = (2u * k + 1u) * (unit >> 16u) < (rest << 8u);
        l = i32(c) + i32(up);
    }
    return select(l, -l, (v >> 31u) == 1u);
}
