//! The moments of AdamW in 8 bits each: a small float for each, rounded stochastically, in integers alone.
//!
//! A block of [`MOMENT_BLOCK`] elements shares a scale, the power of two `2^(E - 127)` as bf16, `E` being one more than
//! the biased exponent of the block's largest second moment. An element has one 16-bit word: the code of the second
//! moment `v` in the upper byte, that of the first moment `m` in the lower.
//!
//! - **`v`: 5 bits of exponent and 3 of mantissa**, relative to the block's scale: code `8 e + f` stands for
//!   `(1 + f / 8) 2^(E - 158 + e)`, code 0 for 0. A `v` that is not 0 never gets code 0, so that no first moment is ever
//!   divided by a second that rounding made 0.
//! - **`m`: a sign, 3 bits of exponent and 4 of mantissa**, relative to the element's own coded `v`: steps of `1 / 16` of a
//!   power of two near `sqrt(v) / 8`, doubled from octave to octave. What a code can say is bounded by about
//!   `15.5 sqrt(v)` (at least `7.7`), which no sequence of gradients exceeds with the usual betas.
//!
//! Both are rounded stochastically by the element's one draw: their means are exact, and a `v` that should fall by less
//! than half a step falls as often as it must. Coding what was decoded gives the same code under any draw.
//!
//! Source: small floats with a floor, chosen by simulation against the published codes, which blow the update up by
//! 10^4 where a second moment rounds to 0 (Dettmers et al., 8-bit optimizers via block-wise quantization, 2022).

use super::constants::MIN_NORMAL;

/// Elements that share a scale of second moments.
pub const MOMENT_BLOCK: usize = 64;

/// Bits of an f32's mantissa below those that the code of a second moment keeps.
const SECOND_DROPPED: u32 = 20;
/// The same for a first moment.
const FIRST_DROPPED: u32 = 19;
/// The largest code of a second moment.
const SECOND_MAX: i64 = 255;
/// The largest code of a first moment, without its sign.
const FIRST_MAX: u32 = 127;

/// The scale of a block whose largest second moment has this magnitude, as bf16: 0 for 0, else `2^(E - 127)` with `E` the
/// biased exponent and one more, from 32 to 254.
///
/// # Examples
///
/// ```
/// use trigrad::numerics::moments::moment_scale;
/// assert_eq!(moment_scale(1.5f32.to_bits()), 0x4000); // 2
/// assert_eq!(moment_scale(0), 0);
/// ```
#[inline]
pub const fn moment_scale(largest: u32) -> u16 {
    if largest & 0x7fff_ffff == 0 {
        return 0;
    }
    let exponent = ((largest >> 23) & 0xff) + 1;
    let exponent = if exponent < 32 {
        32
    } else if exponent > 254 {
        254
    } else {
        exponent
    };
    (exponent << 7) as u16
}

/// What code 0 of a second moment would stand for if it did not stand for 0: `2^(E - 158)`, as f32 bits.
const fn base(scale: u16) -> u32 {
    ((scale as u32) << 16).wrapping_sub(31 << 23)
}

/// The code of a second moment: its magnitude rounded stochastically to 3 bits of mantissa, at least 1 and at most 255;
/// 0 for 0. `k` below 2^23.
#[inline]
pub const fn code_second(v: u32, scale: u16, k: u32) -> u32 {
    let v = v & 0x7fff_ffff;
    if v == 0 || scale == 0 {
        return 0;
    }
    let code = (v as i64 - base(scale) as i64 + (k >> (23 - SECOND_DROPPED)) as i64) >> SECOND_DROPPED;
    if code < 1 {
        1
    } else if code > SECOND_MAX {
        SECOND_MAX as u32
    } else {
        code as u32
    }
}

/// The second moment that a code stands for, as f32 bits: a normal number, or 0.
#[inline]
pub const fn second_moment(code: u32, scale: u16) -> u32 {
    if code == 0 || scale == 0 { 0 } else { (code << SECOND_DROPPED).wrapping_add(base(scale)) }
}

