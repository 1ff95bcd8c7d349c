//! Accumulate: a gradient is added to levels or counts where they lie, in one pass.

use super::{BlockSize, Draw, Element, Grouping, finite, length, span};
use crate::backend::Memory;
use crate::error::{Error, Result};
use crate::numerics::level::level_max;
use crate::numerics::pack::words;

/// Widths of adaptive levels.
pub const ADAPTIVE_BITS: &[u32] = &[2, 4, 8];
/// Widths of exact counts.
pub const EXACT_BITS: &[u32] = &[4, 8, 16];

pub(crate) fn bits_among(bits: u32, allowed: &'static [u32]) -> Result<()> {
    if allowed.contains(&bits) { Ok(()) } else { Err(Error::BitWidth { got: bits, allowed }) }
}

/// Adaptive accumulation: `l' s' ~ l s + weight g`, the new scale `s'` the smallest bf16 that covers the block's
/// largest sum, levels rounded stochastically: unbiased at any number of micro-batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adaptive {
    /// Bits a level: 2 (planes), 4 or 8 (fields).
    pub bits: u32,
    /// Elements a block.
    pub block: BlockSize,
    /// Seed and place in the run; each micro-batch needs an index of its own.
    pub draw: Draw,
    /// What the gradient is multiplied by first.
    pub weight: f32,
}

impl Adaptive {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`Error::BitWidth`], [`Error::Parameter`] for a weight that is not finite, [`Error::Limit`] for the
    /// micro-batch index.
    pub fn validate(&self) -> Result<()> {
        bits_among(self.bits, ADAPTIVE_BITS)?;
        finite("weight", self.weight)?;
        self.draw.validate()
    }
}

/// One tensor to accumulate adaptively. `n` is the length of `x`.
pub struct AdaptiveItem<'a, M: Memory + ?Sized, T: Element> {
    /// The tensor's number in the model: keys its draws.
    pub tensor: u32,
    /// Index of `x[0]` in the tensor: a multiple of the block.
    pub first: u64,
    /// The gradient.
    pub x: M::View<'a, T>,
    /// Levels: `bits ceil(n / 32)` words, read and written; zero at the start of a window.
    pub levels: M::ViewMut<'a, u32>,
    /// bf16 scales, one a block, read and written; zero at the start of a window.
    pub scales: M::ViewMut<'a, u16>,
    /// The slot of the reports that takes what is found.
    pub report: usize,
}

impl<M: Memory + ?Sized, T: Element> AdaptiveItem<'_, M, T> {
    /// Checks lengths and position.
    ///
    /// # Errors
    ///
    /// [`Error::Length`], [`Error::Alignment`] or [`Error::Limit`], wrapped with the tensor's number.
    pub fn validate(&self, op: &Adaptive) -> Result<()> {
        let n = M::len(&self.x);
        let check = || {
            span(self.first, n, Grouping::Block(op.block))?;
            length("levels", words(n, op.bits), M::len_mut(&self.levels))?;
            length("scales", op.block.blocks(n), M::len_mut(&self.scales))
        };
        check().map_err(|e| e.in_tensor(format!("#{}", self.tensor)))
    }
}

/// Exact accumulation: the trit of `weight g` under a scale fixed for the window is added to an integer count.
/// Counts of the same scales merge in any order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exact {
    /// Bits a count: 4, 8 or 16, enough for 7, 127 or 32767 micro-batches.
    pub bits: u32,
    /// Elements a block.
    pub block: BlockSize,
    /// Seed and place in the run; each micro-batch needs an index of its own, across all workers.
    pub draw: Draw,
    /// What the gradient is multiplied by first.
    pub weight: f32,
    /// Micro-batches the counts already hold; one more must fit.
    pub held: u32,
}

impl Exact {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`Error::BitWidth`], [`Error::Parameter`] for a weight that is not finite, [`Error::Limit`] for a micro-batch
    /// index of 2^24 and above or a count that could overflow.
    pub fn validate(&self) -> Result<()> {
        bits_among(self.bits, EXACT_BITS)?;
        finite("weight", self.weight)?;
        self.draw.validate()?;
        counts_fit(self.bits, u64::from(self.held) + 1)
    }
}

