//! Accumulation: adaptive levels and exact counts.
//!
//! A level field of `b` bits holds an integer `l` in two's complement, `|l| <= l_max`, and stands for `l s` with the
//! block's bf16 scale `s`: exact in f32. Two-bit levels are stored as planes ([`super::pack`]).

use super::constants::{MIN_NORMAL, RANGE_LIMIT};
use super::float::magnitude;
use super::trit::keep;

/// The largest level of a width of 2, 4, 8 or 16 bits: 1, 7, 127, 32767.
#[inline]
pub const fn level_max(bits: u32) -> u32 {
    if bits == 0 || bits > 32 { 0 } else { (1 << (bits - 1)) - 1 }
}

/// Fine levels of a micro-batch in 32-bit counts: `-2^21..=2^21`.
pub const FINE_LEVELS: u32 = 1 << 21;

/// Micro-batches that fit counts of a width: 7, 127, 32767 of trits in 4, 8 and 16 bits, 1023 of fine levels in 32.
#[inline]
pub const fn micro_batches_max(bits: u32) -> u32 {
    if bits == 32 { level_max(32) / FINE_LEVELS } else { level_max(bits) }
}

/// What an element adds to a count of fine levels of size `q` (f32 bits, a power of two, or 0): `p / q` rounded to the
/// nearest integer, ties to even, and whether it was cut to 2^21 levels. Under a scale of 0 it adds 0, and is cut where it
/// is not 0.
///
/// `p`: f32 bits within the range.
#[inline]
pub fn round_fine(p: u32, q: u32) -> (i32, bool) {
    let m = magnitude(p);
    if q == 0 || m == 0 {
        return (0, m != 0);
    }
    let limit = (q >> 23) + 21; // the biased exponent of 2^21 q
    if m > limit << 23 {
        let cut = FINE_LEVELS as i32;
        return (if p >> 31 == 1 { -cut } else { cut }, true);
    }
    // Exact: a product with a power of two, at most 2^21 in magnitude; what becomes subnormal rounds to 0 all the same.
    let scaled = f32::from_bits(p) * f32::from_bits((254 - (q >> 23)) << 23);
    (scaled.round_ties_even() as i32, false)
}

/// What an element adds, `p = weight * x` rounded once to f32, as f32 bits.
///
/// A subnormal `x`, `weight` or product counts as zero; a weight of 1 changes nothing.
#[inline]
pub fn weighted(x: u32, weight: u32) -> u32 {
    if magnitude(x) == 0 || magnitude(weight) == 0 {
        return 0;
    }
    let p = (f32::from_bits(x) * f32::from_bits(weight)).to_bits();
    if magnitude(p) == 0 { 0 } else { p }
}

/// The sum an element comes to before it is rounded: `v = l s + p`, rounded once to f32, as f32 bits.
///
/// `None` where `p` or `v` is out of range (2^126 or more, Inf, NaN): such an element is counted as non-finite and
/// its value stays `l s`.
#[inline]
pub fn sum(level: i32, scale: u32, p: u32) -> Option<u32> {
    if magnitude(p) >= RANGE_LIMIT {
        return None;
    }
    let v = (value(level, scale) + f32::from_bits(p)).to_bits();
    if magnitude(v) >= RANGE_LIMIT { None } else { Some(v) }
}

/// The sum of an element held in f32: `sum + p`, rounded once to f32, as f32 bits; a subnormal sum is +0.
///
/// `None` where `p` or the new sum is out of range: such an element is counted as non-finite and its sum stays.
#[inline]
pub fn sum_f32(sum: u32, p: u32) -> Option<u32> {
    if magnitude(p) >= RANGE_LIMIT {
        return None;
    }
    let v = (f32::from_bits(sum) + f32::from_bits(p)).to_bits();
    match magnitude(v) {
        0 => Some(0),
        m if m >= RANGE_LIMIT => None,
        _ => Some(v),
    }
}

/// The value of a level: `l s`, the level rounded to f32 (nearest even) where it has more than 24 bits.
#[inline]
pub fn value(level: i32, scale: u32) -> f32 {
    level as f32 * f32::from_bits(scale)
}

