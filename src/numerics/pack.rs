//! Packed layouts.
//!
//! **Planes** (the packed ternary tensor): pairs of u32 words. Pair `g` holds elements `32 g` to `32 g + 31`; word
//! `2 g` is the plus plane, word `2 g + 1` the minus plane, element `i` at bit `i mod 32`. Neither bit: 0; plus bit:
//! +1; minus bit: -1; both bits: invalid. All-zero memory is a zero gradient; bits past the last element are zero.
//!
//! **Fields** (levels and counts of 4, 8 or 16 bits): two's complement, element `i` in word `i / (32 / b)` at bit
//! `b (i mod (32 / b))`. Buffers hold whole groups of 32 elements, so they have `b` words a group; fields past the
//! last element are zero.
//!
//! **2-bit fields** (an exchange format): 16 a word, element `i` at bits `2 (i mod 16)`; 0 is 0, 1 is +1, 2 is -1,
//! 3 is invalid.

use super::constants::GROUP;

/// Words that `n` elements of `bits` bits take: `bits` words for each started group of 32 (planes count 2 bits).
///
/// # Examples
///
/// ```
/// use trigrad::numerics::pack::words;
/// assert_eq!(words(64, 2), 4); // one block of 64 in 16 bytes
/// assert_eq!(words(65, 4), 12);
/// ```
#[inline]
pub const fn words(n: usize, bits: u32) -> usize {
    n.div_ceil(GROUP).saturating_mul(bits as usize)
}

/// The trit of element `i` in planes; `None` where both bits are set.
///
/// 0 past the end of the planes, as the bits there are.
#[inline]
pub const fn trit(planes: &[u32], i: usize) -> Option<i8> {
    let (pair, bit) = (i / GROUP * 2, i % GROUP);
    if pair + 1 >= planes.len() {
        return Some(0);
    }
    match ((planes[pair] >> bit) & 1, (planes[pair + 1] >> bit) & 1) {
        (0, 0) => Some(0),
        (1, 0) => Some(1),
        (0, _) => Some(-1),
        _ => None,
    }
}

/// The plus and the minus word of up to 32 trits (more are left out); each is -1, 0 or +1 (the sign decides, so 5 counts as +1).
#[inline]
pub fn plane_words(trits: &[i8]) -> [u32; 2] {
    let mut w = [0; 2];
    for (bit, t) in trits.iter().take(GROUP).enumerate() {
        w[0] |= u32::from(*t > 0) << bit;
        w[1] |= u32::from(*t < 0) << bit;
    }
    w
}

/// Reads the field of element `i`, sign-extended; `bits` is 4, 8 or 16. 0 past the end.
#[inline]
pub const fn field(words: &[u32], bits: u32, i: usize) -> i32 {
    let Some((at, shift)) = place(words.len(), bits, i) else { return 0 };
    ((words[at] << (32 - bits - shift)) as i32) >> (32 - bits)
}

/// Writes the field of element `i`; `bits` is 4, 8 or 16 and `value` fits. Past the end nothing is written.
#[inline]
pub const fn set_field(words: &mut [u32], bits: u32, i: usize, value: i32) {
    let Some((at, shift)) = place(words.len(), bits, i) else { return };
    let mask = ((1u64 << bits) - 1) as u32;
    let word = &mut words[at];
    *word = (*word & !(mask << shift)) | ((value as u32 & mask) << shift);
}

/// Reads a level or count of any width: planes for 2 bits (an invalid pair reads as 0), fields for 4, 8 and 16.
#[inline]
pub const fn level(words: &[u32], bits: u32, i: usize) -> i32 {
    if bits == 2 {
        match trit(words, i) {
            Some(t) => t as i32,
            None => 0,
        }
    } else {
        field(words, bits, i)
    }
}

/// Writes a level or count of any width, in planes or fields.
#[inline]
pub const fn set_level(words: &mut [u32], bits: u32, i: usize, value: i32) {
    if bits == 2 {
        let (pair, bit) = (i / GROUP * 2, i % GROUP);
        if pair + 1 >= words.len() {
            return;
        }
        words[pair] = (words[pair] & !(1 << bit)) | (((value > 0) as u32) << bit);
        words[pair + 1] = (words[pair + 1] & !(1 << bit)) | (((value < 0) as u32) << bit);
    } else {
        set_field(words, bits, i, value);
    }
}

