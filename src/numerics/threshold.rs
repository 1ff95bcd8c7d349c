//! Threshold rules: integer sums of magnitudes, and what is computed from them.
//!
//! Every rule keeps `|x| > t` and reconstructs with the least-squares magnitude, the mean of what it kept.
//! `t` is given, or a factor times the mean magnitude of the group (the mean itself: 1; TWN, Li and Liu 2016: 0.7;
//! absmean rounding, BitNet b1.58: 0.5, since `round(|x| / mean) >= 1` means `|x| > mean / 2`).
//!
//! Sums are integers, so no order can matter. A group is cut into chunks of 4096 elements from its first element;
//! within a chunk each magnitude becomes a 20-bit fixed-point number against the chunk's largest, and chunks are
//! brought to the group's largest exponent by a shift.

use super::constants::{CHUNK, MIN_NORMAL, SQUARE_BITS, SUM_BITS};

/// The exponent a chunk is summed against: that of its largest magnitude, at least 1.
#[inline]
pub const fn chunk_exponent(max: u32) -> u32 {
    let e = max >> 23;
    if e == 0 { 1 } else { e }
}

/// An exponent as a signed number; biased exponents are below 256.
const fn bounded(exponent: u32) -> i32 {
    if exponent < 1 << 16 { exponent as i32 } else { 1 << 16 }
}

/// A magnitude as a fixed-point number of `bits` bits against exponent `exponent`, truncated.
///
/// One unit is `2^(exponent - 127 - (bits - 1))`. Zero (and a subnormal, which counts as zero) gives 0.
#[inline]
pub const fn fixed(m: u32, exponent: u32, bits: u32) -> u32 {
    if m < MIN_NORMAL {
        return 0;
    }
    let mantissa = ((m & 0x007f_ffff) | MIN_NORMAL) >> 24u32.saturating_sub(bits);
    let d = exponent.wrapping_sub(m >> 23);
    if d > 31 { 0 } else { mantissa >> d }
}

/// An integer sum over a group: `total` units of `2^(exponent - 127 - 19)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// The sum in units.
    pub total: u64,
    /// The biased exponent the units refer to; 0 for the empty sum.
    pub exponent: u32,
    /// How many elements were summed.
    pub count: u64,
}

impl Sum {
    /// Joins two sums of the same group, in any order only if each part is a chunk: see [`Sum::of_chunks`].
    pub fn of_chunks(chunks: &[Sum]) -> Sum {
        let exponent = chunks.iter().map(|c| c.exponent).max().unwrap_or(0);
        let shifted = |c: &Sum| {
            let d = exponent - c.exponent;
            if d > 63 { 0 } else { c.total >> d }
        };
        let mut sum = Sum { total: 0, exponent, count: 0 };
        for c in chunks {
            sum.total = sum.total.saturating_add(shifted(c));
            sum.count = sum.count.saturating_add(c.count);
        }
        sum
    }

    /// The sum of one chunk (at most 4096 magnitudes, in range), over the elements above `t`.
    ///
    /// The exponent comes from the whole chunk, whether its largest element is above `t` or not.
    pub fn of_chunk(magnitudes: &[u32], t: Option<u32>) -> Sum {
        let max = magnitudes.iter().copied().max().unwrap_or(0);
        let exponent = chunk_exponent(max);
        let mut sum = Sum { total: 0, exponent, count: 0 };
        for &m in magnitudes {
            if t.is_none_or(|t| super::trit::above(m, t)) {
                sum.total += u64::from(fixed(m, exponent, SUM_BITS));
                sum.count += 1;
            }
        }
        sum
    }

    /// The sum of a whole group, over all elements (`t` is `None`) or those above `t`.
    pub fn of_group(magnitudes: &[u32], t: Option<u32>) -> Sum {
        let chunks: Vec<Sum> = magnitudes.chunks(CHUNK).map(|c| Sum::of_chunk(c, t)).collect();
        Sum::of_chunks(&chunks)
    }

    /// The mean, truncated to an f32 (24 significant bits); 0 for an empty sum and below 2^-126.
    pub const fn mean(&self) -> u32 {
        if self.count == 0 || self.total == 0 {
            return 0;
        }
        let q = ((self.total as u128) << 64) / self.count as u128;
        let top = 127 - q.leading_zeros();
        let exponent = top as i32 + bounded(self.exponent) - (64 + SUM_BITS as i32 - 1);
        if exponent < 1 {
            return 0;
        }
        let mantissa = if top >= 23 { q >> (top - 23) } else { q << (23 - top) };
        ((exponent as u32) << 23) | (mantissa as u32 & 0x007f_ffff)
    }

