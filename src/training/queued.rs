//! Training that only queues: a step waits for nothing, and what it came to is read when it is asked for.

use super::optimizer::Optimizer;
use super::rule::Rule;
use super::step::With;
use super::{Counts, Outcome, Training, WeightsMut};
use crate::accumulator::{Floats, Id, NonFinite};
use crate::error::{Error, Result};
use crate::numerics::constants::state::{RATE, SKIP_FACTOR, SKIP_NO_WEIGHT, SKIP_NON_FINITE};
use crate::numerics::reduce::SUM_WORDS;
use crate::numerics::state::State;
use crate::op::Backend;
use crate::op::state::{AdvanceMicroBatch, AdvanceMicroBatchItem, AdvanceStep, AdvanceStepItem, Decide, corrections};

/// A [`Training`] and its [`Optimizer`] whose steps wait for nothing: whether a window is a step, by which factor, and what
/// becomes of the loss scale is decided on the device, in a [`State`]. [`outcome`](Self::outcome) reads it when asked.
///
/// The bits are those of the rules in f32 (NUMERICS.md, section 14): norm, factor and the terms of AdamW may differ in the last
/// place from those of [`Training::step`], which computes them in f64. Sums are the same.
///
/// # Examples
///
/// ```
/// use trigrad::accumulator::Spec;
/// use trigrad::cpu::Cpu;
/// use trigrad::training::{AdamW, Options, Optimizer, Queued, Training, WeightsMut};
///
/// let training = Training::new(Cpu::new(), &[Spec::new("w", [64])], Options { small: 0, ..Options::default() })?;
/// let adam = Optimizer::adamw(&training, AdamW { learning_rate: 0.1, ..AdamW::default() })?;
/// let mut queued = Queued::new(training, adam)?;
/// let mut w = vec![0f32; 64];
/// for _ in 0..2 {
///     for _ in 0..8 {
///         let gradient: Vec<f32> = w.iter().map(|w| w - 1.0).collect();
///         queued.accumulate(&[("w", gradient[..].into())], 1.0)?;
///     }
///     queued.step(vec![WeightsMut::F32(&mut w[..])])?; // waits for nothing
/// }
/// assert!(queued.outcome()?.updated());
/// assert_eq!(queued.counts()?.updated, 2);
/// let (training, adam) = queued.settle()?; // to the waiting form, and to a checkpoint
/// assert_eq!((training.window(), adam.updates()), (2, 2));
/// # Ok::<(), trigrad::Error>(())
/// ```
pub struct Queued<B: Backend> {
    training: Training<B>,
    optimizer: Optimizer<B>,
    state: B::Buffer<u32>,
    norm: B::Buffer<u32>,
    /// The corrections of AdamW.
    corrections: B::Buffer<f32>,
    /// Updates before the state began to count.
    before: u32,
    /// Elements that kept what they had, in updates whose outcome was read.
    kept: u64,
}

