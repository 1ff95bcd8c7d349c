//! A step without a wait: the state of a training in a few words on the device, what changes it, and operations that
//! follow it.
//!
//! # Examples
//!
//! A window of one micro-batch, on the CPU as on any device. Nothing waits before the last line, which reads the outcome.
//!
//! ```
//! use trigrad::cpu::Cpu;
//! use trigrad::numerics::constants::state::WORDS;
//! use trigrad::numerics::reduce::SUM_WORDS;
//! use trigrad::numerics::state::State;
//! use trigrad::numerics::update::SgdTerms;
//! use trigrad::op::accumulate::{F32, F32Item};
//! use trigrad::op::reduce::{SquaredNormF32, SquaredNormF32Item};
//! use trigrad::op::state::{AdvanceMicroBatch, AdvanceMicroBatchItem, AdvanceStep, AdvanceStepItem, Decide, DecideItem, Following};
//! use trigrad::op::update::{Gradient, Sgd, SgdItem, Source};
//! use trigrad::op::{Backend, BlockSize, Draw};
//! use trigrad::memory::Memory;
//!
//! let cpu = Cpu::new();
//! let mut state = cpu.upload(State::new(0.5, 1.0).words())?;
//! let (mut found, mut kept) = (cpu.reports(1)?, cpu.reports(1)?);
//! let (gradient, mut sum, mut weights) = ([3.0f32, 4.0], [0.0f32; 2], [1.0f32, 1.0]);
//!
//! let mut items = [F32Item { first: 0, x: &gradient[..], sum: &mut sum[..], report: 0 }];
//! cpu.accumulate_f32(&F32 { weight: 1.0 }, &mut items, &mut found)?;
//! cpu.advance_micro_batch(&AdvanceMicroBatch { weight: 1.0 }, &mut [AdvanceMicroBatchItem { state: &mut state[..] }])?;
//!
//! let mut norm = [0u32; SUM_WORDS];
//! cpu.squared_norm_f32(&SquaredNormF32, &mut [SquaredNormF32Item { x: &sum[..], sum: 0 }], &mut norm[..])?;
//! let mut items = [DecideItem { state: &mut state[..], sum: &norm[..], corrections: &[][..] }];
//! cpu.decide(&Decide { clip_norm: Some(1.0) }, &mut items, Some(&found))?;
//!
//! let terms = SgdTerms { learning_rate: 1.0, momentum: 0.0, weight_decay: 0.0 }; // all of the state's rate
//! let source = Source { bits: 4, block: BlockSize::default(), factor: 0.0, draw: Draw::new(7, 0) };
//! let (gradient, weights_mut) = (Gradient::Dense(&sum[..]), &mut weights[..]);
//! let item = SgdItem { tensor: 0, first: 0, gradient, weights: weights_mut, momentum: None, report: 0 };
//! Following::new(&cpu, &state[..]).update_sgd(&Sgd { source, terms, nesterov: false }, &mut [item], &mut kept)?;
//! cpu.advance_step(&AdvanceStep { growth_interval: None }, &mut [AdvanceStepItem { state: &mut state[..] }])?;
//!
//! assert_eq!(weights, [1.0 - 0.5 * 0.6, 1.0 - 0.5 * 0.8]);
//! let outcome = State::from_words(&state).unwrap_or_default();
//! assert_eq!((outcome.norm, outcome.clip, outcome.updates, outcome.skips), (5.0, 0.2, 1, 0));
//! # Ok::<(), trigrad::Error>(())
//! ```

use super::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem};
use super::item::item;
use super::quantize::{self, Quantize, Rule};
use super::side::StateOn;
use super::update::{AdamW, AdamWItem, Sgd, SgdItem, Source};
use super::update_adamw_8bit::{AdamW8, AdamW8Item};
use super::{Backend, Draw, Element, finite, length, operation, run};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::numerics::constants::MICRO_BATCHES_MAX;
use crate::numerics::constants::state::WORDS;
use crate::numerics::reduce::SUM_WORDS;
use crate::numerics::state::State;
use crate::numerics::update::AdamWTerms;

