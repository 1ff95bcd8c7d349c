//! Whether a window can become a step, and by which factor; what was accumulated, out.

use super::{Metrics, Outcome, Training};
use crate::accumulator::{Id, NonFinite, Reduce};
use crate::error::{Error, Result};
use crate::op::{Backend, Element, finite};

/// What a window comes to before its step ([`Training::ready`]).
#[derive(Clone, Debug, PartialEq)]
pub enum Ready {
    /// It can be stepped with.
    Step {
        /// What sums are multiplied by: the mean, the loss scale and clipping in one number.
        factor: f32,
        /// The global norm of the mean gradient, free of the loss scale, before clipping.
        norm: f64,
        /// What the gradient is multiplied by to clip it: 1 where it is not.
        clip: f64,
    },
    /// It has NaN, Inf or magnitudes of 2^126 and above, and is to be dropped.
    Skip {
        /// The first tensor in which they were found.
        tensor: String,
        /// How many there were in it.
        non_finite: u64,
    },
}

impl<B: Backend> Training<B> {
    /// What the window comes to; waits for the device once. For an optimizer of your own: [`read_out`](Self::read_out)
    /// where it is a step, and [`finish`](Self::finish) either way.
    ///
    /// # Errors
    ///
    /// [`Error::NothingAccumulated`] where the weights add up to 0; [`Error::Parameter`] for a factor that is not finite;
    /// [`Error::Refused`]; what the device reports.
    pub fn ready(&self) -> Result<Ready> {
        self.usable()?;
        let mean = self.mean()?;
        // The norm first: what is queued for it is done when the reports come, and one wait is for both.
        let norm = self.unchecked_norm(mean)?;
        if self.options.config.non_finite != NonFinite::Zero {
            for (report, spec) in self.reports()?.iter().zip(self.specs()) {
                if report.non_finite > 0 {
                    return Ok(Ready::Skip { tensor: spec.name.clone(), non_finite: report.non_finite });
                }
            }
        }
        let clip = self.clip(norm);
        Ok(Ready::Step { factor: factor(mean * clip)?, norm, clip })
    }

    /// Ends the window: counts, moves a dynamic loss scale, calls the hook, and starts the next.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]; what the device reports.
    pub fn finish(&mut self, ready: Ready) -> Result<Outcome> {
        self.usable()?;
        self.ended(match ready {
            Ready::Step { norm, clip, .. } => Outcome::Updated { norm, clip, kept: Vec::new() },
            Ready::Skip { tensor, non_finite } => Outcome::Skipped { tensor, non_finite },
        })
    }

    pub(super) fn ended(&mut self, outcome: Outcome) -> Result<Outcome> {
        let (window, micro_batches, weights) = (self.window(), self.count(), self.weights());
        let loss_scale = self.loss_scale();
        self.reset()?;
        self.counts.add(&outcome);
        if self.options.loss_scale.after(outcome.updated()) {
            self.being_written();
            let cleared = self.clear_residual();
            self.refuse_on_error(cleared)?;
        }
        if let Some(hook) = &mut self.hook {
            let counts = self.counts;
            hook(&Metrics { window, micro_batches, weights, loss_scale, outcome: &outcome, counts });
        }
        Ok(outcome)
    }

    /// Writes the mean gradient of tensors, all or some of them, clipped, free of the loss scale. The window stays.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] within the first tensor that has any (except under [`NonFinite::Zero`]); otherwise as for
    /// [`ready`](Self::ready) and [`crate::accumulator::Accumulator::read_out`].
    pub fn read_out<'i, I: Into<Id<'i>> + Copy, T: Element>(
        &self,
        outputs: &mut [(I, B::ViewMut<'_, T>)],
    ) -> Result<()> {
        let factor = self.checked_factor()?;
        self.read_out_times(factor, outputs)
    }

    /// The same by a factor that was looked up, whatever the window found.
    pub(crate) fn read_out_times<'i, I: Into<Id<'i>> + Copy, T: Element>(
        &self,
        factor: f32,
        outputs: &mut [(I, B::ViewMut<'_, T>)],
    ) -> Result<()> {
        self.usable()?;
        self.sums.read_out_marked(Reduce::Times(factor), outputs)
    }

    /// The global norm of the mean gradient, free of the loss scale, from levels and scales: the root of one exact sum
    /// over all tensors, rounded once. Waits for the device.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`], [`Error::NothingAccumulated`], [`Error::Refused`] or what the device reports.
    pub fn norm(&self) -> Result<f64> {
        self.checked()?;
        self.unchecked_norm(self.mean()?)
    }

    /// What makes a sum of scaled gradients a mean of unscaled ones.
    pub(super) fn mean(&self) -> Result<f64> {
        let weights = self.weights();
        if weights == 0.0 {
            return Err(Error::NothingAccumulated { weights });
        }
        Ok(1.0 / self.total.unwrap_or(weights) / self.loss_scale())
    }

    fn clip(&self, norm: f64) -> f64 {
        match self.options.clip_norm {
            Some(limit) if norm > limit => limit / norm,
            _ => 1.0,
        }
    }

    fn unchecked_norm(&self, mean: f64) -> Result<f64> {
        Ok(self.sums.squared_norm_marked()?.sqrt() * mean.abs())
    }

    fn checked(&self) -> Result<()> {
        self.usable()?;
        if self.options.config.non_finite == NonFinite::Zero {
            return Ok(());
        }
        self.reports()?.iter().zip(self.specs()).try_for_each(|(r, s)| r.finite().map_err(|e| e.in_tensor(&*s.name)))
    }

    pub(crate) fn checked_factor(&self) -> Result<f32> {
        self.checked()?;
        let mean = self.mean()?;
        let clip = match self.options.clip_norm {
            Some(_) => self.clip(self.unchecked_norm(mean)?),
            None => 1.0,
        };
        factor(mean * clip)
    }
}

fn factor(x: f64) -> Result<f32> {
    let f = x as f32;
    finite("mean factor", f).map(|()| f)
}