pub(crate) fn counts_fit(bits: u32, micro_batches: u64) -> Result<()> {
    let limit = u64::from(level_max(bits));
    if micro_batches <= limit {
        Ok(())
    } else {
        Err(Error::Limit { what: "micro-batches in a window of exact counts", got: micro_batches, limit })
    }
}

/// One tensor to accumulate exactly. `n` is the length of `x`.
pub struct ExactItem<'a, M: Memory + ?Sized, T: Element> {
    /// The tensor's number in the model: keys its draws.
    pub tensor: u32,
    /// Index of `x[0]` in the tensor: a multiple of the block.
    pub first: u64,
    /// The gradient.
    pub x: M::View<'a, T>,
    /// Counts: `bits ceil(n / 32)` words, read and written; zero at the start of a window.
    pub counts: M::ViewMut<'a, u32>,
    /// bf16 scales of the window, one a block: 0 or from 2^-97 to 2^126. An element above its scale counts as +-1 and
    /// is reported as clipped; under a scale of 0 it counts as 0 and is reported as clipped.
    pub scales: M::View<'a, u16>,
    /// The largest magnitude seen in the window, bf16 rounded up, one a block, read and written
    /// ([`crate::numerics::scale::stochastic_scale`] of the block's maximum); zero at the start of a window.
    pub seen: M::ViewMut<'a, u16>,
    /// The slot of the reports that takes what is found.
    pub report: usize,
}

impl<M: Memory + ?Sized, T: Element> ExactItem<'_, M, T> {
    /// Checks lengths and position.
    ///
    /// # Errors
    ///
    /// [`Error::Length`], [`Error::Alignment`] or [`Error::Limit`], wrapped with the tensor's number.
    pub fn validate(&self, op: &Exact) -> Result<()> {
        let n = M::len(&self.x);
        let check = || {
            span(self.first, n, Grouping::Block(op.block))?;
            length("counts", words(n, op.bits), M::len_mut(&self.counts))?;
            length("scales", op.block.blocks(n), M::len(&self.scales))?;
            length("seen", op.block.blocks(n), M::len_mut(&self.seen))
        };
        check().map_err(|e| e.in_tensor(format!("#{}", self.tensor)))
    }
}

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
    /// [`Error::Parameter`] for a weight that is not finite.
    pub fn validate(&self) -> Result<()> {
        finite("weight", self.weight)
    }
}

/// One tensor to look at. `n` is the length of `x`.
pub struct LookItem<'a, M: Memory + ?Sized, T: Element> {
    /// The gradient.
    pub x: M::View<'a, T>,
    /// Block maxima, one a block, read and written.
    pub seen: M::ViewMut<'a, u16>,
    /// The slot of the reports that takes what is found.
    pub report: usize,
}

impl<M: Memory + ?Sized, T: Element> LookItem<'_, M, T> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`Error::Length`].
    pub fn validate(&self, op: &Look) -> Result<()> {
        length("seen", op.block.blocks(M::len(&self.x)), M::len_mut(&self.seen))
    }
}

/// The scales of a window from the maxima of a first look or of the window before:
/// [`crate::numerics::scale::window_scale`] of each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowScales {
    /// What the maxima are multiplied by, above 0.
    pub headroom: f32,
}

impl WindowScales {
    /// Checks the parameters and lengths (blocks in `seen` and in `scales`).
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for a headroom that is not finite and above 0; [`Error::Length`].
    pub fn validate(&self, seen: usize, scales: usize) -> Result<()> {
        if !(self.headroom.is_finite() && self.headroom > 0.0) {
            return Err(Error::Parameter {
                name: "headroom",
                got: f64::from(self.headroom),
                requirement: "finite and above 0",
            });
        }
        length("scales", seen, scales)
    }
}

/// Adds counts to counts, field by field; both must come from the same scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Bits a count: 4, 8 or 16.
    pub bits: u32,
    /// Micro-batches in the counts added to.
    pub held: u32,
    /// Micro-batches in the counts that are added.
    pub added: u32,
}

impl Merge {
    /// Checks the parameters and lengths (words of both).
    ///
    /// # Errors
    ///
    /// [`Error::BitWidth`], [`Error::Limit`] where the sum could overflow, [`Error::Length`].
    pub fn validate(&self, into: usize, from: usize) -> Result<()> {
        bits_among(self.bits, EXACT_BITS)?;
        counts_fit(self.bits, u64::from(self.held) + u64::from(self.added))?;
        length("counts", into, from)
    }
}