/// The new level of a sum `v` under the new scale `s`: `sign(v) (c + up)` with `c = floor(|v| / s)` and `up` the
/// stochastic decision on the remainder, `u s < |v| - c s`, all over the reals.
///
/// `v`: f32 bits with `|v| <= 127 s` (so the level fits); `s`: 0 or a bf16 from 2^-97 up; `k` below 2^23.
/// The remainder is exact in 24 bits, so any way to find `c` that corrects itself by it gives these bits.
///
/// # Examples
///
/// ```
/// use trigrad::numerics::level::round_level;
/// let s = 0.5f32.to_bits();
/// assert_eq!(round_level((-1.5f32).to_bits(), s, 12345), -3); // on the grid: no draw can move it
/// assert_eq!(round_level(0.6f32.to_bits(), s, 0), 2);         // 1.2: up for the fifth of draws below 0.2
/// assert_eq!(round_level(0.6f32.to_bits(), s, (1 << 23) - 1), 1);
/// ```
pub const fn round_level(v: u32, s: u32, k: u32) -> i32 {
    let m = magnitude(v);
    if s == 0 || m == 0 {
        return 0;
    }
    let (ev, es) = (m >> 23, s >> 23);
    let mantissa = ((m & 0x007f_ffff) | MIN_NORMAL) as u64;
    let unit = ((s & 0x007f_ffff) | MIN_NORMAL) as u64; // the scale, in units of 2^(es - 150)
    let l = if ev < es {
        keep(m, s, k) as i32
    } else {
        let apart = if ev - es < 40 { ev - es } else { 39 }; // levels have 7 bits at most: never that far apart
        let x = mantissa << apart;
        let (c, rest) = (x / unit, x % unit);
        // u s < rest: (2 k + 1) 2^-24 unit < rest, and unit is a multiple of 2^16.
        let up = (2 * k as u64 + 1) * (unit >> 16) < rest << 8;
        (c as i32).wrapping_add(up as i32)
    };
    if v >> 31 == 1 { l.wrapping_neg() } else { l }
}

/// An accumulated value read out: the real product `l s factor`, rounded once to f32 (the level first, where it has more
/// than 24 bits). What lies above the largest finite f32 becomes that number.
///
/// The sum has factor 1 (then it is exact), the mean `1 / (sum of weights)`.
#[inline]
pub fn read_out(level: i32, scale: u32, factor: f32) -> f32 {
    // A level times a scale from 2^96 up could overflow: the same real product by way of smaller numbers. The last
    // product is exact, unless it overflows itself.
    let (scale, rest) = if scale >= LARGE { (scale - (32 << 23), 4_294_967_296.0) } else { (scale, 1.0) };
    saturate(value(level, scale) * factor * rest)
}

/// The bits of 2^96.
const LARGE: u32 = 223 << 23;