/// The biased exponent `L` of the first octave of the first moments beside a decoded second moment: below `2^(L - 127)`
/// steps are `2^(L - 131)`. It is `floor((e + 121) / 2)`, `e` being the exponent of `v`: an eighth of the root.
const fn lowest_octave(v: u32) -> u32 {
    ((v >> 23) + 121) >> 1
}

/// The code of a first moment beside the decoded second moment `v` (f32 bits both): sign and magnitude, the magnitude
/// rounded stochastically and at most 127. 0 beside a second moment of 0. `k` below 2^23.
#[inline]
pub const fn code_first(m: u32, v: u32, k: u32) -> u32 {
    let exponent = (m >> 23) & 0xff;
    if v == 0 || exponent == 0 {
        return 0;
    }
    let lowest = lowest_octave(v);
    let (octave, down) = if exponent > lowest { (exponent - lowest, 0) } else { (0, lowest - exponent) };
    let mantissa = (m & 0x007f_ffff | MIN_NORMAL) >> if down > 31 { 31 } else { down };
    let code = (octave << 4) + ((mantissa + (k >> (23 - FIRST_DROPPED))) >> FIRST_DROPPED);
    let code = if code > FIRST_MAX { FIRST_MAX } else { code };
    if code == 0 { 0 } else { (m >> 31 << 7) | code }
}

/// The first moment that a code stands for beside the decoded second moment `v`, as f32 bits.
///
/// Code `16 e + f` (without its sign) stands for `(1 + f / 16) 2^(L - 128 + e)` where `e` is not 0, and for
/// `f / 16 2^(L - 127)` where it is, `L` as in [`code_first`].
#[inline]
pub const fn first_moment(code: u32, v: u32) -> u32 {
    let (sign, code) = ((code & 0x80) << 24, code & 0x7f);
    if v == 0 || code == 0 {
        return sign;
    }
    let lowest = lowest_octave(v);
    if code >= 16 {
        return sign | (code << FIRST_DROPPED).wrapping_add((lowest - 1) << 23);
    }
    // The leading bit of 1 to 15, which lies `down` below that of 16.
    let down = code.leading_zeros() - 27;
    sign | (((lowest - down) << 23) + ((code << down & 15) << FIRST_DROPPED))
}

/// Both moments of an element, first and second, from its word and its block's scale.
#[inline]
pub const fn decode(word: u16, scale: u16) -> (f32, f32) {
    let v = second_moment(word as u32 >> 8, scale);
    (f32::from_bits(first_moment(word as u32 & 0xff, v)), f32::from_bits(v))
}

