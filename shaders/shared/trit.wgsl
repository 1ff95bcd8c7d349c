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

fn above(m: u32, t: u32) -> bool {
    return m > t;
}
