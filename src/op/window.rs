//! Windows of exact counts: where their scales come from, and how two of them become one.

use super::accumulate::{EXACT_BITS, bits_among, counts_fit, headroom_in_range};
use super::item::item;
use super::{BlockSize, Element, finite, length, operation};
use crate::error::Result;
use crate::memory::Memory;

/// A first look: the block maxima of `weight g`, as bf16 rounded up, joined into `seen` by maximum. Nothing is
/// accumulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Elements a block.
    pub block: BlockSize,
    /// What the gradient is multiplied by first.
    pub weight: f32,
}

impl Look {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Parameter`] for a weight that is not finite.
    pub fn validate(&self) -> Result<()> {
        finite("weight", self.weight)
    }
}

item! {
    /// One tensor to look at. `n` is the length of `x`.
    pub struct LookItem<T> {
        /// The gradient.
        x: read(T),
        /// Block maxima, one a block, read and written.
        seen: write(u16),
        /// The slot of the reports that takes what is found.
        report: report,
    }
}

impl<M: Memory + ?Sized, T: Element> LookItem<'_, M, T> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`].
    pub fn validate(&self, op: &Look) -> Result<()> {
        length("seen", op.block.blocks(M::len(&self.x)), M::len_mut(&self.seen))
    }
}

operation!(Look, "look", LookItem<T>, Found);

/// The scales of a window from the maxima of the window before, or of a first look:
/// [`crate::numerics::scale::window_scale`] of each. A maximum of 0 means that the block was not seen: its scale stays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowScales {
    /// What the maxima are multiplied by, above 0.
    pub headroom: f32,
    /// Bits a count: in 32 bits the scale is the size of one fine level ([`crate::numerics::scale::fine_scale`]).
    pub bits: u32,
}

impl WindowScales {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Parameter`] for a headroom that is not finite and above 0; [`crate::Error::BitWidth`].
    pub fn validate(&self) -> Result<()> {
        bits_among(self.bits, EXACT_BITS)?;
        headroom_in_range(self.headroom)
    }
}

item! {
    /// The maxima and scales of one tensor.
    pub struct WindowScalesItem {
        /// bf16 maxima, one a block.
        seen: read(u16),
        /// bf16 scales, one a block, written where the block was seen.
        scales: write(u16),
    }
}

impl<M: Memory + ?Sized> WindowScalesItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`].
    pub fn validate(&self, _: &WindowScales) -> Result<()> {
        length("scales", M::len(&self.seen), M::len_mut(&self.scales))
    }
}

operation!(WindowScales, "window_scales", WindowScalesItem, Nothing);

/// Compares the scales of two windows: counts under different ones do not add up. Blocks that differ are reported, with
/// the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompareScales;

impl CompareScales {
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
    /// The scales of one tensor in two windows.
    pub struct CompareScalesItem {
        /// bf16 scales, one a block.
        a: read(u16),
        /// The same number of scales.
        b: read(u16),
        /// The slot of the reports in which blocks that differ are counted as `non_finite`.
        report: report,
    }
}

impl<M: Memory + ?Sized> CompareScalesItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`].
    pub fn validate(&self, _: &CompareScales) -> Result<()> {
        length("scales", M::len(&self.a), M::len(&self.b))
    }
}

operation!(CompareScales, "compare_scales", CompareScalesItem, Found);

/// Adds a window of counts to another of the same scales: counts field by field, maxima by the larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Bits a count: 4, 8, 16 or 32.
    pub bits: u32,
    /// Micro-batches in the counts added to.
    pub held: u32,
    /// Micro-batches in the counts that are added.
    pub added: u32,
}

impl Merge {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`crate::Error::BitWidth`], [`crate::Error::Limit`] where the sum could overflow.
    pub fn validate(&self) -> Result<()> {
        bits_among(self.bits, EXACT_BITS)?;
        counts_fit(self.bits, u64::from(self.held) + u64::from(self.added))
    }
}

item! {
    /// The counts and maxima of one tensor in two windows.
    pub struct MergeItem {
        /// The counts that are added.
        from: read(u32),
        /// The counts added to: as many words.
        into: write(u32),
        /// bf16 maxima of the counts that are added, one a block.
        seen_from: read(u16),
        /// bf16 maxima, as many, read and written.
        seen: write(u16),
    }
}

impl<M: Memory + ?Sized> MergeItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`].
    pub fn validate(&self, _: &Merge) -> Result<()> {
        length("counts", M::len_mut(&self.into), M::len(&self.from))?;
        length("seen", M::len_mut(&self.seen), M::len(&self.seen_from))
    }
}

operation!(Merge, "merge", MergeItem, Nothing);
