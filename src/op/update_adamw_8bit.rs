//! AdamW with both moments in 8 bits: the update of [`super::update`] with a state of 2.03 bytes an element instead of 8.

use super::item::item;
use super::update::{AdamW, Source, weights_accepted};
use super::{BlockSize, Element, Grouping, length, operation, span};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::numerics::moments::MOMENT_BLOCK;
use crate::numerics::update::AdamWTerms;

/// AdamW ([`crate::numerics::update::adamw`]) with moments in 8 bits each ([`crate::numerics::moments`]).
///
/// The source's draw also rounds the moments, under f32 weights too: it must differ from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW8 {
    /// How the gradient is read, and the draws of weights and moments.
    pub source: Source,
    /// The terms of this step ([`AdamWTerms::new`]).
    pub terms: AdamWTerms,
}

impl AdamW8 {
    /// Scales that the second moments of a tensor of `n` elements have: one for each started block of 64.
    #[must_use]
    pub const fn scales(n: usize) -> usize {
        n.div_ceil(MOMENT_BLOCK)
    }

    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// As for [`AdamW::validate`].
    pub fn validate(&self) -> Result<()> {
        AdamW { source: self.source, terms: self.terms }.validate()
    }
}

item! {
    /// One tensor to update by AdamW with moments in 8 bits. `n` is the length of `weights`.
    pub struct AdamW8Item<T> {
        /// The tensor's number in the model: keys its draws.
        tensor: value(u32),
        /// Index of `weights[0]` in the tensor: a multiple of the block and of 64.
        first: value(u64),
        /// The gradient.
        gradient: gradient,
        /// The weights, read and written: f32, or bf16 rounded stochastically.
        weights: write(T),
        /// Both moments, a word an element ([`crate::numerics::moments::encode`]), read and written; zero at first.
        moments: write(u16),
        /// The scales of the second moments ([`AdamW8::scales`] of them), read and written; zero at first.
        moment_scales: write(u16),
        /// The slot of the reports that takes what is found: elements whose new weight or moments would not be finite,
        /// which keep what they had.
        report: report,
    }
}

impl<M: Memory + ?Sized, T: Element> AdamW8Item<'_, M, T> {
    /// Checks lengths and position.
    ///
    /// # Errors
    ///
    /// [`Error::Length`], [`Error::Alignment`], [`Error::Limit`] or [`Error::ElementType`], wrapped with the tensor's
    /// number.
    pub fn validate(&self, op: &AdamW8) -> Result<()> {
        let n = M::len_mut(&self.weights);
        let check = || {
            weights_accepted::<T>()?;
            let block = BlockSize::new(op.source.block.get().max(MOMENT_BLOCK as u32))?;
            span(self.first, n, Grouping::Block(block))?;
            self.gradient.validate(&op.source, n)?;
            length("moments", n, M::len_mut(&self.moments))?;
            length("moment scales", AdamW8::scales(n), M::len_mut(&self.moment_scales))
        };
        check().map_err(|e: Error| e.in_tensor(format!("#{}", self.tensor)))
    }
}

operation!(AdamW8, "update_adamw_8bit", AdamW8Item<T>, GuardsAndFound);
