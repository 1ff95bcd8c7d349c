//! Exact sums: dot products and norms that no order of addition can change.
//!
//! A block contributes an integer times a power of two: with scales `s = ms 2^(E - 134)` (mantissa `ms` of 8 bits,
//! biased exponent `E`) the dot product of two packed blocks is `n ms_a ms_b 2^(E_a + E_b - 268)`, `n` being the number
//! of equal signs less the number of opposite ones. Such terms are added in a wide integer and rounded to an f64
//! once, to nearest, ties to even.

pub use super::constants::{SUM_LOWEST, SUM_WORDS};

/// What is added to the sum of two biased exponents.
const SCALES: u32 = SUM_LOWEST - 268;
/// The largest exponent whose term lies within the limbs; scales come to 560, squares of floats to 528.
const EXPONENT_MAX: u32 = 32 * (SUM_WORDS as u32 - 2) - 1;

/// A wide integer accumulator; order-free and mergeable.
///
/// # Examples
///
/// ```
/// use trigrad::numerics::reduce::ExactSum;
/// let mut sum = ExactSum::default();
/// sum.add(1, 268 + 60); // 2^60
/// sum.add(1, 268);      // 1
/// sum.add(-1, 268 + 60);
/// assert_eq!(sum.to_f64(), 1.0);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExactSum {
    limbs: [i64; SUM_WORDS],
    pending: u32,
}

/// Mantissa (128 to 255) and biased exponent of a nonzero bf16 scale given as f32 bits.
#[inline]
pub const fn scale_parts(scale: u32) -> (i64, u32) {
    ((((scale >> 16) & 0x7f) | 0x80) as i64, scale >> 23)
}

impl ExactSum {
    /// Adds `term * 2^(exponent - 268)`; `exponent` is at most 508, the sum of two biased exponents.
    #[inline]
    pub fn add(&mut self, term: i64, exponent: u32) {
        self.add_at(term, exponent.saturating_add(SCALES));
    }

    /// Adds `term * 2^(bit - 320)`.
    #[inline]
    pub fn add_at(&mut self, term: i64, bit: u32) {
        let exponent = bit.min(EXPONENT_MAX);
        let (limb, shift) = ((exponent / 32) as usize, exponent % 32);
        let t = i128::from(term) << shift;
        self.limbs[limb] += (t & 0xffff_ffff) as i64;
        self.limbs[limb + 1] += ((t >> 32) & 0xffff_ffff) as i64;
        self.limbs[limb + 2] += (t >> 64) as i64;
        self.pending += 1;
        if self.pending == 1 << 30 {
            self.carry();
        }
    }

    /// Adds `count * scale_a * scale_b` for a group of elements that share both scales (f32 bits of bf16 values).
    #[inline]
    pub fn add_product(&mut self, count: i64, scale_a: u32, scale_b: u32) {
        if count != 0 && scale_a != 0 && scale_b != 0 {
            let ((ma, ea), (mb, eb)) = (scale_parts(scale_a), scale_parts(scale_b));
            self.add(count.wrapping_mul(ma * mb), ea + eb);
        }
    }

    /// The same, times `2^shift`.
    #[inline]
    pub fn add_shifted_product(&mut self, count: i64, scale_a: u32, scale_b: u32, shift: u32) {
        if count != 0 && scale_a != 0 && scale_b != 0 {
            let ((ma, ea), (mb, eb)) = (scale_parts(scale_a), scale_parts(scale_b));
            self.add(count.wrapping_mul(ma * mb), ea + eb + shift);
        }
    }

    /// Adds the square of a float given by its bits; a subnormal, an infinity and a NaN count as 0.
    #[inline]
    pub fn add_square(&mut self, x: u32) {
        let exponent = x >> 23 & 0xff;
        if exponent != 0 && exponent != 0xff {
            let mantissa = i64::from(x & 0x007f_ffff | 0x0080_0000);
            self.add_at(mantissa * mantissa, 2 * exponent + SUM_LOWEST - 300);
        }
    }