/// Updates for which a table may hold corrections: betas up to 0.99998 need no more.
const CORRECTIONS_MAX: u32 = 1 << 20;

/// The corrections `1 / (1 - beta1^t)` and `1 / (1 - beta2^t)` of AdamW for updates 1, 2, ..., two f32 each, computed as
/// by [`AdamWTerms::new`]: until both are 1, which they stay. 17,000 updates for a beta of 0.999.
///
/// # Errors
///
/// [`Error::Parameter`] for a beta above 0.99998, whose corrections end after more than 2^20 updates, below 0, or NaN.
///
/// # Examples
///
/// ```
/// let table = trigrad::op::state::corrections((0.5, 0.0))?;
/// assert_eq!(table[..4], [2.0, 1.0, 1.0 / 0.75, 1.0]);
/// assert_eq!(table[table.len() - 2..], [1.0, 1.0]);
/// # Ok::<(), trigrad::Error>(())
/// ```
pub fn corrections(betas: (f64, f64)) -> Result<Vec<f32>> {
    let mut table = Vec::new();
    let of = |t| {
        let terms = AdamWTerms::new(0.0, betas, 0.0, 0.0, t);
        (terms.correct1, terms.correct2)
    };
    let largest = if betas.0 > betas.1 { betas.0 } else { betas.1 };
    if !(betas.0 >= 0.0 && betas.1 >= 0.0 && of(CORRECTIONS_MAX) == (1.0, 1.0)) {
        let requirement = "from 0 to 0.99998: the corrections of others end after more than 2^20 updates";
        return Err(Error::Parameter { name: "beta", got: largest, requirement });
    }
    for t in 1..=CORRECTIONS_MAX {
        let (one, two) = of(t);
        table.extend([one, two]);
        if (one, two) == (1.0, 1.0) {
            break;
        }
    }
    Ok(table)
}

fn state_length(words: usize) -> Result<()> {
    length("words of the state", WORDS, words)
}

/// Counts a micro-batch: [`State::advance_micro_batch`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdvanceMicroBatch {
    /// Its weight.
    pub weight: f32,
}

impl AdvanceMicroBatch {
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
    /// The state of one training.
    pub struct AdvanceMicroBatchItem {
        /// The words of a state, read and written.
        state: write(u32),
    }
}

impl<M: Memory + ?Sized> AdvanceMicroBatchItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`Error::Length`].
    pub fn validate(&self, _: &AdvanceMicroBatch) -> Result<()> {
        state_length(M::len_mut(&self.state))
    }
}

operation!(AdvanceMicroBatch, "advance_micro_batch", AdvanceMicroBatchItem, Nothing);

/// Decides whether a window is a step: [`State::decide`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Decide {
    /// What the global norm is clipped to.
    pub clip_norm: Option<f32>,
}

impl Decide {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for a norm that is no normal f32 above 0.
    pub fn validate(&self) -> Result<()> {
        match self.clip_norm {
            Some(limit) if !limit.is_normal() || limit < 0.0 => {
                let requirement = "a normal f32 above 0";
                Err(Error::Parameter { name: "clip norm", got: f64::from(limit), requirement })
            }
            _ => Ok(()),
        }
    }

    /// What the norm is clipped to, infinite where it is not.
    pub(crate) fn limit(&self) -> f32 {
        self.clip_norm.unwrap_or(f32::INFINITY)
    }
}

item! {
    /// The state of one training, and what decides its window.
    pub struct DecideItem {
        /// The words of a state, read and written.
        state: write(u32),
        /// The squared norm of what was accumulated: one slot of sums.
        sum: read(u32),
        /// The corrections of AdamW ([`corrections`]); none for SGD.
        corrections: read(f32),
    }
}

impl<M: Memory + ?Sized> DecideItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`Error::Length`].
    pub fn validate(&self, _: &Decide) -> Result<()> {
        state_length(M::len_mut(&self.state))?;
        length("words of the sum", SUM_WORDS, M::len(&self.sum))?;
        let corrections = M::len(&self.corrections);
        length("corrections", corrections.next_multiple_of(2), corrections)
    }
}

