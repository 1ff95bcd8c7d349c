//! Update: weights follow the gradient straight out of levels and scales, in place. No dense gradient exists.

use super::accumulate::bits_among;
use super::item::{Rewrap, item};
use super::{BlockSize, Draw, Element, ElementType, Grouping, finite, length, operation, span};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::numerics::pack::words;
use crate::numerics::update::{AdamWTerms, SgdTerms};

/// What every update shares: how the gradient `g = (l s) factor` is read
/// ([`crate::numerics::level::read_out`]), and where bf16 weights draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Source {
    /// Bits a level or count: 2, 4, 8 or 16.
    pub bits: u32,
    /// Elements a block.
    pub block: BlockSize,
    /// What a level times its scale is multiplied by: the mean, the loss scale and clipping in one number. Dense
    /// gradients are multiplied by it too.
    pub factor: f32,
    /// Seed and place in the run of the draws that round bf16 weights (domain 2); the micro-batch is 0.
    pub draw: Draw,
}

impl Source {
    fn validate(&self) -> Result<()> {
        bits_among(self.bits, super::read_out::BITS)?;
        finite("factor", self.factor)?;
        self.draw.validate()
    }
}

/// SGD with momentum, Nesterov momentum and weight decay: [`crate::numerics::update::sgd`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// How the gradient is read.
    pub source: Source,
    /// Learning rate, momentum, weight decay.
    pub terms: SgdTerms,
    /// Nesterov momentum.
    pub nesterov: bool,
}

impl Sgd {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`Error::BitWidth`]; [`Error::Parameter`] for a factor or term that is not finite, or Nesterov without momentum;
    /// [`Error::Limit`] for the micro-batch index.
    pub fn validate(&self) -> Result<()> {
        self.source.validate()?;
        finite("learning rate", self.terms.learning_rate)?;
        finite("momentum", self.terms.momentum)?;
        finite("weight decay", self.terms.weight_decay)?;
        if self.nesterov && self.terms.momentum == 0.0 {
            return Err(Error::Parameter { name: "momentum", got: 0.0, requirement: "above 0 with Nesterov" });
        }
        Ok(())
    }
}

/// AdamW: [`crate::numerics::update::adamw`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// How the gradient is read.
    pub source: Source,
    /// The terms of this step ([`AdamWTerms::new`]).
    pub terms: AdamWTerms,
}

impl AdamW {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`Error::BitWidth`]; [`Error::Parameter`] for a factor or term that is not finite, or an eps that is no normal f32
    /// above 0; [`Error::Limit`] for the micro-batch index.
    pub fn validate(&self) -> Result<()> {
        self.source.validate()?;
        let t = &self.terms;
        finite("learning rate", t.learning_rate)?;
        finite("beta 1", t.beta1)?;
        finite("1 - beta 1", t.rest1)?;
        finite("beta 2", t.beta2)?;
        finite("1 - beta 2", t.rest2)?;
        finite("correction of the first moment", t.correct1)?;
        finite("correction of the second moment", t.correct2)?;
        if !t.eps.is_normal() || t.eps < 0.0 {
            let requirement = "a normal f32 above 0: without it, a moment of 0 divides by 0";
            return Err(Error::Parameter { name: "eps", got: f64::from(t.eps), requirement });
        }
        finite("1 - learning rate times weight decay", t.keep)
    }
}

/// Where the gradient of a tensor lies.
pub enum Gradient<'a, M: Memory + ?Sized> {
    /// Levels or counts (`bits ceil(n / 32)` words) and bf16 scales (one a block).
    Packed {
        /// Levels or counts.
        levels: M::View<'a, u32>,
        /// bf16 scales.
        scales: M::View<'a, u16>,
    },
    /// Floats: what small tensors are kept in. `g = x factor`.
    Dense(M::View<'a, f32>),
}

impl<M: Memory + ?Sized> Clone for Gradient<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Memory + ?Sized> Copy for Gradient<'_, M> {}

impl<'l, M: Memory + ?Sized> Gradient<'l, M> {
    /// The same gradient for a shorter time.
    #[must_use]
    pub fn shorten<'s>(self) -> Gradient<'s, M>
    where
        'l: 's,
    {
        match self {
            Gradient::Packed { levels, scales } => {
                Gradient::Packed { levels: M::shorten(levels), scales: M::shorten(scales) }
            }
            Gradient::Dense(x) => Gradient::Dense(M::shorten(x)),
        }
    }

