//! Reductions, element by element.

use super::Reference;
use crate::error::Result;
use crate::numerics::float::{bf16_to_f32, magnitude};
use crate::numerics::pack::{level, trit};
use crate::numerics::reduce::{ExactSum, SUM_WORDS};
use crate::op::reduce::{CountNonzero, Dot, SquaredNorm, SquaredNormF32};
use crate::op::{Checked, Element, Launch};

/// Adds to a slot of the sums.
fn into(sums: &mut [u32], slot: usize, add: impl FnOnce(&mut ExactSum)) {
    let words = &mut sums[slot * SUM_WORDS..(slot + 1) * SUM_WORDS];
    let mut sum = ExactSum::from_words(words);
    add(&mut sum);
    words.copy_from_slice(&sum.to_words());
}

/// A scale, whose sign does not matter to a sum.
fn scale(scales: &[u16], group: usize) -> u32 {
    magnitude(bf16_to_f32(scales[group]))
}

impl Launch<CountNonzero> for Reference {
    /// An invalid pair counts as zero.
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, CountNonzero, T>) -> Result<()> {
        let (_, items, sums) = work.into_parts();
        for item in items {
            let nonzero = (0..item.words.len() * 16).filter(|&i| trit(item.words, i).unwrap_or(0) != 0).count();
            into(sums, item.sum, |sum| sum.add_count(nonzero as u64));
        }
        Ok(())
    }
}

impl Launch<Dot> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Dot, T>) -> Result<()> {
        let (op, items, sums) = work.into_parts();
        for item in items {
            let size = op.grouping.size(item.n);
            into(sums, item.sum, |sum| {
                for i in 0..item.n {
                    let product = i64::from(level(item.words_a, 2, i)) * i64::from(level(item.words_b, 2, i));
                    sum.add_product(product, scale(item.scales_a, i / size), scale(item.scales_b, i / size));
                }
            });
        }
        Ok(())
    }
}

impl Launch<SquaredNorm> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, SquaredNorm, T>) -> Result<()> {
        let (op, items, sums) = work.into_parts();
        for item in items {
            let size = op.grouping.size(item.n);
            into(sums, item.sum, |sum| {
                for i in 0..item.n {
                    let (l, s) = (level(item.levels, op.bits, i), scale(item.scales, i / size));
                    // The square of a 32-bit level times two mantissas has up to 78 bits: the halves of the level apart.
                    let (high, low) = (i64::from(l.unsigned_abs() >> 16), i64::from(l.unsigned_abs() & 0xffff));
                    sum.add_product(low * low, s, s);
                    sum.add_shifted_product(2 * high * low, s, s, 16);
                    sum.add_shifted_product(high * high, s, s, 32);
                }
            });
        }
        Ok(())
    }
}

impl Launch<SquaredNormF32> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, SquaredNormF32, T>) -> Result<()> {
        let (_, items, sums) = work.into_parts();
        for item in items {
            into(sums, item.sum, |sum| item.x.iter().for_each(|x| sum.add_square(x.to_bits())));
        }
        Ok(())
    }
}