operation!(Decide, "decide", DecideItem, Guards);

/// Ends a window, after the update: [`State::advance_step`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdvanceStep {
    /// Updates in a row after which a dynamic loss scale doubles; `None` for one that stays.
    pub growth_interval: Option<u32>,
}

impl AdvanceStep {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for an interval of 0.
    pub fn validate(&self) -> Result<()> {
        if self.growth_interval == Some(0) {
            return Err(Error::Parameter { name: "growth interval", got: 0.0, requirement: "at least 1" });
        }
        Ok(())
    }
}

item! {
    /// The state of one training.
    pub struct AdvanceStepItem {
        /// The words of a state, read and written.
        state: write(u32),
    }
}

impl<M: Memory + ?Sized> AdvanceStepItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`Error::Length`].
    pub fn validate(&self, _: &AdvanceStep) -> Result<()> {
        state_length(M::len_mut(&self.state))
    }
}

operation!(AdvanceStep, "advance_step", AdvanceStepItem, Nothing);

/// A backend whose operations follow a state on the device, as it is when they run.
///
/// - Draws are made at the state's step and micro-batch, to which those of the call are added (wrapping, the micro-batch
///   at 2^24): a worker gives the number of its first micro-batch.
/// - Updates take the factor that was decided, and not that of the call; terms are those of the call
///   [under the state](AdamWTerms::under). A step that is skipped writes nothing.
pub struct Following<'s, B: Backend> {
    backend: &'s B,
    state: B::View<'s, u32>,
}

impl<'s, B: Backend> Following<'s, B> {
    /// A backend and the words of a state.
    #[must_use]
    pub fn new(backend: &'s B, state: B::View<'s, u32>) -> Self {
        Following { backend, state }
    }

    fn state(&self) -> StateOn<'_, B> {
        StateOn(Some(B::shorten(self.state)))
    }

    /// [`Backend::quantize`].
    ///
    /// # Errors
    ///
    /// As for it, and [`Error::Length`] or [`Error::WrongDevice`] for the state.
    pub fn quantize<T: Element>(
        &self,
        op: &Quantize,
        items: &mut [quantize::Item<'_, B, T>],
        reports: &mut B::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self.backend, op, items, (self.state(), reports))
    }

    /// [`Backend::accumulate_adaptive`].
    ///
    /// # Errors
    ///
    /// As for it, and [`Error::Length`] or [`Error::WrongDevice`] for the state.
    pub fn accumulate_adaptive<T: Element>(
        &self,
        op: &Adaptive,
        items: &mut [AdaptiveItem<'_, B, T>],
        reports: &mut B::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self.backend, op, items, (self.state(), reports))
    }

    /// [`Backend::accumulate_exact`].
    ///
    /// # Errors
    ///
    /// As for it, and [`Error::Length`] or [`Error::WrongDevice`] for the state.
    pub fn accumulate_exact<T: Element>(
        &self,
        op: &Exact,
        items: &mut [ExactItem<'_, B, T>],
        reports: &mut B::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self.backend, op, items, (self.state(), reports))
    }

    /// [`Backend::update_sgd`]; the state takes the place of guards.
    ///
    /// # Errors
    ///
    /// As for it, and [`Error::Length`] or [`Error::WrongDevice`] for the state.
    pub fn update_sgd<T: Element>(
        &self,
        op: &Sgd,
        items: &mut [SgdItem<'_, B, T>],
        reports: &mut B::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self.backend, op, items, (self.state(), None, reports))
    }

    /// [`Backend::update_adamw`]; the state takes the place of guards.
    ///
    /// # Errors
    ///
    /// As for it, and [`Error::Length`] or [`Error::WrongDevice`] for the state.
    pub fn update_adamw<T: Element>(
        &self,
        op: &AdamW,
        items: &mut [AdamWItem<'_, B, T>],
        reports: &mut B::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self.backend, op, items, (self.state(), None, reports))
    }

    /// [`Backend::update_adamw_8bit`]; the state takes the place of guards.
    ///
    /// # Errors
    ///
    /// As for it, and [`Error::Length`] or [`Error::WrongDevice`] for the state.
    pub fn update_adamw_8bit<T: Element>(
        &self,
        op: &AdamW8,
        items: &mut [AdamW8Item<'_, B, T>],
        reports: &mut B::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self.backend, op, items, (self.state(), None, reports))
    }
}

