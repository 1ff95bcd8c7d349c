//! Reductions: exact sums, left on the device until they are asked for.
//!
//! A sum is a wide integer of [`SUM_WORDS`] words ([`crate::numerics::reduce`]). Every item adds to the slot of the sums that it
//! names, so that one slot may hold the norm of a whole model. Nothing is rounded before [`read_sums`].

use super::accumulate::bits_among;
use super::item::item;
use super::{Grouping, length, operation};
use crate::error::Result;
use crate::memory::Memory;
use crate::numerics::pack::words;
use crate::numerics::reduce::{ExactSum, SUM_WORDS};

/// Copies sums to the host; waits for the device. For an f64 rounded once take [`ExactSum::to_f64`], for a count
/// [`ExactSum::to_count`].
///
/// # Errors
///
/// [`crate::Error::Length`] where these are no whole slots; what the device reports.
pub fn read_sums<M: Memory + ?Sized>(memory: &M, sums: M::View<'_, u32>) -> Result<Vec<ExactSum>> {
    let len = M::len(&sums);
    length("words of the sums", len.next_multiple_of(SUM_WORDS), len)?;
    Ok(memory.download(sums)?.chunks_exact(SUM_WORDS).map(ExactSum::from_words).collect())
}

/// Nonzero trits in planes. An invalid pair counts as zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountNonzero;

impl CountNonzero {
    /// Checks the parameters: there are none.
    ///
    /// # Errors
    ///
    /// None.
    pub const fn validate(&self) -> Result<()> {
        Ok(())
    }
}

item! {
    /// One tensor to count in.
    pub struct CountNonzeroItem {
        /// Planes: an even number of words.
        words: read(u32),
        /// The slot of the sums that is added to.
        sum: sum,
    }
}

impl<M: Memory + ?Sized> CountNonzeroItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`].
    pub fn validate(&self, _: &CountNonzero) -> Result<()> {
        let words = M::len(&self.words);
        length("words", words.next_multiple_of(2), words)
    }
}

operation!(CountNonzero, "count_nonzero", CountNonzeroItem, Sums);

/// The dot product of two packed tensors of the same grouping: the sum of `t_a s_a t_b s_b`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dot {
    /// Which elements share a scale.
    pub grouping: Grouping,
}

impl Dot {
    /// Checks the parameters: any will do.
    ///
    /// # Errors
    ///
    /// None.
    pub const fn validate(&self) -> Result<()> {
        Ok(())
    }
}

item! {
    /// Two tensors of `n` elements.
    pub struct DotItem {
        /// Elements.
        n: value(usize),
        /// Planes of the left side: `2 ceil(n / 32)` words.
        words_a: read(u32),
        /// bf16 scales of the left side: `grouping.groups(n)`.
        scales_a: read(u16),
        /// Planes of the right side.
        words_b: read(u32),
        /// bf16 scales of the right side.
        scales_b: read(u16),
        /// The slot of the sums that is added to.
        sum: sum,
    }
}

impl<M: Memory + ?Sized> DotItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`] or [`crate::Error::Rows`].
    pub fn validate(&self, op: &Dot) -> Result<()> {
        op.grouping.validate(self.n)?;
        length("words of the left side", words(self.n, 2), M::len(&self.words_a))?;
        length("words of the right side", words(self.n, 2), M::len(&self.words_b))?;
        length("scales of the left side", op.grouping.groups(self.n), M::len(&self.scales_a))?;
        length("scales of the right side", op.grouping.groups(self.n), M::len(&self.scales_b))
    }
}

operation!(Dot, "dot", DotItem, Sums);

/// The squared norm of packed trits (2 bits), levels or counts: the sum of `(l s)^2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SquaredNorm {
    /// Bits an element: 2, 4, 8, 16 or 32.
    pub bits: u32,
    /// Which elements share a scale.
    pub grouping: Grouping,
}

impl SquaredNorm {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`crate::Error::BitWidth`].
    pub fn validate(&self) -> Result<()> {
        bits_among(self.bits, super::read_out::BITS)
    }
}

item! {
    /// One tensor of `n` elements.
    pub struct SquaredNormItem {
        /// Elements.
        n: value(usize),
        /// Planes, levels or counts: `bits ceil(n / 32)` words.
        levels: read(u32),
        /// bf16 scales: `grouping.groups(n)`.
        scales: read(u16),
        /// The slot of the sums that is added to.
        sum: sum,
    }
}

impl<M: Memory + ?Sized> SquaredNormItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`] or [`crate::Error::Rows`].
    pub fn validate(&self, op: &SquaredNorm) -> Result<()> {
        op.grouping.validate(self.n)?;
        length("levels", words(self.n, op.bits), M::len(&self.levels))?;
        length("scales", op.grouping.groups(self.n), M::len(&self.scales))
    }
}

operation!(SquaredNorm, "squared_norm", SquaredNormItem, Sums);

/// The squared norm of floats: the sum of `x^2`. Subnormal, infinite and NaN elements count as 0: sums held in f32 have
/// none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SquaredNormF32;

impl SquaredNormF32 {
    /// Checks the parameters: there are none.
    ///
    /// # Errors
    ///
    /// None.
    pub const fn validate(&self) -> Result<()> {
        Ok(())
    }
}

item! {
    /// One tensor of floats.
    pub struct SquaredNormF32Item {
        /// The elements.
        x: read(f32),
        /// The slot of the sums that is added to.
        sum: sum,
    }
}

impl<M: Memory + ?Sized> SquaredNormF32Item<'_, M> {
    /// Checks lengths: any will do.
    ///
    /// # Errors
    ///
    /// None.
    pub const fn validate(&self, _: &SquaredNormF32) -> Result<()> {
        Ok(())
    }
}

operation!(SquaredNormF32, "squared_norm_f32", SquaredNormF32Item, Sums);
