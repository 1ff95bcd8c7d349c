//! Reductions over packed data, without unpacking: exact sums, rounded to f64 once.

use super::accumulate::bits_among;
use super::{Grouping, length};
use crate::error::Result;
use crate::numerics::pack::words;

/// The dot product of two packed tensors of `n` elements and the same grouping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dot {
    /// Which elements share a scale.
    pub grouping: Grouping,
    /// Elements.
    pub n: usize,
}

impl Dot {
    /// Checks lengths: words and scales of each side.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`] or [`crate::Error::Alignment`].
    pub fn validate(&self, words_a: usize, scales_a: usize, words_b: usize, scales_b: usize) -> Result<()> {
        self.grouping.validate(self.n)?;
        length("words of the left side", words(self.n, 2), words_a)?;
        length("words of the right side", words(self.n, 2), words_b)?;
        length("scales of the left side", self.grouping.groups(self.n), scales_a)?;
        length("scales of the right side", self.grouping.groups(self.n), scales_b)
    }
}

/// The squared norm of packed trits (2 bits), levels or counts of `n` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SquaredNorm {
    /// Bits an element: 2, 4, 8 or 16.
    pub bits: u32,
    /// Which elements share a scale.
    pub grouping: Grouping,
    /// Elements.
    pub n: usize,
}

impl SquaredNorm {
    /// Checks parameters and lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::BitWidth`], [`crate::Error::Length`] or [`crate::Error::Alignment`].
    pub fn validate(&self, levels: usize, scales: usize) -> Result<()> {
        bits_among(self.bits, super::read_out::BITS)?;
        self.grouping.validate(self.n)?;
        length("levels", words(self.n, self.bits), levels)?;
        length("scales", self.grouping.groups(self.n), scales)
    }
}
