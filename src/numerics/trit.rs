//! The two ways an element becomes a trit.

use super::constants::MIN_NORMAL;

/// The stochastic decision: whether an element of magnitude `m` becomes +-1 under scale `s` with draw `k`.
///
/// Kept if and only if `u s < |x|` over the reals, with `u = (2 k + 1) / 2^24`; so the maximum of a block is always
/// kept, zero never, and the share of the 2^23 draws that keep differs from `|x| / s` by at most 2^-24.
/// A magnitude above the scale is kept; a zero scale keeps nothing.
///
/// Computed in integers. With mantissas `mx` (24 bits) and `ms` (8 bits) and `d` the difference of the exponents,
/// `u s < |x|` reads `(2 k + 1) ms < mx 2^(8 - d)`, and the left side is an integer below 2^32, so the right one may
/// be replaced by the integer below it. On hardware with a fused multiply-add, `fma(u, s, -|x|) < 0` is the same
/// decision: `u` and `s` are exact and a single rounding keeps the sign.
///
/// `m`: magnitude bits, in range; `s`: a bf16 as f32 bits, 0 or from 2^-97 up; `k` below 2^23.
#[inline]
pub const fn keep(m: u32, s: u32, k: u32) -> bool {
    if s == 0 || m < MIN_NORMAL {
        return false;
    }
    if m >= s {
        return true;
    }
    let d = (s >> 23) - (m >> 23);
    if d > 31 {
        return false;
    }
    let left = k.wrapping_mul(2).wrapping_add(1).wrapping_mul(((s >> 16) & 0x7f) | 0x80);
    let right = (m << 8) | 0x8000_0000;
    left <= (right - 1) >> d
}

/// The threshold decision: kept if and only if `|x| > t`, by comparing magnitude bits.
#[inline]
pub const fn above(m: u32, t: u32) -> bool {
    m > t
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the 2^23 draws keep: the decision is monotone in the draw, so a binary search finds the edge,
    /// and `share_is_monotone` below enumerates to show that it is.
    fn kept(m: u32, s: u32) -> u32 {
        let (mut lo, mut hi) = (0u32, 1 << 23);
        while lo < hi {
            let mid = lo.midpoint(hi);
            if keep(m, s, mid) { lo = mid + 1 } else { hi = mid }
        }
        lo
    }

    #[test]
    fn expectation_is_within_2_to_minus_24_by_enumeration() {
        // Every bf16 mantissa of the scale, and magnitudes over all exponent differences.
        for ms in 0..128u32 {
            let s = (127 << 23) | (ms << 16);
            for d in 0..40u32 {
                for mx in [0u32, 1, 0x155_555, 0x2aa_aaa, 0x400_000, 0x6f0_f0f, 0x7ff_fff, ms << 16] {
                    let m = ((127 - d) << 23) | mx;
                    if m > s {
                        continue;
                    }
                    let want = f64::from(f32::from_bits(m)) / f64::from(f32::from_bits(s));
                    let share = f64::from(kept(m, s)) / f64::from(1u32 << 23);
                    assert!((share - want).abs() <= 1.0 / f64::from(1u32 << 24), "m {m:08x} s {s:08x}: {share} {want}");
                }
            }
        }
    }

    #[test]
    fn share_is_monotone_and_equals_the_fused_form_over_every_draw() {
        for (m, s) in [(0x3f00_0001u32, 0x3f81_0000u32), (0x3e12_3456, 0x3fff_0000), (0x3700_0000, 0x3f80_0000)] {
            let edge = kept(m, s);
            for k in 0..1u32 << 23 {
                let u = f64::from(2 * k + 1) / f64::from(1u32 << 24);
                let exact = u * f64::from(f32::from_bits(s)) < f64::from(f32::from_bits(m)); // 24 + 8 bits: exact
                assert_eq!(keep(m, s, k), k < edge);
                assert_eq!(keep(m, s, k), exact, "k {k}");
            }
        }
    }

    /// `u s = |x|` is not below: the first draw stands for 2^-24, and 2^-24 of the scale is not kept under it.
    #[test]
    fn equality_is_not_kept() {
        let s = 0x3f81_0000;
        let m = s - (24 << 23);
        assert_eq!([keep(m - 1, s, 0), keep(m, s, 0), keep(m + 1, s, 0)], [false, false, true]);
    }

    #[test]
    fn edges() {
        let last = (1 << 23) - 1;
        assert!(keep(0x3f80_0000, 0x3f80_0000, last), "the maximum is always kept");
        assert!(!keep(0, 0x3f80_0000, 0), "zero is never kept");
        assert!(!keep(0x7000_0000, 0, 0), "a zero scale keeps nothing");
        assert!(keep(0x3f80_0001, 0x3f80_0000, last), "what lies above the scale is kept");
    }
}
