//! What was accumulated, out: norms, read-outs, and the step of any optimizer.

use super::{ModelGradients, Outcome, Place};
use crate::accumulator::{NonFinite, Reduce};
use crate::candle::storage::{Shared, tensor};
use crate::device::{Buffer, Device, ViewMut};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::op::{Element, Report};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use candle_nn::Optimizer;
use half::{bf16, f16};
use std::collections::HashMap;

/// What a step multiplies sums by, if it is not skipped.
pub(super) enum Ready {
    Step { factor: f32, norm: Option<f64>, clip: f64 },
    Skip { tensor: String, non_finite: u64 },
}

impl ModelGradients {
    /// Steps an optimizer over the same variables with the mean gradient, clipped, free of the loss scale; then starts
    /// the next window. A window with NaN or Inf is dropped instead (except under [`NonFinite::Zero`]). Waits for the
    /// device. Learning-rate schedules are the optimizer's own business.
    ///
    /// # Errors
    ///
    /// [`Error::NothingAccumulated`]; [`Error::Refused`]; what the optimizer or the device reports.
    pub fn step<O: Optimizer>(&mut self, optimizer: &mut O) -> Result<Outcome> {
        match self.ready()? {
            Ready::Skip { tensor, non_finite } => self.skip(tensor, non_finite),
            Ready::Step { factor, norm, clip } => {
                optimizer.step(&self.store(factor)?)?;
                self.done(norm, clip)
            }
        }
    }

    /// The mean gradient as a `GradStore`, clipped, free of the loss scale. The window stays.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] within the first tensor that has any; [`Error::MissingTensor`] where only shapes were given;
    /// as for [`step`](Self::step).
    pub fn read_out_store(&self) -> Result<GradStore> {
        self.store(self.checked_factor()?)
    }

    /// The same by name.
    ///
    /// # Errors
    ///
    /// As for [`read_out_store`](Self::read_out_store).
    pub fn read_out(&self) -> Result<HashMap<String, Tensor>> {
        let tensors = self.tensors(self.checked_factor()?)?;
        Ok(self.specs.iter().map(|s| s.name.clone()).zip(tensors).collect())
    }

    /// The global norm of the mean gradient, free of the loss scale, from levels and scales; waits for the device.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`], [`Error::NothingAccumulated`], [`Error::Refused`] or what the device reports.
    pub fn norm(&self) -> Result<f64> {
        self.checked()?;
        self.unchecked_norm(self.mean()?)
    }