/// The word of an element with these moments: `k` is the draw that also rounds its weight.
///
/// # Examples
///
/// ```
/// use trigrad::numerics::moments::{decode, encode, moment_scale};
/// let scale = moment_scale(1.5f32.to_bits());
/// assert_eq!(decode(encode(-0.75, 1.5, scale, 0), scale), (-0.75, 1.5)); // both are codes: no draw can move them
/// assert_eq!(decode(encode(0.5, 1e-30, scale, 0), scale).1, 1.125 / (1u32 << 30) as f32); // the floor, and not 0
/// ```
#[inline]
pub const fn encode(m: f32, v: f32, scale: u16, k: u32) -> u16 {
    let second = code_second(v.to_bits(), scale, k);
    let first = code_first(m.to_bits(), second_moment(second, scale), k);
    (second << 8 | first) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the formulas of the module's page, in f64.
    fn by_formula(word: u16, scale: u16) -> (f64, f64) {
        let (e, f) = (f64::from(word >> 11), f64::from(word >> 8 & 7));
        let exponent = f64::from(scale >> 7);
        if word >> 8 == 0 {
            return (0.0, 0.0);
        }
        let v = (1.0 + f / 8.0) * (exponent - 158.0 + e).exp2();
        let lowest = ((v.log2().floor() + 248.0) / 2.0).floor();
        let (e, f) = (f64::from(word >> 4 & 7), f64::from(word & 15));
        let m =
            if e == 0.0 { f / 16.0 * (lowest - 127.0).exp2() } else { (1.0 + f / 16.0) * (lowest - 128.0 + e).exp2() };
        (if word & 0x80 == 0 { m } else { -m }, v)
    }

    const SCALES: [u16; 5] = [32 << 7, 33 << 7, 127 << 7, 128 << 7, 254 << 7];

    #[test]
    fn every_code_stands_for_what_the_formula_says() {
        for scale in SCALES {
            for word in 0..=u16::MAX {
                let (m, v) = decode(word, scale);
                assert_eq!((f64::from(m), f64::from(v)), by_formula(word, scale), "{word:04x} under {scale:04x}");
                assert!(m.is_finite() && v.is_finite() && (m == 0.0 || m.is_normal()) && (v == 0.0 || v.is_normal()));
            }
        }
    }

    /// So what is kept as it was keeps its code, whatever is drawn.
    #[test]
    fn coding_what_was_decoded_changes_nothing() {
        for scale in SCALES {
            for word in (0..=u16::MAX).filter(|word| word >> 8 != 0 && word & 0xff != 0x80) {
                let (m, v) = decode(word, scale);
                for k in [0, 0x2a_aaaa, 0x7f_ffff] {
                    assert_eq!(encode(m, v, scale, k), word, "{word:04x} under {scale:04x}");
                }
            }
        }
    }

    /// The mean over all draws, exactly, away from the ends of the range.
    #[test]
    fn rounding_has_the_exact_share_of_draws() {
        let scale = moment_scale(1.0f32.to_bits());
        for v in [1.0f32, 0.99, 0.7003, 1.9999, 3e-5, 1e-8] {
            let mean: f64 = (0..1u32 << 20)
                .map(|k| f64::from(f32::from_bits(second_moment(code_second(v.to_bits(), scale, k << 3), scale))))
                .sum::<f64>()
                / f64::from(1 << 20);
            assert!((mean / f64::from(v) - 1.0).abs() < 1e-9, "v = {v}: {mean}");
        }
        for v in [1.0f32, 2.0, 1e-30] {
            for m in [7.0f32, -1.03, 0.3, 0.1301, 0.01, -0.0001] {
                let m = m * v.sqrt();
                let mean: f64 = (0..1u32 << 19)
                    .map(|k| {
                        f64::from(f32::from_bits(first_moment(
                            code_first(m.to_bits(), v.to_bits(), k << 4),
                            v.to_bits(),
                        )))
                    })
                    .sum::<f64>()
                    / f64::from(1 << 19);
                // Below the lowest octave bits are dropped before the draw: less than 2^-19 of a step.
                assert!((mean - f64::from(m)).abs() < 2e-8 * f64::from(v).sqrt(), "m = {m} beside {v}: {mean}");
            }
        }
    }

    #[test]
    fn a_second_moment_is_0_only_where_it_is() {
        let scale = moment_scale(f32::MAX.to_bits());
        for v in [1u32, 0x007f_ffff, 0x0080_0000, 0x3f80_0000] {
            assert_eq!(code_second(v, scale, 0), 1);
        }
        assert_eq!(code_second(0, scale, 0x7f_ffff), 0);
        assert_eq!(code_second(f32::MAX.to_bits(), scale, 0x7f_ffff), 255);
        assert_eq!(moment_scale(1), 32 << 7, "a subnormal");
        assert_eq!(encode(1.0, 0.0, scale, 0), 0, "no first moment beside a second of 0");
    }

    /// At least 7.7 and less than 15.6 roots of the second moment, which is what AdamW with betas 0.9 and 0.999 can reach.
    #[test]
    fn first_moments_end_at_a_multiple_of_the_root() {
        for scale in SCALES {
            for second in 1..=255u32 {
                let v = second_moment(second, scale);
                let largest = f64::from(f32::from_bits(first_moment(code_first(f32::MAX.to_bits(), v, 0), v)));
                let ratio = largest / f64::from(f32::from_bits(v)).sqrt();
                assert!((7.7..15.6).contains(&ratio), "{ratio}");
            }
        }
    }
}
