//! Reductions over packed data: integer counts a group and tile, added exactly.

use super::split::TILE;
use crate::error::Result;
use crate::numerics::constants::GROUP;
use crate::numerics::float::{bf16_to_f32, magnitude};
use crate::numerics::pack::level;
use crate::numerics::reduce::{ExactSum, dot_words, nonzero_words};
use crate::op::length;
use crate::op::reduce::{Dot, SquaredNorm};
use rayon::prelude::*;
use std::ops::Range;

pub(super) fn count_nonzero(words: &[u32]) -> Result<u64> {
    length("words", words.len().next_multiple_of(2), words.len())?;
    let count = |words: &[u32]| words.chunks_exact(2).map(|p| u64::from(nonzero_words([p[0], p[1]]))).sum::<u64>();
    Ok(words.par_chunks(TILE / GROUP * 2).map(count).sum())
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
        let squares: i64 = if op.bits == 2 {
            pairs(levels, piece).map(|p| i64::from(nonzero_words(p))).sum()
        } else {
            piece.map(|i| i64::from(level(levels, op.bits, i)).pow(2)).sum()
        };
        let s = scale(scales, group);
        sum.add_product(squares, s, s);
    });
    Ok(sum.to_f64())
}

/// Adds up the pieces into which scale groups and tiles cut `0..n`: at most a tile long, so that the integer of a
/// piece fits (2^16 squares of 30 bits each, times two scale mantissas).
fn sum_pieces(n: usize, size: usize, add: impl Fn(&mut ExactSum, usize, Range<usize>) + Sync) -> ExactSum {
    let tile = |t: usize| {
        let (mut at, end) = (t * TILE, ((t + 1) * TILE).min(n));
        let mut sum = ExactSum::default();
        while at < end {
            let next = (at + size - at % size).min(end);
            add(&mut sum, at / size, at..next);
            at = next;
        }
        sum
    };
    let merge = |mut a: ExactSum, b: ExactSum| {
        a.merge(&b);
        a
    };
    (0..n.div_ceil(TILE)).into_par_iter().map(tile).reduce(ExactSum::default, merge)
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
