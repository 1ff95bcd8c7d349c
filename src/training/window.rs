//! What is said of a window before it is full: how many micro-batches it has, and what its mean is over.

use super::{Options, Training};
use crate::accumulator::{Config, Format};
use crate::error::{Error, Result};
use crate::op::Backend;
use crate::op::accumulate::counts_fit;

/// Micro-batches up to which 4 bits are the default.
const FEW: u32 = 8;

impl Options {
    /// The choices for windows of so many micro-batches, those of all workers: they are declared
    /// ([`Options::micro_batches`]), and sums have 4 bits up to 8 of them, 8 bits above. Choose more beside it, with
    /// `..Options::window(16)`; whoever chooses a `config` chooses the width.
    ///
    /// # Examples
    ///
    /// ```
    /// use trigrad::accumulator::Format;
    /// use trigrad::training::Options;
    /// let options = Options { clip_norm: Some(1.0), ..Options::window(16) };
    /// assert_eq!(options.config.format, Format::Adaptive { bits: 8 });
    /// assert_eq!(Options::window(8).config.format, Format::Adaptive { bits: 4 });
    /// ```
    #[must_use]
    pub fn window(micro_batches: u32) -> Self {
        let bits = if micro_batches <= FEW { 4 } else { 8 };
        let config = Config { format: Format::Adaptive { bits }, ..Config::default() };
        Options { config, micro_batches: Some(micro_batches), ..Options::default() }
    }

    /// Checks that a declared window has micro-batches, and that counts of this format can hold so many.
    pub(super) fn window_fits(&self, format: Format) -> Result<()> {
        let Some(declared) = self.micro_batches else { return Ok(()) };
        if declared == 0 {
            return Err(Error::Parameter { name: "micro-batches", got: 0.0, requirement: "at least 1" });
        }
        match format {
            Format::Exact { bits, .. } => counts_fit(bits, u64::from(declared)),
            Format::Adaptive { .. } | Format::F32 => Ok(()),
        }
    }
}

impl<B: Backend> Training<B> {
    /// Whether the window as declared has room for one more micro-batch.
    pub(super) const fn room(&self) -> Result<()> {
        match self.options.micro_batches {
            Some(declared) if self.count() >= declared => Err(Error::WindowFull { declared }),
            _ => Ok(()),
        }
    }

    /// The mean of this window is over this total instead of the sum of its weights: the tokens of all workers, for
    /// instance, where each holds a part of the window. Norm, clipping, step and read-outs follow. It ends with the
    /// window, and is not in a checkpoint: set it before the step.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless it is finite and above 0; [`Error::NothingAccumulated`] before the first micro-batch of the
    /// window; [`Error::Refused`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use trigrad::{accumulator::{Floats, Spec}, cpu::Cpu, training::{Options, Training}};
    /// let mut training = Training::new(Cpu::new(), &[Spec::new("w", [2])], Options::default())?;
    /// training.accumulate(&[("w", [3f32, 4.0][..].into())], 10.0)?; // the mean of 10 tokens here
    /// training.set_total(40.0)?; // of 40 in all
    /// assert_eq!(training.norm()?, 5.0 * 10.0 / 40.0);
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn set_total(&mut self, total: f64) -> Result<()> {
        self.usable()?;
        if self.count() == 0 {
            return Err(Error::NothingAccumulated { weights: 0.0 });
        }
        if !(total.is_finite() && total > 0.0) {
            return Err(Error::Parameter { name: "total", got: total, requirement: "finite and above 0" });
        }
        self.total = Some(total);
        Ok(())
    }

    /// The norm of the mean gradient of each tensor, in order, free of the loss scale, before clipping; from levels and
    /// scales, without a dense gradient. Waits for the device. The share of a tensor's elements that were cut is
    /// [`clipped`](crate::op::Report::clipped) in [`reports`](Self::reports) over its elements, a micro-batch.
    ///
    /// # Errors
    ///
    /// As for [`norm`](Self::norm).
    pub fn norms(&self) -> Result<Vec<f64>> {
        self.usable()?;
        let mean = self.mean()?.abs();
        Ok(self.sums.squared_norms()?.into_iter().map(|squared| squared.sqrt() * mean).collect())
    }
}