/// The nearest finite number; a NaN stays.
#[inline]
pub const fn saturate(x: f32) -> f32 {
    x.clamp(f32::MIN, f32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::scale::level_scale;

    #[test]
    fn rounding_is_floor_of_the_real_quotient_plus_the_draw() {
        let mut x = 1u32;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x ^ (x >> 15)
        };
        for l_max in [1u32, 7, 127] {
            for _ in 0..100_000 {
                let max = 0x3f80_0000 + (next() & 0x00ff_ffff);
                let s = level_scale(max, l_max);
                let v = max - (next() & 0x07ff_ffff).min(max - MIN_NORMAL);
                let k = next() & 0x007f_ffff;
                let q = f64::from(f32::from_bits(v)) / f64::from(f32::from_bits(s));
                let u = f64::from(2 * k + 1) / f64::from(1 << 24);
                let l = round_level(v, s, k);
                assert_eq!(l, -round_level(v | 0x8000_0000, s, k));
                assert!(l as u32 <= l_max);
                assert!((f64::from(l) - q).abs() < 1.0, "v {v:08x} s {s:08x}");
                if (q - q.floor() - u).abs() > 1e-9 {
                    assert_eq!(
                        f64::from(l),
                        q.floor() + f64::from(u8::from(u < q - q.floor())),
                        "v {v:08x} s {s:08x} k {k}"
                    );
                }
            }
        }
    }

    #[test]
    fn one_level_rounds_like_a_trit() {
        for (m, k) in
            [(0x3f00_0000u32, 5u32), (0x3f7f_ffff, 1 << 22), (0x3f80_0000, 0), (0x1234_5678, 0), (0x3e00_0001, 77)]
        {
            let s = 0x3f80_0000;
            assert_eq!(round_level(m, s, k), i32::from(keep(m, s, k)), "{m:08x}");
        }
    }

    /// The middle of a cell decides, not its lower edge: a remainder of 2 units under a mantissa of 255 is 512, which
    /// lies between 2 k 255 and (2 k + 1) 255 for k = 1.
    #[test]
    fn a_draw_stands_for_the_middle_of_its_cell() {
        let (v, s) = (0x3f7f_0002, 0x3f7f_0000);
        assert_eq!([0, 1, 2].map(|k| round_level(v, s, k)), [2, 1, 1]);
        assert_eq!([0, 1, 2].map(|k| round_level(v | 1 << 31, s, k)), [-2, -1, -1]);
    }

    #[test]
    fn levels_and_read_out_by_hand() {
        assert_eq!([2, 4, 8, 16].map(level_max), [1, 7, 127, 32_767]);
        assert_eq!([0, 1, 32, 33].map(level_max), [0, 0, 0x7fff_ffff, 0]);
        assert_eq!(read_out(2, 2f32.to_bits(), 3.0).to_bits(), 12f32.to_bits());
        assert_eq!(read_out(-3, 0.5f32.to_bits(), 0.25).to_bits(), (-0.375f32).to_bits());
        assert_eq!(read_out(0, 2f32.to_bits(), 3.0).to_bits(), 0);
    }

    /// Every scale against the real product, computed in f64 (exact up to the factor) and rounded once.
    #[test]
    fn read_out_rounds_the_real_product_once_and_saturates() {
        assert_eq!(read_out(4, 0x7e80_0000, 0.25).to_bits(), 0x7e80_0000);
        assert_eq!(read_out(-7, 0x7e80_0000, 1.0), f32::MIN);
        assert_eq!(read_out(1, 1f32.to_bits(), f32::MAX), f32::MAX);
        for scale in (0x0f80..=0x7e80u32).step_by(13).map(|s| s << 16) {
            for (level, factor) in [(7, 0.3f32), (-127, 1e-38), (32767, 1e-45), (i32::MAX, 3e-39), (-3, 1e38), (5, 0.0)]
            {
                let real = f64::from(level as f32) * f64::from(f32::from_bits(scale)) * f64::from(factor);
                let want = (real as f32).clamp(f32::MIN, f32::MAX);
                assert_eq!(read_out(level, scale, factor).to_bits(), want.to_bits(), "{level} {scale:08x} {factor}");
            }
        }
    }

    #[test]
    fn fine_levels_are_the_nearest_multiples() {
        let q = 0.25f32.to_bits();
        for (p, want) in [(1.0f32, 4), (-1.0, -4), (0.125, 0), (0.375, 2), (0.13, 1), (1e-30, 0), (0.0, 0)] {
            assert_eq!(round_fine(p.to_bits(), q), (want, false), "{p}");
        }
        let most = FINE_LEVELS as f32 * 0.25;
        assert_eq!(round_fine(most.to_bits(), q), (FINE_LEVELS as i32, false));
        assert_eq!(round_fine((-most * 1.000_001).to_bits(), q), (-(FINE_LEVELS as i32), true));
        assert_eq!(round_fine(1f32.to_bits(), 0), (0, true));
        assert_eq!([4, 8, 16, 32].map(micro_batches_max), [7, 127, 32_767, 1023]);
    }

    #[test]
    fn sums_in_f32_stay_where_the_new_one_is_out_of_range() {
        let f = |sum: f32, p: f32| sum_f32(sum.to_bits(), p.to_bits()).map(f32::from_bits);
        assert_eq!(f(1.0, 2.5), Some(3.5));
        assert_eq!(f(8e37, 8e37), None);
        assert_eq!(f(0.0, f32::NAN), None);
        assert_eq!(f(f32::MIN_POSITIVE * 1.5, -f32::MIN_POSITIVE).map(f32::to_bits), Some(0));
    }

    #[test]
    fn sums_out_of_range_are_refused() {
        assert_eq!(sum(1, 1f32.to_bits(), f32::NAN.to_bits()), None);
        assert_eq!(sum(1, 1f32.to_bits(), f32::INFINITY.to_bits()), None);
        assert_eq!(sum(1, 0x7e00_0000, 0x7e00_0000), None); // 2^125 + 2^125
        assert_eq!(sum(1, 1f32.to_bits(), 0), Some(1f32.to_bits()));
    }
}
