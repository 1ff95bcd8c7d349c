// f32 products and sums computed in integers, rounded to nearest, ties to even, as IEEE 754 and Rust do it: where an
// adapter rounds otherwise, and where one that flushes subnormals could show it.
#include wide

// Mantissa with its top bit at bit 31, and biased exponent, of a finite magnitude that is not 0.
fn soft_parts(m: u32) -> vec2<u32> {
    if (m >= MIN_NORMAL) {
        return vec2<u32>((m << 8u) | 0x80000000u, m >> 23u);
    }
    // A subnormal: as if the exponent went on below 1. It is kept as a wrapped unsigned number.
    let by = countLeadingZeros(m);
    return vec2<u32>(m << by, 9u - by);
}

// The product of two finite f32, subnormal results included; Inf from 2^128 up.
fn soft_mul(a: u32, b: u32) -> u32 {
    let sign = (a ^ b) & 0x80000000u;
    if ((a & 0x7fffffffu) == 0u || (b & 0x7fffffffu) == 0u) {
        return sign;
    }
    let pa = soft_parts(a & 0x7fffffffu);
    let pb = soft_parts(b & 0x7fffffffu);
    var p = mul_wide(pa.x, pb.x);
    var e = i32(pa.y) + i32(pb.y) - 126;
    if (p.y < 0x80000000u) {
        p = wide_left(p, 1u);
        e -= 1;
    }
    if (e >= 255) {
        return sign | 0x7f800000u;
    }
    let drop = u32(8 + max(0, 1 - e));
    if (drop > 32u) {
        return sign;
    }
    let kept = select(p.y >> drop, 0u, drop == 32u);
    let rest = select(p.y << (32u - drop), p.y, drop == 32u);
    let up = rest > 0x80000000u || (rest == 0x80000000u && (p.x != 0u || (kept & 1u) == 1u));
    return sign | ((u32(max(e - 1, 0)) << 23u) + kept + u32(up));
}

// The sum of two f32 that are zero or normal and finite, and whose sum is.
fn soft_add(a: u32, b: u32) -> u32 {
    let ma = a & 0x7fffffffu;
    let mb = b & 0x7fffffffu;
    if (mb == 0u) {
        return a;
    }
    if (ma == 0u) {
        return b;
    }
    let large = select(a, b, mb > ma);
    let small = select(b, a, mb > ma);
    let e = (large >> 23u) & 0xffu;
    let d = min(e - ((small >> 23u) & 0xffu), 31u);
    let x = ((large << 7u) & 0x3fffff80u) | 0x40000000u;
    let y = ((small << 7u) & 0x3fffff80u) | 0x40000000u;
    // What is shifted out is remembered in the lowest bit; seven bits lie below the result's last.
    let shifted = select((y >> d) | u32((y & ((1u << d) - 1u)) != 0u), 1u, d > 30u);
    var sum = select(x + shifted, x - shifted, ((a ^ b) >> 31u) == 1u);
    if (sum == 0u) {
        return 0u;
    }
    var exponent = i32(e);
    if (sum >= 0x80000000u) {
        sum = (sum >> 1u) | (sum & 1u);
        exponent += 1;
    } else {
        let by = countLeadingZeros(sum) - 1u;
        sum <<= by;
        exponent -= i32(by);
    }
    let kept = sum >> 7u;
    let rest = sum & 0x7fu;
    let up = rest > 0x40u || (rest == 0x40u && (kept & 1u) == 1u);
    return (large & 0x80000000u) | ((u32(max(exponent - 1, 0)) << 23u) + kept + u32(up));
}
