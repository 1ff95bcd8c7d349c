//! One tensor at a time, for what works through a model tensor by tensor: the caller moves the window on
//! ([`Accumulator::advance`]), having checked the weight ([`Accumulator::validate`]).

use super::{Accumulator, Floats};
use crate::error::Result;
use crate::op::{Backend, Element, length};

impl<B: Backend> Accumulator<B> {
    /// Adds a gradient to one tensor, under the draws of this micro-batch.
    pub(crate) fn add_one(&mut self, i: usize, x: Floats<'_, B>, weight: f32) -> Result<()> {
        self.fits_one(i, &x)?;
        self.validate(weight)?;
        self.write(|this| this.add(i, &[x], weight))
    }

    /// Writes the sum of one tensor, times a factor, whatever the window found.
    pub(crate) fn read_out_one<T: Element>(&self, i: usize, factor: f32, out: B::ViewMut<'_, T>) -> Result<()> {
        self.read_out_marked(super::Reduce::Times(factor), &mut [(i, out)])
    }

    fn fits_one(&self, i: usize, x: &Floats<'_, B>) -> Result<()> {
        self.not_refused()?;
        let i = self.index(i)?;
        let fits = length("gradient", self.tensors[i].len, x.len()).and_then(|()| x.accepted(&self.backend));
        fits.map_err(|e| e.in_tensor(&*self.specs[i].name))
    }
}