    /// The sum as words, lowest first, in two's complement: how it lies in memory.
    #[must_use]
    pub fn to_words(&self) -> [u32; SUM_WORDS] {
        let mut sum = self.clone();
        sum.carry();
        sum.limbs.map(|limb| limb as u32)
    }

    /// The sum that these words hold; missing words count as 0.
    #[must_use]
    pub fn from_words(words: &[u32]) -> Self {
        let mut sum = ExactSum::default();
        for (limb, &word) in sum.limbs.iter_mut().zip(words) {
            *limb = i64::from(word);
        }
        sum.limbs[SUM_WORDS - 1] = i64::from(sum.limbs[SUM_WORDS - 1] as i32);
        sum
    }

    /// Adds a count, an integer.
    #[inline]
    pub fn add_count(&mut self, count: u64) {
        self.add_at((count & 0xffff_ffff) as i64, SUM_LOWEST);
        self.add_at((count >> 32) as i64, SUM_LOWEST + 32);
    }

    /// A sum of counts as an integer, cut to 64 bits.
    #[must_use]
    pub fn to_count(&self) -> u64 {
        let words = self.to_words();
        let lowest = SUM_LOWEST as usize / 32;
        u64::from(words[lowest]) | u64::from(words[lowest + 1]) << 32
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        let mut other = other.clone();
        other.carry();
        self.carry();
        for (a, b) in self.limbs.iter_mut().zip(other.limbs) {
            *a += b;
        }
        self.carry();
    }

    /// Brings every limb but the last into 0..2^32.
    fn carry(&mut self) {
        for i in 0..SUM_WORDS - 1 {
            let c = self.limbs[i] >> 32;
            self.limbs[i] -= c << 32;
            self.limbs[i + 1] += c;
        }
        self.pending = 0;
    }

    /// The sum rounded once to f64, to nearest, ties to even.
    #[must_use]
    pub fn to_f64(&self) -> f64 {
        let mut sum = self.clone();
        sum.carry();
        let negative = sum.limbs[SUM_WORDS - 1] < 0;
        if negative {
            for l in &mut sum.limbs {
                *l = -*l;
            }
            sum.carry();
        }
        let Some(top) = (0..SUM_WORDS).rev().find(|&i| sum.limbs[i] != 0) else { return 0.0 };
        // The top three limbs hold at least 65 significant bits; the rest is sticky.
        let mut window: u128 = 0;
        for i in 0..3 {
            window = window << 32 | top.checked_sub(i).map_or(0, |at| sum.limbs[at] as u128);
        }
        let sticky = (0..top.saturating_sub(2)).any(|i| sum.limbs[i] != 0);
        let drop = 128 - 53 - window.leading_zeros();
        let kept = (window >> drop) as u64;
        let rest = window & ((1 << drop) - 1);
        let half = 1u128 << (drop - 1);
        let up = rest > half || (rest == half && (sticky || kept & 1 == 1));
        let exponent = drop as i32 + 32 * (top as i32 - 2) - SUM_LOWEST as i32;
        let x = (kept + u64::from(up)) as f64 * 2f64.powi(exponent);
        if negative { -x } else { x }
    }
}

/// Equal signs less opposite signs in two groups of 32 packed trits.
#[inline]
pub const fn dot_words(a: [u32; 2], b: [u32; 2]) -> i32 {
    let same = (a[0] & b[0]).count_ones() + (a[1] & b[1]).count_ones();
    let opposite = (a[0] & b[1]).count_ones() + (a[1] & b[0]).count_ones();
    same as i32 - opposite as i32
}

