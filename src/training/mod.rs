//! Training on any backend: a whole model's gradients, held in a few bits from the backward pass to the weight update.
//!
//! [`Training`] takes the gradients of each micro-batch, as views of buffers where they lie. What it holds then goes to
//! the weights through an [`Optimizer`], which reads levels and scales straight into the update, so that a dense gradient
//! never exists; or is read out for an optimizer of your own ([`Training::ready`], [`Training::read_out`],
//! [`Training::finish`]). Clipping, loss scale, error feedback and what happens to NaN are [`Options`]. No framework's
//! type is in here: on candle the same object stands behind [`crate::candle::ModelGradients`].
//!
//! # The outcome
//!
//! A window with NaN or Inf is dropped and the weights stay: [`Outcome::Skipped`]. Look at it, or at
//! [`Training::counts`], or register a hook ([`Training::on_step`]): a run whose windows are all skipped looks like a run
//! that learns nothing.
//!
//! # Checkpoints
//!
//! [`Training::save`] writes weights, moments, sums and the place in the run to one file with one checksum. On load
//! **the file decides what the run has come to**: weights, moments, sums, residuals, seed, step, micro-batch, counts,
//! updates, and where a dynamic loss scale stands. **The caller decides how it goes on**: learning rate, schedule, groups, momentum, betas,
//! eps, decay, clipping, what happens to NaN, to missing gradients, how a loss scale grows. **Structure must
//! be the same**: names, shapes and order of the tensors, their formats and headroom, the block, the residual's bits, the
//! kind of optimizer, the number and format of its moments, tensor by tensor, the types of the weights; a difference is [`Error::CheckpointMismatch`], and nothing is
//! then changed. A file of version 1, of adaptive sums, loads too; it has no weights: load them from their own.
//!
//! # Examples
//!
//! ```
//! use trigrad::accumulator::{Floats, Spec};
//! use trigrad::training::{AdamW, Options, Optimizer, Outcome, Training, WeightsMut};
//! use trigrad::cpu::Cpu;
//!
//! let specs = [Spec::new("w", [64])];
//! let mut training = Training::new(Cpu::new(), &specs, Options { small: 0, ..Options::default() })?;
//! let mut adam = Optimizer::adamw(&training, AdamW { learning_rate: 0.1, ..AdamW::default() })?;
//! let mut w = vec![0f32; 64];
//! for micro_batch in 0..16 {
//!     let gradient: Vec<f32> = w.iter().map(|w| w - 1.0).collect();
//!     training.accumulate(&[("w", gradient[..].into())], 1.0)?;
//!     if training.count() == 8 {
//!         match training.step(&mut adam, vec![WeightsMut::F32(&mut w[..])])? {
//!             Outcome::Updated { norm, .. } => println!("norm {norm}"),
//!             Outcome::Skipped { tensor, .. } => eprintln!("NaN or Inf in {tensor}: weights as they were"),
//!             Outcome::Nothing => {}
//!         }
//!     }
//! }
//! assert!(w.iter().all(|w| *w > 0.15));
//! # Ok::<(), trigrad::Error>(())
//! ```

mod accumulate;
mod checkpoint;
mod feedback;
mod groups;
mod loss_scale;
mod moments;
mod optimizer;
mod options;
mod outcome;
mod parts;
mod queued;
mod ready;
mod rule;
mod step;
mod summary;
mod upgrade;
mod weights;
mod window;

#[cfg(feature = "candle")]
pub(crate) use checkpoint::download;
pub use groups::{Group, MomentFormat, OptimizerOptions};
pub use loss_scale::LossScale;
pub use optimizer::Optimizer;
pub use options::{Missing, Options};
#[cfg(feature = "candle")]
pub(crate) use options::{all_match, contains_any};
pub use outcome::{Counts, Metrics, Outcome};
pub use queued::Queued;
pub use ready::Ready;
pub use rule::{AdamW, Rule, Sgd};
#[cfg(feature = "candle")]
pub(crate) use step::Begun;
pub use summary::{Row, Summary};
pub use weights::WeightsMut;

use crate::accumulator::{Accumulator, BEING_WRITTEN, Spec};
use crate::error::{Error, Result};
use crate::op::{Backend, Report};
use feedback::Feedback;

/// The gradients of a model over a window of micro-batches, and the step that they lead to; see the [module](self).
pub struct Training<B: Backend> {
    options: Options,
    sums: Accumulator<B>,
    feedback: Option<Feedback<B>>,
    /// Which tensors a gradient reached in this window.
    reached: Vec<bool>,
    counts: Counts,
    refused: Option<String>,
    /// What the mean of this window is over, where it is not the sum of its weights.
    total: Option<f64>,
    hook: Option<Box<Hook>>,
}

