// Mirrors src/numerics/float.rs.
fn magnitude(bits: u32) -> u32 {
    let m = bits & 0x7fffffffu;
    return select(m, 0u, m < MIN_NORMAL);
}

fn out_of_range(m: u32) -> bool {
    return m >= RANGE_LIMIT;
}

fn f16_to_f32(h: u32) -> u32 {
    let sign = (h & 0x8000u) << 16u;
    let m = (h & 0x7fffu) << 13u;
    let e = h & 0x7c00u;
    if (e == 0u) {
        // A subnormal: an integer of at most 10 bits times 2^-24, both exact in f32 and normal or zero.
        return sign | bitcast<u32>(f32(h & 0x3ffu) * 0x1p-24f);
    }
    return sign | (m + select(112u << 23u, 224u << 23u, e == 0x7c00u));
}

fn f32_to_bf16(bits: u32) -> u32 {
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return ((bits >> 16u) | 0x40u) & 0xffffu;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

fn f32_to_f16(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let m = bits & 0x7fffffffu;
    if (m > 0x7f800000u) {
        return sign | 0x7e00u | ((m >> 13u) & 0x3ffu);
    }
    if (m >= 0x47800000u) {
        return sign | 0x7c00u;
    }
    if (m >= 0x38800000u) {
        let r = m - 0x38000000u;
        return sign | ((r + 0xfffu + ((r >> 13u) & 1u)) >> 13u);
    }
    if (m < 0x33000000u) {
        return sign;
    }
    let shift = 126u - (m >> 23u);
    let mantissa = (m & 0x007fffffu) | MIN_NORMAL;
    let kept = mantissa >> shift;
    let rest = mantissa & ((1u << shift) - 1u);
    let middle = 1u << (shift - 1u);
    let up = rest > middle || (rest == middle && (kept & 1u) == 1u);
    return sign | (kept + u32(up));
}