    /// The mean, rounded to the nearest bf16 (ties to even), as f32 bits: the least-squares magnitude.
    ///
    /// 0 for an empty sum and below 2^-126.
    pub const fn mean_bf16(&self) -> u32 {
        if self.count == 0 || self.total == 0 {
            return 0;
        }
        let n = (self.total as u128) << 64;
        let (q, sticky) = (n / self.count as u128, !n.is_multiple_of(self.count as u128));
        let top = 127 - q.leading_zeros();
        let exponent = top as i32 + bounded(self.exponent) - (64 + SUM_BITS as i32 - 1);
        if exponent < 1 || top < 8 {
            return 0;
        }
        let shift = top - 7;
        let kept = (q >> shift) as u32;
        let rest = q & ((1 << shift) - 1);
        let half = 1u128 << (shift - 1);
        let up = rest > half || (rest == half && (sticky || kept & 1 == 1));
        (((exponent as u32) << 7) + (kept & 0x7f) + up as u32) << 16
    }
}

/// The product of two magnitudes, truncated to 24 significant bits: 0 below 2^-126, the largest f32 from 2^128 up.
pub const fn mul_trunc(a: u32, b: u32) -> u32 {
    if a < MIN_NORMAL || b < MIN_NORMAL {
        return 0;
    }
    let p = ((a & 0x007f_ffff) | MIN_NORMAL) as u64 * ((b & 0x007f_ffff) | MIN_NORMAL) as u64;
    let carry = (p >> 47) as u32; // the product has 47 or 48 bits
    let exponent = (a >> 23) as i32 + (b >> 23) as i32 - 127 + carry as i32;
    if exponent < 1 {
        return 0;
    }
    if exponent > 254 {
        return 0x7f7f_ffff;
    }
    ((exponent as u32) << 23) | ((p >> (23 + carry)) as u32 & 0x007f_ffff)
}

/// The threshold of a rule that is relative to the mean magnitude: `factor * mean`, as magnitude bits.
///
/// # Examples
///
/// ```
/// use trigrad::numerics::threshold::{relative, Sum};
/// let m: Vec<u32> = [1.0f32, 2.0, 3.0, 6.0].iter().map(|x| x.to_bits()).collect();
/// let mean = Sum::of_group(&m, None);
/// assert_eq!(relative(&mean, 1.0f32.to_bits()), 3.0f32.to_bits());
/// let kept = Sum::of_group(&m, Some(3.0f32.to_bits()));
/// assert_eq!(kept.mean_bf16(), 6.0f32.to_bits());
/// ```
pub const fn relative(sum: &Sum, factor: u32) -> u32 {
    mul_trunc(factor, sum.mean())
}

/// First and second moments over a group, for clipping at `c` sigma (TernGrad, Wen et al. 2017, section 3.3).
///
/// Units: `unit = 2^(exponent - 127 - 14)` for `first`, its square for `second`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moments {
    /// Sum of the signed fixed-point values.
    pub first: i64,
    /// Sum of their squares.
    pub second: u64,
    /// The biased exponent the units refer to; 0 for no elements.
    pub exponent: u32,
    /// How many elements.
    pub count: u64,
}

impl Moments {
    /// Moments of one chunk (at most 4096 elements), from f32 bits whose magnitudes are in range.
    pub fn of_chunk(bits: &[u32]) -> Moments {
        let max = bits.iter().map(|&b| super::float::magnitude(b)).max().unwrap_or(0);
        let exponent = chunk_exponent(max);
        let mut moments = Moments { first: 0, second: 0, exponent, count: bits.len() as u64 };
        for &b in bits {
            let q = i64::from(fixed(super::float::magnitude(b), exponent, SQUARE_BITS));
            moments.first += if b >> 31 == 1 { -q } else { q };
            moments.second += (q * q) as u64;
        }
        moments
    }

    /// Joins the chunks of a group: shifts each to the largest exponent (arithmetic shift for the first moment).
    pub fn of_chunks(chunks: &[Moments]) -> Moments {
        let exponent = chunks.iter().map(|c| c.exponent).max().unwrap_or(0);
        let mut sum = Moments { exponent, ..Moments::default() };
        for c in chunks {
            let d = exponent - c.exponent;
            sum.first = sum.first.saturating_add(c.first >> if d > 63 { 63 } else { d });
            sum.second = sum.second.saturating_add(if d > 31 { 0 } else { c.second >> (2 * d) });
            sum.count = sum.count.saturating_add(c.count);
        }
        sum
    }

    /// Moments of a whole group.
    pub fn of_group(bits: &[u32]) -> Moments {
        let chunks: Vec<Moments> = bits.chunks(CHUNK).map(Moments::of_chunk).collect();
        Moments::of_chunks(&chunks)
    }

    /// The population standard deviation, truncated to an f32, as magnitude bits.
    ///
    /// `variance = floor(second / n) - floor(|first| / n)^2` in squared units (0 if negative), and
    /// `sigma = floor(sqrt(variance 2^32)) 2^-16` units, truncated to 24 bits.
    pub const fn sigma(&self) -> u32 {
        if self.count == 0 {
            return 0;
        }
        let mean = self.first.unsigned_abs() / self.count;
        let variance = (self.second / self.count).saturating_sub(mean.saturating_mul(mean));
        let root = (variance << 32).isqrt();
        if root == 0 {
            return 0;
        }
        let top = 63 - root.leading_zeros();
        let exponent = top as i32 + bounded(self.exponent) - (16 + SQUARE_BITS as i32 - 1);
        if exponent < 1 {
            return 0;
        }
        let mantissa = if top >= 23 { root >> (top - 23) } else { root << (23 - top) };
        ((exponent as u32) << 23) | (mantissa as u32 & 0x007f_ffff)
    }