type Hook = dyn FnMut(&Metrics<'_>) + Send + Sync;

impl<B: Backend> std::fmt::Debug for Training<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Training")
            .field("sums", &self.sums)
            .field("options", &self.options)
            .field("counts", &self.counts)
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Training<B> {
    /// For named shapes on a backend. The order of the tensors is part of what the draws depend on.
    ///
    /// # Errors
    ///
    /// As for [`Accumulator::new`] and [`Options::validate`]; [`Error::NothingMatches`] for a part in
    /// [`Options::keep_f32`] that no name contains; [`Error::Conflict`] for [`Options::leave_out`], which is for models of
    /// variables.
    pub fn new(backend: B, tensors: &[Spec], options: Options) -> Result<Self> {
        if !options.leave_out.is_empty() {
            let advice = "leave them out of the list of tensors";
            return Err(Error::Conflict { what: "leave_out", with: "a list of names and shapes", advice });
        }
        Self::build(backend, tensors, options)
    }

    /// The same for tensors of which those to be left out are gone.
    pub(crate) fn build(backend: B, tensors: &[Spec], options: Options) -> Result<Self> {
        options.validate()?;
        let specs = options.formats(tensors)?;
        let sums = Accumulator::new(backend, &specs, options.config)?;
        Ok(Training {
            feedback: Feedback::new(&sums, &options)?,
            reached: vec![false; specs.len()],
            sums,
            options,
            counts: Counts::default(),
            refused: None,
            total: None,
            hook: None,
        })
    }

    /// The choices; the loss scale in them moves with the training.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// The tensors, in order.
    #[must_use]
    pub fn specs(&self) -> &[Spec] {
        self.sums.specs()
    }

    /// The backend this lives on.
    #[must_use]
    pub const fn backend(&self) -> &B {
        self.sums.backend()
    }

    /// Micro-batches in this window.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.sums.count()
    }

    /// The sum of the weights of this window.
    #[must_use]
    pub const fn weights(&self) -> f64 {
        self.sums.weights()
    }

    /// The number of this window: steps taken and skipped before it.
    #[must_use]
    pub const fn window(&self) -> u32 {
        self.sums.step()
    }

    /// What was counted over the run: windows updated and skipped, elements kept.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The accumulator underneath: scales, state, read-outs of sums.
    #[must_use]
    pub const fn sums(&self) -> &Accumulator<B> {
        &self.sums
    }

    /// What the loss is to be multiplied by.
    #[must_use]
    pub const fn loss_scale(&self) -> f64 {
        self.options.loss_scale.value()
    }

    /// Sets the index that the next micro-batch draws under, where workers share a step and a seed: the global number
    /// of the micro-batch. With the same index they draw the same numbers for the same tensor.
    pub const fn set_micro_batch(&mut self, index: u32) {
        self.sums.set_micro_batch(index);
    }

    /// Calls `hook` after every step, skipped ones included: for logs and metrics.
    pub fn on_step(&mut self, hook: impl FnMut(&Metrics<'_>) + Send + Sync + 'static) {
        self.hook = Some(Box::new(hook));
    }

    /// Cuts the global norm of the mean gradient to this from now on, or no longer.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless it is finite and above 0.
    pub fn set_clip_norm(&mut self, clip_norm: Option<f64>) -> Result<()> {
        let options = Options { clip_norm, ..self.options.clone() };
        options.validate()?;
        self.options = options;
        Ok(())
    }

    /// Fixes the block scales of a tensor, under [`crate::accumulator::Scales::Given`].
    ///
    /// # Errors
    ///
    /// As for [`Accumulator::set_scales`].
    pub fn set_scales<'i>(&mut self, id: impl Into<crate::accumulator::Id<'i>>, scales: &[half::bf16]) -> Result<()> {
        self.usable()?;
        self.sums.set_scales(id, scales)
    }

    /// Drops what was accumulated and starts the next window. What rounding lost ([`Options::residual_bits`]) is
    /// carried on, except where the window was refused.
    ///
    /// # Errors
    ///
    /// What the device reports; the window is then refused until a reset succeeds.
    pub fn reset(&mut self) -> Result<()> {
        let refused = self.refused.is_some();
        self.being_written();
        let cleared = self.clear(refused);
        self.refuse_on_error(cleared)?;
        self.reached.fill(false);
        self.total = None;
        Ok(())
    }

    fn clear(&mut self, refused: bool) -> Result<()> {
        if refused {
            // Maxima of a window that was written in part are no scales: as after a refusal of its own.
            self.sums.refuse(BEING_WRITTEN);
        }
        self.sums.reset()?;
        match &mut self.feedback {
            Some(feedback) => feedback.next_window(self.sums.backend(), refused),
            None => Ok(()),
        }
    }

    /// Forgets what rounding lost: its unit, the loss scale, is no longer the same.
    fn clear_residual(&mut self) -> Result<()> {
        match &mut self.feedback {
            Some(feedback) => feedback.clear(self.sums.backend()),
            None => Ok(()),
        }
    }

    /// What was found in this window, one report a tensor, in order; waits for the device.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn reports(&self) -> Result<Vec<Report>> {
        let mut reports = self.sums.reports()?;
        if let Some(feedback) = &self.feedback {
            let found = feedback.reports(self.sums.backend())?;
            reports.iter_mut().zip(found).for_each(|(report, found)| report.merge(found));
        }
        Ok(reports)
    }

    /// Before anything is written: sums, residuals and weights are written one after the other, and are out of step if a
    /// call fails or panics in between. The window is refused until the call ends well.
    fn being_written(&mut self) {
        self.refused = Some(BEING_WRITTEN.to_owned());
    }

    /// After a call that [writes](Self::being_written): a failure is the reason to refuse, if anything was written.
    fn refuse_on_error<T>(&mut self, result: Result<T>) -> Result<T> {
        match (&result, &mut self.refused) {
            (Ok(_), refused) => *refused = None,
            (Err(e), Some(reason)) => *reason = e.to_string(),
            (Err(_), None) => {}
        }
        result
    }

    /// An error of a step that other tensors may already have taken.
    #[cfg(feature = "candle")]
    pub(crate) fn in_part(&self, e: Error) -> Error {
        match e {
            e @ Error::UpdatedInPart { .. } => e,
            e if self.refused.is_some() => Error::UpdatedInPart { source: Box::new(e) },
            e => e,
        }
    }

    /// Whether the window can be used, and holds whole micro-batches only.
    fn usable(&self) -> Result<()> {
        self.not_refused()?;
        self.sums.usable()
    }

    fn not_refused(&self) -> Result<()> {
        match &self.refused {
            Some(reason) => Err(Error::Refused { reason: reason.clone() }),
            None => Ok(()),
        }
    }
}
