// Terms of exact sums that are products of two scales: bin E_a + E_b, in units of 2^-268.
#include bins

// A scale's magnitude, a subnormal one as 0.
fn scale_magnitude(s: u32) -> u32 {
    return select(s & 0x7fffffffu, 0u, (s & 0x7fffffffu) < MIN_NORMAL);
}

// n ms_a ms_b 2^above for scales given as magnitudes; n is a 64-bit number of at most 36 bits and a sign.
fn add_product(n: vec2<u32>, sa: u32, sb: u32, above: u32) {
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
    add_term((sa >> 23u) + (sb >> 23u) + above, term);
}
