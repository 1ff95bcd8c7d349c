//! Block scales: bf16, rounded up, found by integer maxima.

use super::constants::{MIN_NORMAL, RANGE_LIMIT, ZERO_LIMIT};

/// The smallest bf16 not below a magnitude, as f32 bits (the low 16 bits are zero).
///
/// # Examples
///
/// ```
/// use trigrad::numerics::scale::round_up_to_bf16;
/// assert_eq!(round_up_to_bf16(1.0f32.to_bits()), 1.0f32.to_bits());
/// assert_eq!(round_up_to_bf16(1.0000001f32.to_bits()), 1.0078125f32.to_bits());
/// ```
#[inline]
pub const fn round_up_to_bf16(magnitude: u32) -> u32 {
    magnitude.wrapping_add(0xffff) & 0xffff_0000
}

/// The scale of a group for stochastic rounding, as f32 bits: the maximum rounded up, or 0 when the maximum lies
/// below 2^-90 (then the whole group is zero).
#[inline]
pub const fn stochastic_scale(max: u32) -> u32 {
    if max < ZERO_LIMIT { 0 } else { round_up_to_bf16(max) }
}

/// The scale of a block for a window of exact counts, as f32 bits: `headroom` times the largest magnitude seen, the
/// product truncated, then rounded up to bf16; at most 2^126, and 0 below 2^-90.
///
/// `headroom`: magnitude bits of the factor, 1 for none.
#[inline]
pub const fn window_scale(max: u32, headroom: u32) -> u32 {
    let m = super::threshold::mul_trunc(max, headroom);
    stochastic_scale(if m < RANGE_LIMIT { m } else { RANGE_LIMIT })
}

/// The size of a fine level for a window of 32-bit counts, as f32 bits: the smallest power of two of which 2^21 cover
/// `headroom` times the largest magnitude seen, the product truncated and at most 2^126; 0 below 2^-90.
#[inline]
pub const fn fine_scale(max: u32, headroom: u32) -> u32 {
    let m = super::threshold::mul_trunc(max, headroom);
    let m = if m < RANGE_LIMIT { m } else { RANGE_LIMIT };
    if m < ZERO_LIMIT { 0 } else { ((m + 0x007f_ffff) >> 23 << 23) - (21 << 23) }
}

/// The scale of a block of a window of counts of a width: [`window_scale`], or for 32 bits [`fine_scale`].
#[inline]
pub const fn count_scale(bits: u32, max: u32, headroom: u32) -> u32 {
    if bits == 32 { fine_scale(max, headroom) } else { window_scale(max, headroom) }
}

/// The scale of a block of levels `-l_max..=l_max`, as f32 bits: the smallest bf16 `s` with `l_max s >= max`, or 0
/// when `max` lies below 2^-90 (then every level is zero).
///
/// `l_max` is 1, 7 or 127 (2, 4 or 8 bits).
///
/// # Examples
///
/// ```
/// use trigrad::numerics::scale::level_scale;
/// assert_eq!(level_scale(7.0f32.to_bits(), 7), 1.0f32.to_bits());
/// assert_eq!(level_scale(7.01f32.to_bits(), 7), 1.0078125f32.to_bits());
/// ```
pub const fn level_scale(max: u32, l_max: u32) -> u32 {
    if max < ZERO_LIMIT {
        return 0;
    }
    let l_max = if l_max == 0 || l_max > MIN_NORMAL { 1 } else { l_max };
    let mantissa = (max & 0x007f_ffff) | MIN_NORMAL;
    let q = (mantissa << 8).div_ceil(l_max); // max / l_max, in units of 2^(E - 31), rounded up
    let mut shift = 24 - q.leading_zeros(); // leaves 8 significant bits
    let mut m = ((q - 1) >> shift) + 1;
    if m == 256 {
        m = 128;
        shift += 1;
    }
    (((max >> 23) + shift - 24) << 23) | ((m & 0x7f) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_scale_is_the_smallest_that_covers() {
        for l_max in [1u32, 7, 127] {
            for i in 0..200_000u32 {
                let max = ZERO_LIMIT + i * 9029;
                if max >= RANGE_LIMIT {
                    break;
                }
                let s = level_scale(max, l_max);
                let below = s - 0x1_0000;
                let m = f64::from(f32::from_bits(max));
                assert!(f64::from(f32::from_bits(s)) * f64::from(l_max) >= m, "{max:08x} {l_max}");
                assert!(f64::from(f32::from_bits(below)) * f64::from(l_max) < m, "{max:08x} {l_max}");
            }
        }
    }

    #[test]
    fn fine_scale_is_the_smallest_power_of_two_that_covers() {
        let one = 1f32.to_bits();
        for max in (ZERO_LIMIT..=RANGE_LIMIT).step_by(99_991).chain([ZERO_LIMIT, RANGE_LIMIT, one, one + 1]) {
            let q = f64::from(f32::from_bits(fine_scale(max, one)));
            let (m, most) = (f64::from(f32::from_bits(max)), q * f64::from(1 << 21));
            assert!(m <= most && most < 2.0 * m && q.log2().fract() == 0.0, "{max:08x}");
        }
        assert_eq!(fine_scale(ZERO_LIMIT - 1, one), 0);
        assert_eq!(fine_scale(RANGE_LIMIT, 4f32.to_bits()), fine_scale(RANGE_LIMIT, one));
    }

    #[test]
    fn one_level_is_the_stochastic_scale() {
        for max in
            [0, 1, ZERO_LIMIT - 1, ZERO_LIMIT, ZERO_LIMIT + 1, 0x3f80_0000, 0x3f80_0001, 0x3fff_ffff, 0x7e7f_ffff]
        {
            assert_eq!(level_scale(max, 1), stochastic_scale(max), "{max:08x}");
        }
    }
}
