// Mirrors src/numerics/scale.rs.
fn round_up_to_bf16(m: u32) -> u32 {
    return (m + 0xffffu) & 0xffff0000u;
}

fn stochastic_scale(max: u32) -> u32 {
    return select(round_up_to_bf16(max), 0u, max < ZERO_LIMIT);
}

fn level_scale(max: u32, l_max: u32) -> u32 {
    if (max < ZERO_LIMIT) {
        return 0u;
    }
    let mantissa = (max & 0x007fffffu) | MIN_NORMAL;
    let q = ((mantissa << 8u) - 1u) / l_max + 1u;
    var shift = 24u - countLeadingZeros(q);
    var m = ((q - 1u) >> shift) + 1u;
    if (m == 256u) {
        m = 128u;
        shift += 1u;
    }
    return (((max >> 23u) + shift - 24u) << 23u) | ((m & 0x7fu) << 16u);
}
