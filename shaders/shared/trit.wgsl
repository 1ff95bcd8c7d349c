// Mirrors src/numerics/trit.rs.
fn keep(m: u32, s: u32, k: u32) -> bool {
    if (s == 0u || m < MIN_NORMAL) {
        return false;
    }
    if (m >= s) {
        return true;
    }
    let d = (s >> 23u) - (m >> 23u);
    if (d > 31u) {
        return false;
    }
    let left = (2u * k + 1u) * (((s >> 16u) & 0x7fu) | 0x80u);
    let right = (m << 8u) | 0x80000000u;
    return left <= ((right - 1u) >> d);
}

// A float estimate of the same decision, for all elements of a group at once: the sign of `u s - |x|` decides where
// it is far enough from zero, and `keep` decides where it is not. The estimate may be contracted, reassociated or
// rounded in any way a compiler likes: its error stays below 2^-21 of the larger operand, a quarter of the margin of
// 2^-20 s that is asked for, so the bits never depend on it. A scale of zero is
// replaced by one that nothing in a block of that scale exceeds.
fn guess_scale(s: u32) -> f32 {
    return bitcast<f32>(select(s, 0x7e800000u, s == 0u));
}

fn guess_margin(scale: f32) -> f32 {
    return scale * 0x1p-20f;
}

// `u s - |x|` for the draw whose bits lie under the exponent of 1: `one_and_k = 0x3f800000 | k`.
fn guess(one_and_k: u32, scale: f32, x: u32) -> f32 {
    return (bitcast<f32>(one_and_k) - 0x0.ffffffp0f) * scale - bitcast<f32>(x & 0x7fffffffu);
}

fn above(m: u32, t: u32) -> bool {
    return m > t;
}