    /// The magnitude that elements are clipped to, `c sigma` truncated; `None` where it is 0 (one element, or all
    /// equal), which means no clipping.
    pub const fn clip(&self, c: u32) -> Option<u32> {
        match mul_trunc(c, self.sigma()) {
            0 => None,
            t => Some(t),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_and_means_by_hand() {
        let two = Sum { total: 2 << 19, exponent: 127, count: 1 };
        assert_eq!(two.mean(), 2f32.to_bits());
        assert_eq!(relative(&two, 0.75f32.to_bits()), 1.5f32.to_bits());
        // A mean far below its unit: 3 2^-60 units of 2^54.
        assert_eq!(Sum { total: 3, exponent: 200, count: 1 << 60 }.mean(), 2f32.powi(-5).to_bits() + (1 << 22));
    }

    #[test]
    fn sigma_by_hand() {
        let of = |second, exponent| Moments { first: 0, second, exponent, count: 1 }.sigma();
        // The root of 2 in units of 2, cut to 16 bits after the point: 92681 / 2^16.
        assert_eq!(of(2, 142), 0x4035_0480);
        assert_eq!(of(4, 142), 4f32.to_bits());
        // One unit at the edge of the normal numbers.
        assert_eq!([of(1, 13), of(1, 14), of(1, 15)], [0, 0, MIN_NORMAL]);
    }

    #[test]
    fn moments_by_hand() {
        // 2.0 and -1.0 against the exponent of 2.0: 2^14 and -2^13.
        let chunk = Moments::of_chunk(&[2f32.to_bits(), (-1f32).to_bits(), 0]);
        let (first, second) = ((1 << 14) - (1 << 13), (1 << 28) + (1 << 26));
        assert_eq!(chunk, Moments { first, second, exponent: 128, count: 3 });
        // Far smaller chunks: the first moment is floored, to -1 where it is negative; the second vanishes.
        let small = |first, exponent| Moments { first, second: 100, exponent, count: 1 };
        let large = Moments { first: 8, second: 64, exponent: 200, count: 1 };
        for exponent in [1, 100, 136, 137, 160] {
            let sum = Moments::of_chunks(&[small(-5, exponent), large, small(5, exponent)]);
            assert_eq!(sum, Moments { first: 7, second: 64, exponent: 200, count: 3 });
        }
        let near = Moments::of_chunks(&[small(-5, 199), large]);
        assert_eq!(near, Moments { first: 5, second: 89, exponent: 200, count: 2 });
    }

    #[test]
    fn mean_is_the_truncated_quotient() {
        for (total, count, exponent) in
            [(1u64, 3u64, 127u32), (1 << 56, 7, 140), (12_345_678_901, 4096, 90), (5, 1, 60)]
        {
            let sum = Sum { total, exponent, count };
            let want = total as f64 / count as f64 * 2f64.powi(exponent as i32 - 146);
            let got = f64::from(f32::from_bits(sum.mean()));
            assert!(got <= want && got > want * (1.0 - 2f64.powi(-23)), "{sum:?}: {got} {want}");
            let b = f64::from(f32::from_bits(sum.mean_bf16()));
            assert!((b - want).abs() <= want * 2f64.powi(-8), "{sum:?}: {b} {want}");
        }
    }

    #[test]
    fn mean_bf16_breaks_ties_to_even() {
        // 257/2 has its tie exactly between 128 and 129; 259/2 between 129 and 130.
        let at = |total| Sum { total, exponent: 146, count: 2 }.mean_bf16();
        assert_eq!(f32::from_bits(at(257)), 128.0);
        assert_eq!(f32::from_bits(at(259)), 130.0);
        assert_eq!(f32::from_bits(at(511)), 256.0);
    }

    #[test]
    fn mul_trunc_truncates() {
        let cases = [(0.7f32, 1.3f32), (1.999_999_9, 1.999_999_9), (3e-30, 2e-20), (1.0, 1.0), (0.5, 3e38)];
        for (a, b) in cases {
            let got = f64::from(f32::from_bits(mul_trunc(a.to_bits(), b.to_bits())));
            let want = f64::from(a) * f64::from(b);
            if want < 2f64.powi(-126) {
                assert_eq!(got, 0.0);
            } else {
                assert!(got <= want && got > want * (1.0 - 2f64.powi(-22)), "{a} {b}: {got} {want}");
            }
        }
        assert_eq!(mul_trunc(3e38f32.to_bits(), 3e38f32.to_bits()), f32::MAX.to_bits());
    }

    #[test]
    fn sigma_of_known_values() {
        let bits: Vec<u32> = [3.0f32, -3.0, 3.0, -3.0].iter().map(|x| x.to_bits()).collect();
        let s = f32::from_bits(Moments::of_group(&bits).sigma());
        assert!((s - 3.0).abs() < 1e-3, "{s}");
        let one = [5.0f32.to_bits()];
        assert_eq!(Moments::of_group(&one).clip(2.5f32.to_bits()), None);
    }
}