    pub(crate) fn accepted(&self, memory: &M) -> Result<()> {
        match self {
            Gradient::Packed { levels, scales } => {
                memory.accepts(levels)?;
                memory.accepts(scales)
            }
            Gradient::Dense(x) => memory.accepts(x),
        }
    }

    pub(crate) fn rewrap<'s, N: Memory + ?Sized>(&self, by: &impl Rewrap<M, N>) -> Result<Gradient<'s, N>>
    where
        'l: 's,
    {
        Ok(match *self {
            Gradient::Packed { levels, scales } => {
                Gradient::Packed { levels: by.view(levels)?, scales: by.view(scales)? }
            }
            Gradient::Dense(x) => Gradient::Dense(by.view(x)?),
        })
    }

    pub(crate) fn validate(&self, source: &Source, n: usize) -> Result<()> {
        match self {
            Gradient::Packed { levels, scales } => {
                length("levels", words(n, source.bits), M::len(levels))?;
                length("scales", source.block.blocks(n), M::len(scales))
            }
            Gradient::Dense(x) => length("gradient", n, M::len(x)),
        }
    }
}

pub(super) fn weights_accepted<T: Element>() -> Result<()> {
    match T::TYPE {
        ElementType::F32 | ElementType::Bf16 => Ok(()),
        ElementType::F16 => Err(Error::ElementType { expected: "f32 or bf16 weights", got: "f16".to_owned() }),
    }
}

item! {
    /// One tensor to update by SGD. `n` is the length of `weights`.
    pub struct SgdItem<T> {
        /// The tensor's number in the model: keys its draws.
        tensor: value(u32),
        /// Index of `weights[0]` in the tensor: a multiple of the block.
        first: first,
        /// The gradient.
        gradient: gradient,
        /// The weights, read and written: f32, or bf16 rounded stochastically.
        weights: write(T),
        /// The momentum, read and written, zero at first; `None` where there is none.
        momentum: maybe_write(f32),
        /// The slot of the reports that takes what is found: elements whose new weight or state would not be finite, which
        /// keep what they had.
        report: report,
    }
}

impl<M: Memory + ?Sized, T: Element> SgdItem<'_, M, T> {
    /// Checks lengths and position.
    ///
    /// # Errors
    ///
    /// [`Error::Length`], [`Error::Alignment`], [`Error::Limit`] or [`Error::ElementType`], wrapped with the tensor's
    /// number.
    pub fn validate(&self, op: &Sgd) -> Result<()> {
        let n = M::len_mut(&self.weights);
        let check = || {
            weights_accepted::<T>()?;
            span(self.first, n, Grouping::Block(op.source.block))?;
            self.gradient.validate(&op.source, n)?;
            let expected = if op.terms.momentum == 0.0 { 0 } else { n };
            length("momentum", expected, self.momentum.as_ref().map_or(0, |b| M::len_mut(b)))
        };
        check().map_err(|e: Error| e.in_tensor(format!("#{}", self.tensor)))
    }
}

item! {
    /// One tensor to update by AdamW. `n` is the length of `weights`.
    pub struct AdamWItem<T> {
        /// The tensor's number in the model: keys its draws.
        tensor: value(u32),
        /// Index of `weights[0]` in the tensor: a multiple of the block.
        first: first,
        /// The gradient.
        gradient: gradient,
        /// The weights, read and written: f32, or bf16 rounded stochastically.
        weights: write(T),
        /// The first moment, read and written; zero at first.
        first_moment: write(f32),
        /// The second moment, read and written; zero at first.
        second_moment: write(f32),
        /// The slot of the reports that takes what is found: elements whose new weight or state would not be finite, which
        /// keep what they had.
        report: report,
    }
}

impl<M: Memory + ?Sized, T: Element> AdamWItem<'_, M, T> {
    /// Checks lengths and position.
    ///
    /// # Errors
    ///
    /// [`Error::Length`], [`Error::Alignment`], [`Error::Limit`] or [`Error::ElementType`], wrapped with the tensor's
    /// number.
    pub fn validate(&self, op: &AdamW) -> Result<()> {
        let n = M::len_mut(&self.weights);
        let check = || {
            weights_accepted::<T>()?;
            span(self.first, n, Grouping::Block(op.source.block))?;
            self.gradient.validate(&op.source, n)?;
            length("first moment", n, M::len_mut(&self.first_moment))?;
            length("second moment", n, M::len_mut(&self.second_moment))
        };
        check().map_err(|e: Error| e.in_tensor(format!("#{}", self.tensor)))
    }
}

operation!(Sgd, "update_sgd", SgdItem<T>, GuardsAndFound);
operation!(AdamW, "update_adamw", AdamWItem<T>, GuardsAndFound);
