//! Floating-point values as bit patterns: magnitudes, ranges, conversions.

use super::constants::{MIN_NORMAL, RANGE_LIMIT};

/// Magnitude bits of an f32: the pattern without its sign; a subnormal's magnitude counts as zero.
///
/// Ordered like the magnitudes themselves; Inf is `0x7f80_0000` and every NaN lies above it.
#[inline]
pub const fn magnitude(bits: u32) -> u32 {
    let m = bits & 0x7fff_ffff;
    if m < MIN_NORMAL { 0 } else { m }
}

/// Whether a magnitude is out of range: 2^126 or more, Inf or NaN.
#[inline]
pub const fn out_of_range(magnitude: u32) -> bool {
    magnitude >= RANGE_LIMIT
}

/// bf16 bits to f32 bits: exact.
#[inline]
pub const fn bf16_to_f32(bits: u16) -> u32 {
    (bits as u32) << 16
}

/// f16 bits to f32 bits: exact, subnormals included.
#[inline]
pub const fn f16_to_f32(bits: u16) -> u32 {
    let sign = (bits as u32 & 0x8000) << 16;
    let exponent = (bits as u32 >> 10) & 0x1f;
    let mantissa = bits as u32 & 0x3ff;
    match (exponent, mantissa) {
        (0, 0) => sign,
        (0, m) => {
            let top = 31 - m.leading_zeros(); // m = 1.f * 2^top, in units of 2^-24
            sign | ((top + 103) << 23) | ((m << (23 - top)) & 0x007f_ffff)
        }
        (31, m) => sign | 0x7f80_0000 | (m << 13),
        (e, m) => sign | ((e + 112) << 23) | (m << 13),
    }
}

/// f32 bits to bf16 bits: nearest, ties to even; NaN becomes a quiet NaN.
#[inline]
pub const fn f32_to_bf16(bits: u32) -> u16 {
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return ((bits >> 16) | 0x40) as u16;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// f32 bits to f16 bits: nearest, ties to even, subnormals kept, overflow to Inf; NaN becomes a quiet NaN.
#[inline]
pub const fn f32_to_f16(bits: u32) -> u16 {
    let sign = ((bits >> 16) & 0x8000) as u16;
    let m = bits & 0x7fff_ffff;
    if m > 0x7f80_0000 {
        return sign | 0x7e00 | ((m >> 13) & 0x3ff) as u16;
    }
    if m >= 0x4780_0000 {
        return sign | 0x7c00; // 2^16 and above, Inf included
    }
    if m >= 0x3880_0000 {
        // A normal f16 (or 65520 and above, which carries into Inf): drop 13 bits.
        let r = m - 0x3800_0000;
        return sign | ((r + 0xfff + ((r >> 13) & 1)) >> 13) as u16;
    }
    if m < 0x3300_0000 {
        return sign; // below half of the smallest subnormal, 2^-25
    }
    let shift = 126 - (m >> 23); // 14 to 24 bits below the unit 2^-24
    let mantissa = (m & 0x007f_ffff) | MIN_NORMAL;
    let kept = mantissa >> shift;
    let rest = mantissa & ((1 << shift) - 1);
    let half = 1 << (shift - 1);
    let up = rest > half || (rest == half && kept & 1 == 1);
    sign | (kept + up as u32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_and_bf16_converts_like_the_half_crate_and_back() {
        for b in 0..=u16::MAX {
            let (f, g) = (half::f16::from_bits(b), half::bf16::from_bits(b));
            if f.is_nan() {
                assert!(f32::from_bits(f16_to_f32(b)).is_nan());
                assert!(half::f16::from_bits(f32_to_f16(f16_to_f32(b))).is_nan());
            } else {
                assert_eq!(f16_to_f32(b), f.to_f32().to_bits(), "{b:04x}");
                assert_eq!(f32_to_f16(f16_to_f32(b)), b, "{b:04x}");
            }
            if !g.is_nan() {
                assert_eq!(bf16_to_f32(b), g.to_f32().to_bits(), "{b:04x}");
                assert_eq!(f32_to_bf16(bf16_to_f32(b)), b);
            }
        }
    }

    #[test]
    fn the_smallest_normal_number_counts() {
        assert_eq!([0x807f_ffff, 0x0080_0000, 0x8080_0000].map(magnitude), [0, MIN_NORMAL, MIN_NORMAL]);
    }

    /// A NaN keeps its sign and the upper bits of its payload, and becomes quiet: never Inf, whatever bits it had.
    #[test]
    fn nans_become_quiet() {
        let cases = [
            (0x7f80_0001, 0x7fc0, 0x7e00),
            (0xffc0_2000, 0xffc0, 0xfe01),
            (0x7fff_ffff, 0x7fff, 0x7fff),
            (0x7fa0_0000, 0x7fe0, 0x7f00),
            (0x7fc0_0000, 0x7fc0, 0x7e00),
        ];
        for (bits, bf16, f16) in cases {
            assert_eq!((f32_to_bf16(bits), f32_to_f16(bits)), (bf16, f16), "{bits:08x}");
        }
    }

    #[test]
    fn narrowing_rounds_like_the_half_crate() {
        let mut x = 1u32;
        for _ in 0..2_000_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let bits = x ^ (x >> 13);
            let f = f32::from_bits(bits);
            if !f.is_nan() {
                assert_eq!(f32_to_f16(bits), half::f16::from_f32(f).to_bits(), "{bits:08x}");
                assert_eq!(f32_to_bf16(bits), half::bf16::from_f32(f).to_bits(), "{bits:08x}");
            }
        }
        for e in 0x3200_0000u32..0x3202_0000 {
            for base in [0, 0x0080_0000, 0x0100_0000, 0x0180_0000, 0x0600_0000, 0x1580_0000] {
                let f = f32::from_bits(e + base);
                assert_eq!(f32_to_f16(e + base), half::f16::from_f32(f).to_bits(), "{:08x}", e + base);
            }
        }
    }
}
