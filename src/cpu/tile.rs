//! The tiles of the hot operations and what all their blocks share: what [`super::plain`] and [`super::simd`] work on.

use super::split::Tile;
use crate::numerics::constants::GROUP;
use crate::numerics::draw::Position;
use crate::op::Element;
use crate::op::quantize::Threshold;

/// How a tile is quantized, with the draws placed in their tensor.
#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    Stochastic { at: Position, clip: Option<u32> },
    Threshold(Threshold),
}

/// What decides the trits of one scale group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measure {
    /// The stored scale, as f32 bits; the one that stochastic decisions use.
    pub(super) scale: u32,
    /// Stochastic: magnitudes above this are clipped to it. Threshold: what lies above is kept.
    pub(super) limit: u32,
}

/// A run of elements of one tensor with its planes and scales.
pub(super) struct QuantizeTile<'a, T> {
    pub(super) x: &'a [T],
    pub(super) words: &'a mut [u32],
    pub(super) scales: &'a mut [u16],
    /// Index of `x[0]` in the tensor.
    pub(super) first: u64,
    /// Elements a scale group.
    pub(super) size: usize,
}

impl<T: Element> Tile for QuantizeTile<'_, T> {
    fn elements(&self) -> usize {
        self.x.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (x, y) = self.x.split_at(at);
        let (words, more_words) = self.words.split_at_mut(at / GROUP * 2);
        let (scales, more_scales) = self.scales.split_at_mut(at / self.size);
        let (first, size) = (self.first, self.size);
        (
            QuantizeTile { x, words, scales, first, size },
            QuantizeTile { x: y, words: more_words, scales: more_scales, first: first + at as u64, size },
        )
    }
}

/// What all blocks of an accumulation share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addition {
    /// Where the draws are made.
    pub(super) at: Position,
    /// Bits a level or count.
    pub(super) bits: u32,
    /// Elements a block.
    pub(super) block: usize,
    /// The weight, as f32 bits.
    pub(super) weight: u32,
}

impl Addition {
    /// Words of a level buffer that the first `at` elements take; `at` is a multiple of a block.
    pub(super) fn words(&self, at: usize) -> usize {
        at / GROUP * self.bits as usize
    }
}

/// Blocks to accumulate adaptively.
pub(super) struct AdaptiveTile<'a, T> {
    pub(super) x: &'a [T],
    pub(super) levels: &'a mut [u32],
    pub(super) scales: &'a mut [u16],
    /// Index of `x[0]` in the tensor.
    pub(super) first: u64,
    pub(super) how: Addition,
}

impl<T: Element> Tile for AdaptiveTile<'_, T> {
    fn elements(&self) -> usize {
        self.x.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (first, how) = (self.first, self.how);
        let (x, y) = self.x.split_at(at);
        let (levels, more_levels) = self.levels.split_at_mut(how.words(at));
        let (scales, more_scales) = self.scales.split_at_mut(at / how.block);
        (
            AdaptiveTile { x, levels, scales, first, how },
            AdaptiveTile { x: y, levels: more_levels, scales: more_scales, first: first + at as u64, how },
        )
    }
}

/// Blocks to accumulate exactly.
pub(super) struct ExactTile<'a, T> {
    pub(super) x: &'a [T],
    pub(super) counts: &'a mut [u32],
    pub(super) scales: &'a [u16],
    pub(super) seen: &'a mut [u16],
    /// Index of `x[0]` in the tensor.
    pub(super) first: u64,
    pub(super) how: Addition,
}

impl<T: Element> Tile for ExactTile<'_, T> {
    fn elements(&self) -> usize {
        self.x.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (first, how) = (self.first, self.how);
        let (x, y) = self.x.split_at(at);
        let (counts, more_counts) = self.counts.split_at_mut(how.words(at));
        let (scales, more_scales) = self.scales.split_at(at / how.block);
        let (seen, more_seen) = self.seen.split_at_mut(at / how.block);
        (
            ExactTile { x, counts, scales, seen, first, how },
            ExactTile {
                x: y,
                counts: more_counts,
                scales: more_scales,
                seen: more_seen,
                first: first + at as u64,
                how,
            },
        )
    }
}

/// What all blocks of a read-out share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) bits: u32,
    pub(super) block: usize,
    pub(super) factor: f32,
}

/// Blocks to read out.
pub(super) struct ReadOutTile<'a, T> {
    pub(super) levels: &'a [u32],
    pub(super) scales: &'a [u16],
    pub(super) out: &'a mut [T],
    pub(super) how: Reading,
}

impl<T: Element> Tile for ReadOutTile<'_, T> {
    fn elements(&self) -> usize {
        self.out.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let how = self.how;
        let (levels, more_levels) = self.levels.split_at(at / GROUP * how.bits as usize);
        let (scales, more_scales) = self.scales.split_at(at / how.block);
        let (out, more) = self.out.split_at_mut(at);
        (
            ReadOutTile { levels, scales, out, how },
            ReadOutTile { levels: more_levels, scales: more_scales, out: more, how },
        )
    }
}