    /// What was found in this window, one report a tensor, in order; waits for the device.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn reports(&self) -> Result<Vec<Report>> {
        let packed = self.packed.as_ref().map_or_else(|| Ok(Vec::new()), |p| p.reports())?;
        let dense = self.device.read_reports(&self.dense_reports)?;
        let report = |place: &Place| match *place {
            Place::Packed(i) => packed.get(i).copied().unwrap_or_default(),
            Place::Dense(i) => {
                let mut report = dense.get(i).copied().unwrap_or_default();
                report.merge(self.dense_loaded.get(i).copied().unwrap_or_default());
                report
            }
        };
        Ok(self.places.iter().map(report).collect())
    }

    pub(super) fn ready(&self) -> Result<Ready> {
        self.usable()?;
        let mean = self.mean()?;
        if self.options.config.non_finite != NonFinite::Zero {
            for (report, spec) in self.reports()?.iter().zip(&self.specs) {
                if report.non_finite > 0 {
                    return Ok(Ready::Skip { tensor: spec.name.clone(), non_finite: report.non_finite });
                }
            }
        }
        let (norm, clip) = self.clip(mean)?;
        Ok(Ready::Step { factor: factor(mean * clip)?, norm, clip })
    }

    pub(super) fn skip(&mut self, tensor: String, non_finite: u64) -> Result<Outcome> {
        self.finish(false)?;
        Ok(Outcome::Skipped { tensor, non_finite })
    }

    pub(super) fn done(&mut self, norm: Option<f64>, clip: f64) -> Result<Outcome> {
        self.finish(true)?;
        Ok(Outcome::Updated { norm, clip })
    }

    fn finish(&mut self, updated: bool) -> Result<()> {
        self.window.skipped += u64::from(!updated);
        self.reset()?;
        if self.options.loss_scale.after(updated) { self.clear_residual() } else { Ok(()) }
    }

    /// What makes a sum of scaled gradients a mean of unscaled ones.
    fn mean(&self) -> Result<f64> {
        let weights = self.window.weights;
        if weights == 0.0 {
            return Err(Error::NothingAccumulated { weights });
        }
        Ok(1.0 / weights / self.options.loss_scale.value())
    }

    fn clip(&self, mean: f64) -> Result<(Option<f64>, f64)> {
        match self.options.clip_norm {
            None => Ok((None, 1.0)),
            Some(limit) => {
                let norm = self.unchecked_norm(mean)?;
                Ok((Some(norm), if norm > limit { limit / norm } else { 1.0 }))
            }
        }
    }

    fn unchecked_norm(&self, mean: f64) -> Result<f64> {
        let mut squares = self.packed.as_ref().map_or(Ok(0.0), |p| p.squared_norm_marked())?;
        let mut dense: Option<Tensor> = None; // one number comes to the host, however many tensors there are
        for sum in &self.dense {
            let own = sum.to_dtype(DType::F64)?.sqr()?.sum_all()?;
            dense = Some(match dense {
                Some(sum) => (sum + own)?,
                None => own,
            });
        }
        squares += dense.map_or(Ok(0.0), |sum| sum.to_scalar::<f64>())?;
        Ok(squares.sqrt() * mean.abs())
    }

    fn checked(&self) -> Result<()> {
        self.usable()?;
        if self.options.config.non_finite == NonFinite::Zero {
            return Ok(());
        }
        self.reports()?.iter().zip(&self.specs).try_for_each(|(r, s)| r.finite().map_err(|e| e.in_tensor(&*s.name)))
    }

    fn checked_factor(&self) -> Result<f32> {
        self.checked()?;
        let mean = self.mean()?;
        factor(mean * self.clip(mean)?.1)
    }

    fn store(&self, factor: f32) -> Result<GradStore> {
        if let (true, Some(spec)) = (self.vars.is_empty(), self.specs.first()) {
            return Err(Error::MissingTensor { name: format!("variable of {}", spec.name) });
        }
        let mut store = GradStore::default();
        for (var, gradient) in self.vars.iter().zip(self.tensors(factor)?) {
            store.insert(var, gradient);
        }
        Ok(store)
    }

    /// Sums times a factor, in the order of the tensors.
    fn tensors(&self, factor: f32) -> Result<Vec<Tensor>> {
        let mut out: Vec<Option<Tensor>> = vec![None; self.specs.len()];
        self.packed_type::<f32>(factor, &mut out)?;
        self.packed_type::<f16>(factor, &mut out)?;
        self.packed_type::<bf16>(factor, &mut out)?;
        for (i, place) in self.places.iter().enumerate() {
            if let Place::Dense(d) = *place {
                out[i] = Some(self.dense[d].affine(f64::from(factor), 0.0)?.to_dtype(self.dtypes[i])?);
            }
        }
        let missing = |(t, spec): (Option<Tensor>, &crate::accumulator::Spec)| {
            t.ok_or_else(|| Error::MissingTensor { name: spec.name.clone() })
        };
        out.into_iter().zip(&self.specs).map(missing).collect()
    }

    fn packed_type<T: Element + Shared>(&self, factor: f32, out: &mut [Option<Tensor>]) -> Result<()> {
        let Some(packed) = &self.packed else { return Ok(()) };
        let mut buffers: Vec<(usize, usize, Buffer<T>)> = Vec::new();
        for (i, place) in self.places.iter().enumerate() {
            if let (Place::Packed(p), true) = (*place, self.dtypes[i] == T::DTYPE) {
                buffers.push((i, p, self.device.zeros(self.specs[i].elements()?)?));
            }
        }
        if !buffers.is_empty() {
            let mut views: Vec<(usize, ViewMut<'_, T>)> =
                buffers.iter_mut().map(|(_, p, b)| (*p, Device::view_mut(b))).collect();
            packed.read_out_marked(Reduce::Times(factor), &mut views)?;
        }
        for (i, _, buffer) in buffers {
            out[i] = Some(tensor(buffer, &self.specs[i].shape, &self.home)?);
        }
        Ok(())
    }
}

fn factor(x: f64) -> Result<f32> {
    let f = x as f32;
    crate::op::finite("mean factor", f).map(|()| f)
}