impl<B: Backend> std::fmt::Debug for Queued<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queued")
            .field("training", &self.training)
            .field("optimizer", &self.optimizer)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Queued<B> {
    /// From a training between two windows, and its optimizer.
    ///
    /// # Errors
    ///
    /// [`Error::WindowStarted`]; [`Error::Conflict`] for error feedback, whose residual is cleared by what a step comes to,
    /// for [`NonFinite::Reject`], which waits, and for a schedule; [`Error::AnotherModel`], [`Error::UnknownTensor`] or
    /// [`Error::Shape`] for an optimizer of other tensors; [`Error::Parameter`] for a beta above 0.99998 ([`corrections`])
    /// or a number that f32 does not hold; [`Error::Refused`]; what the device reports.
    pub fn new(training: Training<B>, mut optimizer: Optimizer<B>) -> Result<Self> {
        training.usable()?;
        optimizer.made_for(training.specs())?;
        if training.count() > 0 {
            return Err(Error::WindowStarted { what: "steps without a wait", held: training.count() });
        }
        let with = "steps without a wait";
        if training.feedback.is_some() {
            let advice = "set residual_bits to None, or use Training::step";
            return Err(Error::Conflict { what: "error feedback", with, advice });
        }
        if training.options.config.non_finite == NonFinite::Reject {
            let advice = "it waits for each micro-batch: use NonFinite::Defer, which skips the window";
            return Err(Error::Conflict { what: "NonFinite::Reject", with, advice });
        }
        decide(&training).validate()?;
        if optimizer.has_schedule() {
            let advice = "call Queued::set_learning_rate before each step";
            return Err(Error::Conflict { what: "a schedule", with, advice });
        }
        optimizer.unit_terms().iter().try_for_each(|terms| training.validate(terms, 1.0))?;
        let table = match optimizer.rule() {
            Rule::AdamW(p) => corrections((p.beta1, p.beta2))?,
            Rule::Sgd(_) => Vec::new(),
        };
        let backend = training.backend();
        let state = State {
            step: training.window(),
            updates: optimizer.updates,
            good: training.options.loss_scale.good,
            ..State::new(optimizer.learning_rate() as f32, training.loss_scale() as f32)
        };
        backend.clear_reports(&mut optimizer.found)?;
        Ok(Queued {
            state: backend.upload(state.words())?,
            norm: backend.zeros(SUM_WORDS)?,
            corrections: backend.upload(&table)?,
            before: optimizer.updates,
            kept: 0,
            training,
            optimizer,
        })
    }

    /// Adds `weight` times the gradients of one micro-batch; queues and returns. As [`Training::accumulate`].
    ///
    /// # Errors
    ///
    /// As for [`Training::accumulate`].
    pub fn accumulate<'i, I: Into<Id<'i>> + Copy>(
        &mut self,
        gradients: &[(I, Floats<'_, B>)],
        weight: f32,
    ) -> Result<()> {
        self.training.accumulate(gradients, weight)?;
        let op = AdvanceMicroBatch { weight };
        let item = AdvanceMicroBatchItem { state: B::view_mut(&mut self.state) };
        let counted = self.training.backend().advance_micro_batch(&op, &mut [item]);
        self.refuse_on_error(counted)
    }

    /// Ends the window: decides whether it is a step, updates the weights, one view a tensor in the order of the tensors, and
    /// starts the next. Waits for nothing: a window with NaN or Inf changes no weight, and [`outcome`](Self::outcome) says so.
    ///
    /// # Errors
    ///
    /// [`Error::NothingAccumulated`]; [`Error::Length`] or [`Error::WrongDevice`] within the tensor for weights that are not
    /// its own; [`Error::Refused`]. Before anything is written: the window goes on. [`Error::UpdatedInPart`] for a failure of
    /// the device after that: the window is then refused until [`reset`](Self::reset).
    pub fn step(&mut self, weights: Vec<WeightsMut<'_, B>>) -> Result<()> {
        self.training.accepts_weights(&weights)?;
        self.training.usable()?;
        if self.training.weights() == 0.0 {
            return Err(Error::NothingAccumulated { weights: 0.0 });
        }
        self.training.being_written();
        let queued = self.queue(weights);
        self.refuse_on_error(queued).map_err(|e| Error::UpdatedInPart { source: Box::new(e) })
    }

    fn queue(&mut self, weights: Vec<WeightsMut<'_, B>>) -> Result<()> {
        let Queued { training, optimizer, state, norm, corrections, .. } = self;
        let op = decide(training);
        training.sums.queue_decision(&op, B::view_mut(state), norm, B::view(corrections))?;
        // The step is that of the state.
        let terms = optimizer.unit_terms();
        let with = With { terms: &terms, factor: 0.0, step: 0, state: Some(B::view(state)) };
        let all: Vec<usize> = (0..training.specs().len()).collect();
        training.update_places(optimizer, &with, &all, weights)?;
        training.refused = None;
        training.reset()?;
        let scale = training.options.loss_scale;
        let growth_interval = scale.is_dynamic().then_some(scale.interval);
        let mut items = [AdvanceStepItem { state: B::view_mut(state) }];
        training.backend().advance_step(&AdvanceStep { growth_interval }, &mut items)
    }

    /// Sets the learning rate from here on; queues and returns.
    ///
    /// # Errors
    ///
    /// As for [`Optimizer::set_learning_rate`]; what the device reports.
    pub fn set_learning_rate(&mut self, to: f64) -> Result<()> {
        self.optimizer.set_learning_rate(to)?;
        let backend = self.training.backend();
        let rate = backend.upload(&[(to as f32).to_bits()])?;
        match B::slice_mut(B::view_mut(&mut self.state), RATE..RATE + 1) {
            Some(word) => backend.copy(B::view(&rate), word),
            None => Ok(()),
        }
    }

    /// The words of the [`State`], where they lie: for what multiplies the loss by its loss scale on the device.
    #[must_use]
    pub fn state(&self) -> B::View<'_, u32> {
        B::view(&self.state)
    }

    /// What the last step came to; waits for the device. `kept` are the elements of all steps since the last call.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for a step that was skipped because its factor is no normal f32; what the device reports.
    pub fn outcome(&mut self) -> Result<Outcome> {
        let state = self.read()?;
        let found = self.training.backend().read_reports(&self.optimizer.found)?;
        self.training.backend().clear_reports(&mut self.optimizer.found)?;
        let named = found.iter().zip(self.training.specs()).filter(|(r, _)| r.non_finite > 0);
        let kept: Vec<(String, u64)> = named.map(|(r, spec)| (spec.name.clone(), r.non_finite)).collect();
        self.kept = kept.iter().fold(self.kept, |sum, (_, n)| sum.saturating_add(*n));
        match state.skip {
            _ if state.micro_batches == 0 => Ok(Outcome::Nothing),
            SKIP_NO_WEIGHT => Err(Error::NothingAccumulated { weights: 0.0 }),
            SKIP_NON_FINITE => {
                let tensor = self.training.specs().get(state.found_slot as usize);
                let tensor = tensor.map(|spec| spec.name.clone()).unwrap_or_default();
                Ok(Outcome::Skipped { tensor, non_finite: state.found() })
            }
            SKIP_FACTOR => {
                let (weights, scale) = (f64::from(state.window_weights), f64::from(state.window_loss_scale));
                let got = f64::from(state.clip) / weights / scale;
                Err(Error::Parameter { name: "mean factor", got, requirement: "a normal f32" })
            }
            _ => Ok(Outcome::Updated { norm: f64::from(state.norm), clip: f64::from(state.clip), kept }),
        }
    }

    /// What was counted over the run; waits for the device. Kept elements are those of the outcomes that were read.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn counts(&self) -> Result<Counts> {
        let (state, before) = (self.read()?, self.training.counts);
        Ok(Counts {
            updated: before.updated + u64::from(state.updates.saturating_sub(self.before)),
            skipped: before.skipped + u64::from(state.skips),
            kept: before.kept.saturating_add(self.kept),
        })
    }

    /// What the loss is to be multiplied by now; waits for the device where it is dynamic.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn loss_scale(&self) -> Result<f64> {
        if self.training.options.loss_scale.is_dynamic() {
            return self.read().map(|state| f64::from(state.loss_scale));
        }
        Ok(self.training.loss_scale())
    }

    /// The training: what was accumulated, the number of the window. Its counts and loss scale are those that it had before.
    #[must_use]
    pub const fn training(&self) -> &Training<B> {
        &self.training
    }

    /// Drops what was accumulated and starts the next window; waits for the device.
    ///
    /// # Errors
    ///
    /// What the device reports; the window is then refused until a reset succeeds.
    pub fn reset(&mut self) -> Result<()> {
        let state = self.read()?;
        self.training.reset()?;
        let state = State { step: self.training.window(), micro_batch: 0, weights: 0.0, ..state };
        let written = self.training.backend().upload(state.words());
        self.state = self.refuse_on_error(written)?;
        Ok(())
    }

    /// The training and its optimizer, in the waiting form, with what the state has come to; waits for the device.
    ///
    /// # Errors
    ///
    /// [`Error::WindowStarted`] in the middle of a window; [`Error::Refused`]; what the device reports.
    pub fn settle(mut self) -> Result<(Training<B>, Optimizer<B>)> {
        self.training.usable()?;
        if self.training.count() > 0 {
            return Err(Error::WindowStarted { what: "the waiting form", held: self.training.count() });
        }
        // The outcome may be an error of its own: it was there to be read before.
        let kept = match self.outcome() {
            Err(e @ Error::Backend { .. }) => return Err(e),
            _ => self.kept,
        };
        let (state, counts) = (self.read()?, self.counts()?);
        self.training.counts = Counts { kept: self.training.counts.kept.saturating_add(kept), ..counts };
        if self.training.options.loss_scale.is_dynamic() {
            self.training.options.loss_scale.scale = f64::from(state.loss_scale);
            self.training.options.loss_scale.good = state.good;
        }
        self.optimizer.updates = state.updates;
        Ok((self.training, self.optimizer))
    }

    fn read(&self) -> Result<State> {
        let words = self.training.backend().download(B::view(&self.state))?;
        Ok(State::from_words(&words).unwrap_or_default())
    }

    /// After a failure the state on the device and the window may be out of step.
    fn refuse_on_error<T>(&mut self, result: Result<T>) -> Result<T> {
        self.training.refused = result.as_ref().err().map(ToString::to_string);
        result
    }
}

fn decide<B: Backend>(training: &Training<B>) -> Decide {
    Decide { clip_norm: training.options.clip_norm.map(|limit| limit as f32) }
}
