// Mirrors src/numerics/moments.rs. Scales are bf16 bits, moments f32 bits.
fn moment_scale(largest: u32) -> u32 {
    return select(clamp((largest >> 23u) + 1u, 32u, 254u) << 7u, 0u, largest == 0u);
}

// What code 0 of a second moment would stand for if it did not stand for 0.
fn moment_base(scale: u32) -> u32 {
    return (scale << 16u) - (31u << 23u);
}

fn code_second(v: u32, scale: u32, k: u32) -> u32 {
    let magnitude = v & ABS;
    if (magnitude == 0u || scale == 0u) {
        return 0u;
    }
    let code = (i32(magnitude) - i32(moment_base(scale)) + i32(k >> 3u)) >> 20u;
    return u32(clamp(code, 1, 255));
}

fn second_moment(code: u32, scale: u32) -> u32 {
    return select((code << 20u) + moment_base(scale), 0u, code == 0u || scale == 0u);
}

// The biased exponent of the first octave of the first moments beside a decoded second moment.
fn lowest_octave(v: u32) -> u32 {
    return ((v >> 23u) + 121u) >> 1u;
}

fn code_first(m: u32, v: u32, k: u32) -> u32 {
    let exponent = (m >> 23u) & 0xffu;
    if (v == 0u || exponent == 0u) {
        return 0u;
    }
    let lowest = lowest_octave(v);
    let octave = max(exponent, lowest) - lowest;
    let down = min(max(exponent, lowest) - exponent, 31u);
    let mantissa = ((m & 0x007fffffu) | MIN_NORMAL) >> down;
    let code = min((octave << 4u) + ((mantissa + (k >> 4u)) >> 19u), 127u);
    return select(((m >> 31u) << 7u) | code, 0u, code == 0u);
}

fn first_moment(both: u32, v: u32) -> u32 {
    let sign = (both & 0x80u) << 24u;
    let code = both & 0x7fu;
    if (v == 0u || code == 0u) {
        return sign;
    }
    let lowest = lowest_octave(v);
    if (code >= 16u) {
        return sign | ((code << 19u) + ((lowest - 1u) << 23u));
    }
    // The leading bit of 1 to 15, which lies `down` below that of 16.
    let down = countLeadingZeros(code) - 27u;
    return sign | (((lowest - down) << 23u) + (((code << down) & 15u) << 19u));
}