/// Planes to 2-bit fields for one group: 2 plane words become 2 field words (elements 0 to 15, 16 to 31).
#[inline]
pub const fn planes_to_fields(plus: u32, minus: u32) -> [u32; 2] {
    [spread(plus & 0xffff) | (spread(minus & 0xffff) << 1), spread(plus >> 16) | (spread(minus >> 16) << 1)]
}

/// 2-bit fields to planes for one group; field 3 (invalid) sets both bits, which stays invalid.
#[inline]
pub const fn fields_to_planes(fields: [u32; 2]) -> [u32; 2] {
    let plus = gather(fields[0]) | (gather(fields[1]) << 16);
    let minus = gather(fields[0] >> 1) | (gather(fields[1] >> 1) << 16);
    [plus, minus]
}

/// The word that holds field `i` and the field's lowest bit; `None` past the end.
#[inline]
const fn place(words: usize, bits: u32, i: usize) -> Option<(usize, u32)> {
    if bits == 0 || bits > 32 {
        return None;
    }
    let per = (32 / bits) as usize;
    if i / per < words { Some((i / per, bits * (i % per) as u32)) } else { None }
}

/// Bit `i` of 16 to bit `2 i`.
const fn spread(x: u32) -> u32 {
    let x = (x | (x << 8)) & 0x00ff_00ff;
    let x = (x | (x << 4)) & 0x0f0f_0f0f;
    let x = (x | (x << 2)) & 0x3333_3333;
    (x | (x << 1)) & 0x5555_5555
}

/// Bit `2 i` to bit `i`; odd bits are dropped.
const fn gather(x: u32) -> u32 {
    let x = x & 0x5555_5555;
    let x = (x | (x >> 1)) & 0x3333_3333;
    let x = (x | (x >> 2)) & 0x0f0f_0f0f;
    let x = (x | (x >> 4)) & 0x00ff_00ff;
    (x | (x >> 8)) & 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Past the end, or where half a pair of planes is missing, nothing is written.
    #[test]
    fn levels_past_the_end_are_not_written() {
        let mut half = [0u32; 1];
        set_level(&mut half, 2, 0, 1);
        set_level(&mut half, 2, 0, -1);
        set_level(&mut half, 4, 8, 7);
        assert_eq!(half, [0]);
    }

    #[test]
    fn planes_by_hand() {
        assert_eq!(plane_words(&[1, -1, 0, 5, -7]), [0b01001, 0b10010]);
        assert_eq!(plane_words(&[]), [0, 0]);
        assert_eq!(plane_words(&[-1; 32]), [0, u32::MAX]);
    }

    /// Any level after any other, with the neighbours as they were.
    #[test]
    fn a_level_is_overwritten_alone() {
        for bits in [2u32, 4, 8, 16] {
            let max = super::super::level::level_max(bits) as i32;
            for around in [-max, -1, 0, 1, max] {
                let mut w = vec![0; words(64, bits)];
                (0..64).for_each(|i| set_level(&mut w, bits, i, around));
                for i in [0, 1, 31, 32, 63] {
                    for to in [max, -max, 0, 1, -1, around] {
                        set_level(&mut w, bits, i, to);
                        assert!((0..64).all(|j| level(&w, bits, j) == if i == j { to } else { around }));
                    }
                }
            }
        }
    }

    #[test]
    fn fields_round_trip() {
        for bits in [2u32, 4, 8, 16] {
            let max = super::super::level::level_max(bits) as i32;
            let n = 67;
            let mut w = vec![0; words(n, bits)];
            let value = |i: usize| (i as i32 * 37 + 11) % (2 * max + 1) - max;
            for i in 0..n {
                set_level(&mut w, bits, i, -max);
                set_level(&mut w, bits, i, value(i));
            }
            for i in 0..n {
                assert_eq!(level(&w, bits, i), value(i), "{bits} bits, element {i}");
            }
        }
    }

    #[test]
    fn planes_and_two_bit_fields_convert_both_ways() {
        let (plus, minus) = (0x8001_f00fu32, 0x4aaa_0ff0 & !0x8001_f00f);
        let f = planes_to_fields(plus, minus);
        for i in 0..32 {
            let want = (plus >> i & 1) | (minus >> i & 1) << 1;
            assert_eq!(f[i / 16] >> (2 * (i % 16)) & 3, want, "element {i}");
        }
        assert_eq!(fields_to_planes(f), [plus, minus]);
    }
}
