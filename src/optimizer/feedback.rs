//! Error feedback: what rounding lost is held in a few bits and added to the next micro-batch.
//!
//! With `x' = weight x + r` and levels that stood for `a` and stand for `b` after `x'` was added, the residual becomes
//! `r' = (a + x') - b`, itself rounded stochastically. It is carried from window to window. One tensor at a time, so
//! that the temporaries are never larger than a few times the largest tensor.

use super::ModelGradients;
use crate::accumulator::{Accumulator, Floats, Reduce};
use crate::candle::storage::{tensor, with_views};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::memory::Memory;
use candle_core::{DType, Tensor};

impl ModelGradients {
    pub(super) fn add_with_feedback(&mut self, gradients: &[&Tensor], weight: f32) -> Result<()> {
        let (Some(levels), Some(residual)) = (&mut self.packed, &mut self.residual) else {
            return Ok(());
        };
        for (i, gradient) in gradients.iter().enumerate() {
            let x = gradient.to_dtype(DType::F32)?;
            let x = if weight == 1.0 { x } else { x.affine(f64::from(weight), 0.0)? };
            let x = (x + value(residual, i, gradient)?)?;
            let whole = (value(levels, i, gradient)? + &x)?;
            add(&x, |x| levels.add_one(i, x, 1.0))?;
            let lost = (whole - value(levels, i, gradient)?)?;
            add(&lost, |x| residual.replace_one(i, x))?;
        }
        levels.advance(weight);
        residual.advance(weight);
        Ok(())
    }

    /// Forgets what rounding lost: its unit, the loss scale, is no longer the same.
    pub(super) fn clear_residual(&mut self) -> Result<()> {
        match &mut self.residual {
            Some(residual) => residual.reset_to(self.window.step),
            None => Ok(()),
        }
    }
}

/// What is held of a tensor.
fn value(from: &Accumulator<Device>, i: usize, like: &Tensor) -> Result<Tensor> {
    let mut out = from.backend().zeros::<f32>(like.elem_count())?;
    from.read_out_marked(Reduce::Sum, &mut [(i, Device::view_mut(&mut out))])?;
    tensor(out, like.dims(), like.device())
}

fn add(x: &Tensor, f: impl FnOnce(Floats<'_, Device>) -> Result<()>) -> Result<()> {
    with_views(&[x], |views| match views {
        [x] => f(*x),
        _ => Err(Error::Length { what: "tensors", expected: 1, got: views.len() as u64 }),
    })
}
