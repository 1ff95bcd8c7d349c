//! Reductions over packed data: integer counts a group and tile, added exactly.

use super::split::{TILE, fold};
use crate::error::Result;
use crate::numerics::constants::GROUP;
use crate::numerics::float::{bf16_to_f32, magnitude};
use crate::numerics::pack::field;
use crate::numerics::reduce::{ExactSum, dot_words, nonzero_words};
use crate::op::length;
use crate::op::reduce::{Dot, SquaredNorm};
use std::ops::Range;

pub(super) fn count_nonzero(words: &[u32]) -> Result<u64> {
    length("words", words.len().next_multiple_of(2), words.len())?;
    let count = |groups: Range<usize>| -> u64 {
        let words = words.get(2 * groups.start..2 * groups.end).unwrap_or_default();
        words.chunks_exact(2).map(|p| u64::from(nonzero_words([p[0], p[1]]))).sum()
    };
    Ok(fold(0..words.len() / 2, TILE / GROUP, &count, &|a, b| a + b))
}

pub(super) fn dot(op: &Dot, words_a: &[u32], scales_a: &[u16], words_b: &[u32], scales_b: &[u16]) -> Result<f64> {
    op.validate(words_a.len(), scales_a.len(), words_b.len(), scales_b.len())?;
    let sum = sum_pieces(op.n, op.grouping.size(op.n), |sum, group, piece| {
        let count = pairs(words_a, piece.clone()).zip(pairs(words_b, piece)).map(|(a, b)| i64::from(dot_words(a, b)));
        sum.add_product(count.sum(), scale(scales_a, group), scale(scales_b, group));
    });
    Ok(sum.to_f64())
}

pub(super) fn squared_norm(op: &SquaredNorm, levels: &[u32], scales: &[u16]) -> Result<f64> {
    op.validate(levels.len(), scales.len())?;
    let sum = sum_pieces(op.n, op.grouping.size(op.n), |sum, group, piece| {
        let squares = match op.bits {
            2 => pairs(levels, piece).map(|p| i64::from(nonzero_words(p))).sum(),
            4 => squares::<4>(levels, piece),
            8 => squares::<8>(levels, piece),
            _ => squares::<16>(levels, piece),
        };
        let s = scale(scales, group);
        sum.add_product(squares, s, s);
    });
    Ok(sum.to_f64())
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
