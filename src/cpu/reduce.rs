//! Reductions over packed data: integer counts a group and tile, added exactly.

use super::Cpu;
use super::split::{TILE, fold};
use crate::error::Result;
use crate::numerics::constants::GROUP;
use crate::numerics::float::{bf16_to_f32, magnitude};
use crate::numerics::pack::field;
use crate::numerics::reduce::{ExactSum, SUM_WORDS, dot_words, nonzero_words};
use crate::op::reduce::{
    CountNonzero, CountNonzeroItem, Dot, DotItem, SquaredNorm, SquaredNormF32, SquaredNormF32Item, SquaredNormItem,
};
use crate::op::{Checked, Launch};
use crate::types::Element;
use rayon::prelude::*;
use std::ops::Range;

impl Launch<CountNonzero> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, CountNonzero, T>) -> Result<()> {
        let (_, items, sums) = work.into_parts();
        let count = |words: &[u32]| {
            let count = |groups: Range<usize>| -> u64 {
                let words = words.get(2 * groups.start..2 * groups.end).unwrap_or_default();
                words.chunks_exact(2).map(|p| u64::from(nonzero_words([p[0], p[1]]))).sum()
            };
            fold(0..words.len() / 2, TILE / GROUP, &count, &|a, b| a + b)
        };
        add_all(
            items,
            sums,
            |i| i.sum,
            |i: &CountNonzeroItem<'_, Cpu>| {
                let mut sum = ExactSum::default();
                sum.add_count(count(i.words));
                sum
            },
        );
        Ok(())
    }
}

impl Launch<Dot> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Dot, T>) -> Result<()> {
        let (op, items, sums) = work.into_parts();
        add_all(
            items,
            sums,
            |i| i.sum,
            |i: &DotItem<'_, Cpu>| {
                sum_pieces(i.n, op.grouping.size(i.n), |sum, group, piece| {
                    let each = pairs(i.words_a, piece.clone()).zip(pairs(i.words_b, piece));
                    let count = each.map(|(a, b)| i64::from(dot_words(a, b))).sum();
                    sum.add_product(count, scale(i.scales_a, group), scale(i.scales_b, group));
                })
            },
        );
        Ok(())
    }
}

impl Launch<SquaredNorm> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, SquaredNorm, T>) -> Result<()> {
        let (op, items, sums) = work.into_parts();
        add_all(
            items,
            sums,
            |i| i.sum,
            |i: &SquaredNormItem<'_, Cpu>| {
                sum_pieces(i.n, op.grouping.size(i.n), |sum, group, piece| {
                    let s = scale(i.scales, group);
                    let squares = match op.bits {
                        2 => pairs(i.levels, piece).map(|p| i64::from(nonzero_words(p))).sum(),
                        4 => squares::<4>(i.levels, piece),
                        8 => squares::<8>(i.levels, piece),
                        16 => squares::<16>(i.levels, piece),
                        _ => return fine_squares(sum, i.levels.get(piece).unwrap_or_default(), s),
                    };
                    sum.add_product(squares, s, s);
                })
            },
        );
        Ok(())
    }
}

/// Squares of 32-bit counts, whose sum would not fit 64 bits: each is added in two parts.
fn fine_squares(sum: &mut ExactSum, counts: &[u32], scale: u32) {
    for &count in counts {
        let square = i64::from(count as i32).pow(2);
        sum.add_product(square & 0xffff_ffff, scale, scale);
        sum.add_shifted_product(square >> 32, scale, scale, 32);
    }
}

impl Launch<SquaredNormF32> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, SquaredNormF32, T>) -> Result<()> {
        let (_, items, sums) = work.into_parts();
        add_all(
            items,
            sums,
            |i| i.sum,
            |i: &SquaredNormF32Item<'_, Cpu>| {
                sum_pieces(i.x.len(), TILE, |sum, _, piece| {
                    i.x.get(piece).unwrap_or_default().iter().for_each(|x| sum.add_square(x.to_bits()));
                })
            },
        );
        Ok(())
    }
}

/// Adds what each item comes to into its slot of the sums.
fn add_all<I: Sync>(
    items: &[I],
    sums: &mut [u32],
    slot: impl Fn(&I) -> usize,
    of: impl Fn(&I) -> ExactSum + Sync + Send,
) {
    let found: Vec<ExactSum> = items.par_iter().map(of).collect();
    for (item, found) in items.iter().zip(found) {
        let at = slot(item) * SUM_WORDS;
        if let Some(words) = sums.get_mut(at..at + SUM_WORDS) {
            let mut sum = ExactSum::from_words(words);
            sum.merge(&found);
            words.copy_from_slice(&sum.to_words());
        }
    }
}

/// Squares of the fields of a range: whole groups word by word, the rest field by field.
fn squares<const BITS: u32>(words: &[u32], range: Range<usize>) -> i64 {
    let one = |i| i64::from(field(words, BITS, i)).pow(2);
    let (start, end) = (range.start.next_multiple_of(GROUP), range.end / GROUP * GROUP);
    if start >= end {
        return range.map(one).sum();
    }
    let whole = words.get(start / GROUP * BITS as usize..end / GROUP * BITS as usize).unwrap_or_default();
    let of_word = |&w: &u32| -> i64 {
        (0..32 / BITS).map(|j| i64::from(((w << (32 - BITS * (j + 1))) as i32 >> (32 - BITS)).pow(2))).sum()
    };
    whole.iter().map(of_word).sum::<i64>() + (range.start..start).chain(end..range.end).map(one).sum::<i64>()
}

/// Adds up the pieces into which scale groups and tiles cut `0..n`: at most a tile long, so that the integer of a
/// piece fits (2^16 squares of 30 bits each, times two scale mantissas).
fn sum_pieces(n: usize, size: usize, add: impl Fn(&mut ExactSum, usize, Range<usize>) + Sync) -> ExactSum {
    let tile = |tile: Range<usize>| {
        let mut at = tile.start;
        let mut sum = ExactSum::default();
        while at < tile.end {
            let next = (at + size - at % size).min(tile.end);
            add(&mut sum, at / size, at..next);
            at = next;
        }
        sum
    };
    let merge = |mut a: ExactSum, b: ExactSum| {
        a.merge(&b);
        a
    };
    fold(0..n, TILE, &tile, &merge)
}

/// Plane pairs that hold the elements of a range, with all others masked off.
fn pairs(words: &[u32], range: Range<usize>) -> impl Iterator<Item = [u32; 2]> {
    (range.start / GROUP..range.end.div_ceil(GROUP)).map(move |g| {
        let low = range.start.saturating_sub(g * GROUP);
        let high = range.end.saturating_sub(g * GROUP).min(GROUP);
        let mask = (((1u64 << high) - 1) as u32) & (u32::MAX << low);
        match words.get(2 * g..2 * g + 2) {
            Some(p) => [p[0] & mask, p[1] & mask],
            None => [0; 2],
        }
    })
}

/// A scale as f32 bits; its sign cannot matter to a product of magnitudes and is dropped.
fn scale(scales: &[u16], group: usize) -> u32 {
    scales.get(group).map_or(0, |&s| magnitude(bf16_to_f32(s)))
}