/// The parameters of an operation under a state that the host can read.
pub(crate) trait Under: Copy {
    /// The same where the state puts it.
    fn under(self, state: &State) -> Self;

    /// The same under the words of a state, or as it is without any.
    fn under_words(self, words: Option<&[u32]>) -> Self {
        words.and_then(State::from_words).map_or(self, |state| self.under(&state))
    }
}

/// Whether there is a state, and it says that the update is skipped.
pub(crate) fn skips(words: Option<&[u32]>) -> bool {
    words.and_then(State::from_words).is_some_and(|state| state.skipped())
}

impl Under for Draw {
    fn under(self, state: &State) -> Self {
        Draw {
            step: self.step.wrapping_add(state.step),
            micro_batch: self.micro_batch.wrapping_add(state.micro_batch) % MICRO_BATCHES_MAX,
            ..self
        }
    }
}

impl Under for Quantize {
    fn under(self, state: &State) -> Self {
        match self.rule {
            Rule::Stochastic { draw, clip } => {
                Quantize { rule: Rule::Stochastic { draw: draw.under(state), clip }, ..self }
            }
            Rule::Threshold(_) => self,
        }
    }
}

impl Under for Adaptive {
    fn under(self, state: &State) -> Self {
        Adaptive { draw: self.draw.under(state), ..self }
    }
}

impl Under for Exact {
    fn under(self, state: &State) -> Self {
        Exact { draw: self.draw.under(state), ..self }
    }
}

impl Under for Source {
    fn under(self, state: &State) -> Self {
        Source { factor: state.factor, draw: self.draw.under(state), ..self }
    }
}

impl Under for Sgd {
    fn under(self, state: &State) -> Self {
        Sgd { source: self.source.under(state), terms: self.terms.under(state), ..self }
    }
}

impl Under for AdamW {
    fn under(self, state: &State) -> Self {
        AdamW { source: self.source.under(state), terms: self.terms.under(state) }
    }
}

impl Under for AdamW8 {
    fn under(self, state: &State) -> Self {
        AdamW8 { source: self.source.under(state), terms: self.terms.under(state) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrections_are_those_of_the_terms_until_they_are_one() {
        for betas in [(0.9, 0.999), (0.95, 0.9), (0.0, 0.0), (0.5, 0.9999)] {
            let table = corrections(betas).unwrap();
            let last = (table.len() / 2) as u32;
            for t in [1, 2, last / 2, last - 1, last, last + 1, 2 * last, u32::MAX].into_iter().filter(|t| *t > 0) {
                let terms = AdamWTerms::new(0.1, betas, 1e-8, 0.0, t);
                let at = 2 * (t.min(last) as usize - 1);
                assert_eq!(table[at..at + 2], [terms.correct1, terms.correct2], "{betas:?} {t}");
            }
            assert_eq!(table[table.len() - 2..], [1.0, 1.0]);
        }
        assert!(corrections((0.9, 0.99998)).is_ok());
        for betas in [(0.9, 0.99999), (0.999_999, 0.9), (0.9, 1.0), (-0.1, 0.9), (f64::NAN, 0.9), (0.9, f64::NAN)] {
            assert!(matches!(corrections(betas), Err(Error::Parameter { name: "beta", .. })), "{betas:?}");
        }
    }

    #[test]
    fn draws_move_on_with_the_state() {
        let state = State { step: 3, micro_batch: 5, ..State::new(1.0, 1.0) };
        let draw = Draw::new(9, u32::MAX).micro_batch(MICRO_BATCHES_MAX - 1);
        assert_eq!(draw.under(&state), Draw::new(9, 2).micro_batch(4));
        assert_eq!(draw.under_words(Some(state.words())), Draw::new(9, 2).micro_batch(4));
        assert_eq!(draw.under_words(None), draw);
    }
}
