//! One tensor at a time, for what works through a model tensor by tensor: the caller moves the window on
//! ([`Accumulator::advance`]), having checked the weight ([`Accumulator::validate`]).

use super::{Accumulator, Floats};
use crate::error::{Error, Result};
use crate::op::{Backend, Element, Report, length};

#[cfg_attr(not(feature = "candle"), allow(dead_code, reason = "for the training objects"))]
impl<B: Backend> Accumulator<B> {
    /// Adds a gradient to one tensor, under the draws of this micro-batch.
    pub(crate) fn add_one(&mut self, i: usize, x: Floats<'_, B>, weight: f32) -> Result<()> {
        self.fits_one(i, &x)?;
        self.validate(weight)?;
        self.write(|this| this.add(i, &[x], weight))
    }

    /// Makes one tensor hold `x`, rounded to its format.
    pub(crate) fn replace_one(&mut self, i: usize, x: Floats<'_, B>) -> Result<()> {
        self.fits_one(i, &x)?;
        self.validate(1.0)?;
        if self.tensors[i].format.is_exact() {
            let advice = "counts belong to a window; hold what is replaced in Format::Adaptive";
            return Err(Error::Format { operation: "replacing a sum", format: "exact", advice });
        }
        self.write(|this| {
            this.written = true;
            this.tensors[i].clear(&this.backend, false)?;
            this.add(i, &[x], 1.0)
        })
    }

    /// Writes the sum of one tensor, times a factor, whatever the window found.
    pub(crate) fn read_out_one<T: Element>(&self, i: usize, factor: f32, out: B::ViewMut<'_, T>) -> Result<()> {
        self.read_out_marked(super::Reduce::Times(factor), &mut [(i, out)])
    }

    /// The reports of this window where they lie, one slot a tensor: guards for what reads the sums in place. What merged
    /// windows found is not among them: [`merged_finite`](Self::merged_finite).
    pub(crate) const fn reports_held(&self) -> &B::Reports {
        &self.reports
    }

    /// Whether what was merged or loaded into the window was finite.
    pub(crate) fn merged_finite(&self) -> Result<()> {
        self.all_finite(&self.merged)
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

    fn fits_one(&self, i: usize, x: &Floats<'_, B>) -> Result<()> {
        self.usable()?;
        let i = self.index(i)?;
        let fits = length("gradient", self.tensors[i].len, x.len()).and_then(|()| x.accepted(&self.backend));
        fits.map_err(|e| e.in_tensor(&*self.specs[i].name))
    }
}
