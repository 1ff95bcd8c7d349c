//! One tensor at a time, for what works through a model tensor by tensor: the caller moves the window on.

use super::gradients::Typed;
use super::{Accumulator, Floats, Format};
use crate::op::Backend;
use crate::error::{Error, Result};
use crate::op::Report;
use crate::op::accumulate::AdaptiveItem;
use half::{bf16, f16};

impl<B: Backend> Accumulator<B> {
    /// Adds a gradient to one tensor of adaptive levels, under the draws of this micro-batch.
    pub(crate) fn add_one(&mut self, i: usize, x: Floats<'_, B>, weight: f32) -> Result<()> {
        self.usable()?;
        self.write(|this| match x {
            Floats::F32(_) => this.one::<f32>(i, &x, weight),
            Floats::F16(_) => this.one::<f16>(i, &x, weight),
            Floats::Bf16(_) => this.one::<bf16>(i, &x, weight),
        })
    }

    /// Makes one tensor of adaptive levels hold `x`, rounded.
    pub(crate) fn replace_one(&mut self, i: usize, x: Floats<'_, B>) -> Result<()> {
        self.usable()?;
        self.write(|this| match this.tensors.get_mut(i) {
            Some(tensor) => {
                this.backend.clear(B::view_mut(&mut tensor.levels))?;
                this.backend.clear(B::view_mut(&mut tensor.scales))
            }
            None => Ok(()),
        })?;
        self.add_one(i, x, 1.0)
    }

    /// Moves the window on by a micro-batch whose tensors were all added one by one.
    pub(crate) fn advance(&mut self, weight: f32) {
        self.window.held = self.window.held.saturating_add(1);
        self.window.micro_batch += 1;
        self.window.weights += f64::from(weight);
    }

    /// Starts the next window with what is held, and with nothing reported; empty if what is held is refused.
    pub(crate) fn carry_to(&mut self, step: u32) -> Result<()> {
        if self.window.refused.is_some() {
            return self.reset_to(step);
        }
        self.write(|this| this.backend.clear_reports(&mut this.reports))?;
        self.merged.fill(Report::default());
        self.window.step = step;
        self.window.micro_batch = 0;
        Ok(())
    }

    fn one<T: Typed>(&mut self, i: usize, x: &Floats<'_, B>, weight: f32) -> Result<()> {
        let Format::Adaptive { bits } = self.config.format else {
            return Err(Error::Limit { what: "exact counts to add one by one", got: 1, limit: 0 });
        };
        let op = self.adaptive(bits, weight);
        if let (Some(tensor), Some(x)) = (self.tensors.get_mut(i), T::of(x)) {
            let item = AdaptiveItem {
                tensor: i as u32,
                first: 0,
                x: B::shorten(x),
                levels: B::view_mut(&mut tensor.levels),
                scales: B::view_mut(&mut tensor.scales),
                report: i,
            };
            self.backend.accumulate_adaptive(&op, &mut [item], &mut self.reports)?;
        }
        Ok(())
    }
}