/// Nonzeros in a group of 32 packed trits; an invalid pair (both bits set) counts as zero, here as everywhere.
#[inline]
pub const fn nonzero_words(a: [u32; 2]) -> u32 {
    (a[0] ^ a[1]).count_ones()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, invalid pairs (both bits set) included: they are neither equal nor opposite to anything.
    #[test]
    fn words_trit_by_trit() {
        let words = [0u32, u32::MAX, 0x0f0f_3355, 0xf00f_cc01, 0x8000_0001];
        let trit = |w: [u32; 2], i: u32| (w[0] >> i & 1) as i32 - (w[1] >> i & 1) as i32;
        let pairs = || words.iter().flat_map(|p| words.map(|m| [*p, m]));
        for a in pairs() {
            assert_eq!(nonzero_words(a), (0..32).filter(|i| trit(a, *i) != 0).count() as u32, "{a:x?}");
            for b in pairs() {
                let want: i32 = (0..32).map(|i| trit(a, i) * trit(b, i)).sum();
                assert_eq!(dot_words(a, b), want, "{a:x?} {b:x?}");
            }
        }
    }

    #[test]
    fn a_product_with_a_zero_adds_nothing() {
        let (mut sum, one) = (ExactSum::default(), 1f32.to_bits());
        for (count, a, b) in [(3, 0, one), (3, one, 0), (0, one, one), (3, 0, 0)] {
            sum.add_product(count, a, b);
        }
        assert_eq!(sum, ExactSum::default());
    }

    #[test]
    fn words_hold_the_sum_and_squares_of_floats_are_exact() {
        let mut sum = ExactSum::default();
        for x in [1.5f32, -3.0, f32::MAX, f32::MIN_POSITIVE, 1e-40, f32::NAN, f32::INFINITY] {
            sum.add_square(x.to_bits());
        }
        assert_eq!(ExactSum::from_words(&sum.to_words()).to_f64(), f64::from(f32::MAX).powi(2));
        let mut other = ExactSum::default();
        other.add(-5, 268);
        assert_eq!(ExactSum::from_words(&other.to_words()).to_f64(), -5.0);
        let mut least = ExactSum::default();
        least.add_square(f32::MIN_POSITIVE.to_bits());
        assert_eq!(least.to_f64(), 2f64.powi(-252));
        let mut count = ExactSum::default();
        count.add_count((7 << 40) + 9);
        count.add_count(1);
        assert_eq!((count.to_count(), count.to_f64()), ((7 << 40) + 10, (7i64 << 40) as f64 + 10.0));
    }

    /// 2^30 terms of 2^32 - 1, all but the last put there at once: 2^62 - 2^30, half of what a limb can hold.
    #[test]
    fn limbs_are_carried_before_they_overflow() {
        let terms = 1i64 << 30;
        let mut sum = ExactSum { limbs: [0; SUM_WORDS], pending: (1 << 30) - 1 };
        sum.limbs[0] = (terms - 1) * 0xffff_ffff;
        sum.add_at(0xffff_ffff, 0);
        assert_eq!(sum.limbs[..3], [0xc000_0000, 0x3fff_ffff, 0]);
    }

    #[test]
    fn rounds_once_to_nearest_even() {
        for (terms, want) in [
            (vec![(1i64, 0u32)], 2f64.powi(-268)),
            (vec![(1, 508)], 2f64.powi(240)),
            (vec![((1 << 53) + 1, 268)], 9_007_199_254_740_992.0),
            (vec![((1 << 53) + 3, 268)], 9_007_199_254_740_996.0),
            (vec![((1 << 53) + 1, 268), (1, 10)], 9_007_199_254_740_994.0),
            (vec![(-5, 268), (2, 268)], -3.0),
            (vec![(i64::MAX, 508), (-i64::MAX, 508), (-7, 3)], -7.0 * 2f64.powi(-265)),
            (vec![], 0.0),
        ] {
            let mut s = ExactSum::default();
            for (t, e) in &terms {
                s.add(*t, *e);
            }
            assert_eq!(s.to_f64(), want, "{terms:?}");
            let mut merged = ExactSum::default();
            for (t, e) in terms.iter().rev() {
                let mut one = ExactSum::default();
                one.add(*t, *e);
                merged.merge(&one);
            }
            assert_eq!(merged.to_f64(), want, "merged {terms:?}");
        }
    }
}
