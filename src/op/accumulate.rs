//! Accumulate: a gradient is added to levels or counts where they lie, in one pass.

use super::item::item;
use super::{BlockSize, Draw, Element, Grouping, finite, length, operation, span, within};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::numerics::level::micro_batches_max;
use crate::numerics::pack::words;

/// Widths of adaptive levels.
pub const ADAPTIVE_BITS: &[u32] = &[2, 4, 8];
/// Widths of exact counts: of trits in 4, 8 and 16 bits, of fine levels in 32.
pub const EXACT_BITS: &[u32] = &[4, 8, 16, 32];

pub(crate) fn bits_among(bits: u32, allowed: &'static [u32]) -> Result<()> {
    if allowed.contains(&bits) { Ok(()) } else { Err(Error::BitWidth { got: bits, allowed }) }
}

pub(crate) fn headroom_in_range(headroom: f32) -> Result<()> {
    if headroom.is_finite() && headroom > 0.0 {
        Ok(())
    } else {
        Err(Error::Parameter { name: "headroom", got: f64::from(headroom), requirement: "finite and above 0" })
    }
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

item! {
    /// One tensor to accumulate adaptively. `n` is the length of `x`.
    pub struct AdaptiveItem<T> {
        /// The tensor's number in the model: keys its draws.
        tensor: value(u32),
        /// Index of `x[0]` in the tensor: a multiple of the block.
        first: first,
        /// The gradient.
        x: read(T),
        /// Levels: `bits ceil(n / 32)` words, read and written; zero at the start of a window.
        levels: write(u32),
        /// bf16 scales, one a block, read and written; zero at the start of a window.
        scales: write(u16),
        /// The slot of the reports that takes what is found.
        report: report,
    }
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

/// Accumulation in f32: `sum' = sum + weight g`, the product and the sum each rounded once to nearest even. Where either
/// is out of range the sum stays as it was and the element is reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct F32 {
    /// What the gradient is multiplied by first.
    pub weight: f32,
}

impl F32 {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for a weight that is not finite.
    pub fn validate(&self) -> Result<()> {
        finite("weight", self.weight)
    }
}

item! {
    /// One tensor to accumulate in f32. `n` is the length of `x`.
    pub struct F32Item<T> {
        /// Index of `x[0]` in the tensor, for the report: any.
        first: first,
        /// The gradient.
        x: read(T),
        /// The sum: `n` floats, read and written; zero at the start of a window.
        sum: write(f32),
        /// The slot of the reports that takes what is found.
        report: report,
    }
}

impl<M: Memory + ?Sized, T: Element> F32Item<'_, M, T> {
    /// Checks lengths and position.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] or [`Error::Limit`].
    pub fn validate(&self, _: &F32) -> Result<()> {
        let n = M::len(&self.x);
        within(self.first, n)?;
        length("sum", n, M::len_mut(&self.sum))
    }
}

/// Exact accumulation: what `weight g` comes to under a scale fixed for the window, an integer, is added to an integer
/// count. Counts of the same scales merge in any order.
///
/// In 4, 8 and 16 bits a micro-batch adds a trit, rounded stochastically. In 32 bits it adds up to 2^21 fine levels,
/// rounded to nearest: the scale is then the size of one level, a power of two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exact {
    /// Bits a count: 4, 8, 16 or 32, enough for 7, 127, 32767 or 1023 micro-batches.
    pub bits: u32,
    /// Elements a block.
    pub block: BlockSize,
    /// Seed and place in the run; each micro-batch needs an index of its own, across all workers.
    pub draw: Draw,
    /// What the gradient is multiplied by first.
    pub weight: f32,
    /// Micro-batches the counts already hold; one more must fit.
    pub held: u32,
    /// A scale of 0 means that the block was not seen yet. With a headroom such a block takes its scale from this
    /// micro-batch, as [`super::window::WindowScales`] would from its maximum; without, it counts nothing and reports what it
    /// did not count as clipped.
    pub headroom: Option<f32>,
}

impl Exact {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`Error::BitWidth`]; [`Error::Parameter`] for a weight that is not finite or a headroom that is not finite and above
    /// 0; [`Error::Limit`] for a micro-batch index of 2^24 and above or a count that could overflow.
    pub fn validate(&self) -> Result<()> {
        bits_among(self.bits, EXACT_BITS)?;
        finite("weight", self.weight)?;
        self.draw.validate()?;
        self.headroom.map_or(Ok(()), headroom_in_range)?;
        counts_fit(self.bits, u64::from(self.held) + 1)
    }
}

pub(crate) fn counts_fit(bits: u32, micro_batches: u64) -> Result<()> {
    let limit = u64::from(micro_batches_max(bits));
    if micro_batches <= limit {
        Ok(())
    } else {
        Err(Error::Limit { what: "micro-batches in a window of exact counts", got: micro_batches, limit })
    }
}

item! {
    /// One tensor to accumulate exactly. `n` is the length of `x`.
    pub struct ExactItem<T> {
        /// The tensor's number in the model: keys its draws.
        tensor: value(u32),
        /// Index of `x[0]` in the tensor: a multiple of the block.
        first: first,
        /// The gradient.
        x: read(T),
        /// Counts: `bits ceil(n / 32)` words, read and written; zero at the start of a window.
        counts: write(u32),
        /// bf16 scales of the window, one a block: 0 or from 2^-97 to 2^126 (in 32 bits a power of two from 2^-111 up). An
        /// element above its scale (in 32 bits above 2^21 times it) counts as that and is reported as clipped. Written
        /// only where a block is seen for the first time ([`Exact::headroom`]).
        scales: write(u16),
        /// The largest magnitude seen in the window, bf16 rounded up, one a block, read and written
        /// ([`crate::numerics::scale::stochastic_scale`] of the block's maximum); zero at the start of a window.
        seen: write(u16),
        /// The slot of the reports that takes what is found.
        report: report,
    }
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
            length("scales", op.block.blocks(n), M::len_mut(&self.scales))?;
            length("seen", op.block.blocks(n), M::len_mut(&self.seen))
        };
        check().map_err(|e| e.in_tensor(format!("#{}", self.tensor)))
    }
}

operation!(Adaptive, "accumulate_adaptive", AdaptiveItem<T>, StateAndFound);
operation!(Exact, "accumulate_exact", ExactItem<T>, StateAndFound);
operation!(F32, "accumulate_f32", F32Item<T>, Found);
