//! One micro-batch in: checked as a whole, then added as a whole.

use super::in_place::{AT_ONCE, with_weights};
use super::{ModelGradients, Place};
use crate::accumulator::{Floats, Id, NonFinite};
use crate::backend::{Backend, Memory};
use crate::candle::Gradients;
use crate::candle::storage::{float, with_views};
use crate::device::{Device, Reports};
use crate::error::{Error, Result};
use crate::numerics::update::SgdTerms;
use crate::op::check::{Check, Item};
use crate::op::update::{Gradient, Sgd, SgdItem, Source};
use crate::op::{Draw, Report, finite};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};

/// Magnitudes from 2^126 up are out of range.
const RANGE: f64 = 85_070_591_730_234_615_865_843_651_857_942_052_864.0;

impl ModelGradients {
    /// Adds `weight` times the gradients of one micro-batch: a `GradStore` (of a model of variables), or a map of names
    /// to tensors. Every tensor must be there.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`], [`Error::MissingTensor`]; [`Error::Shape`], [`Error::ElementType`] or
    /// [`Error::WrongDevice`] within the tensor; [`Error::Parameter`] for a weight that is not finite; [`Error::Limit`]
    /// where exact counts are full; [`Error::NonFinite`] under [`NonFinite::Reject`]. The state is then as it was.
    /// [`Error::Refused`] after a failure of the device in the middle of a call.
    pub fn accumulate<G: Gradients + ?Sized>(&mut self, gradients: &G, weight: f32) -> Result<()> {
        self.usable()?;
        finite("weight", weight)?;
        let given = self.in_order(gradients.given(&self.vars))?;
        let (mut packed, mut dense) = (Vec::new(), Vec::new());
        for (place, tensor) in self.places.iter().zip(&given) {
            match place {
                Place::Packed(_) => packed.push(*tensor),
                Place::Dense(_) => dense.push(tensor.to_dtype(DType::F32)?),
            }
        }
        if self.options.config.non_finite == NonFinite::Reject {
            self.reject(&dense, weight, Place::Dense)?;
            if self.residual.is_some() {
                self.reject(&packed, weight, Place::Packed)?;
            }
        }
        let zeroed = match self.options.config.non_finite {
            NonFinite::Zero => Some(dense.iter().map(|x| inside(x, weight)).collect::<Result<Vec<_>>>()?),
            NonFinite::Reject | NonFinite::Defer => None,
        };
        if self.residual.is_some() {
            let added = self.add_with_feedback(&packed, weight);
            self.refuse_on_error(added)?;
        } else if let Some(accumulator) = &mut self.packed {
            with_views(&packed, |views| {
                let list: Vec<(Id<'_>, Floats<'_, Device>)> =
                    views.iter().enumerate().map(|(i, v)| (Id::Index(i), *v)).collect();
                accumulator.accumulate(&list, weight)
            })?;
        }
        let checked = find(&self.device, &dense, weight, &mut self.dense_reports);
        self.refuse_on_error(checked)?;
        let added = self.add_dense(zeroed.as_ref().unwrap_or(&dense), weight);
        self.refuse_on_error(added)?;
        self.window.held += 1;
        self.window.micro_batch += 1;
        self.window.weights += f64::from(weight);
        Ok(())
    }

    /// The same, taking the gradients: their memory is free when this returns.
    ///
    /// # Errors
    ///
    /// As for [`accumulate`](Self::accumulate).
    #[expect(clippy::needless_pass_by_value, reason = "freeing the gradients is what it is for")]
    pub fn consume(&mut self, gradients: GradStore, weight: f32) -> Result<()> {
        self.accumulate(&gradients, weight)
    }

    /// The gradients in the order of the tensors.
    fn in_order<'g>(&self, given: Vec<(Id<'_>, &'g Tensor)>) -> Result<Vec<&'g Tensor>> {
        let mut ordered: Vec<Option<&Tensor>> = vec![None; self.specs.len()];
        for (id, tensor) in given {
            let i = match id {
                Id::Index(i) => i,
                Id::Name(name) => self
                    .specs
                    .iter()
                    .position(|s| s.name == name)
                    .ok_or_else(|| Error::UnknownTensor { name: name.to_owned(), known: self.specs.len() })?,
            };
            let spec = &self.specs[i];
            if tensor.dims() != spec.shape {
                let shape = Error::Shape { expected: spec.shape.clone(), got: tensor.dims().to_vec() };
                return Err(shape.in_tensor(&*spec.name));
            }
            float(tensor.dtype()).map_err(|e| e.in_tensor(&*spec.name))?;
            if !tensor.device().same_device(&self.home) {
                let (expected, got) =
                    (format!("{:?}", self.home.location()), format!("{:?}", tensor.device().location()));
                return Err(Error::WrongDevice { expected, got }.in_tensor(&*spec.name));
            }
            ordered[i] = Some(tensor);
        }
        let missing = |(t, spec): (Option<&'g Tensor>, &crate::accumulator::Spec)| {
            t.ok_or_else(|| Error::MissingTensor { name: spec.name.clone() })
        };
        ordered.into_iter().zip(&self.specs).map(missing).collect()
    }

    /// An error for the first tensor with an element out of range; waits for the device.
    fn reject<T: std::borrow::Borrow<Tensor>>(
        &self,
        tensors: &[T],
        weight: f32,
        place: impl Fn(usize) -> Place,
    ) -> Result<()> {
        let mut scan = self.device.reports(tensors.len())?;
        find(&self.device, tensors, weight, &mut scan)?;
        self.all_finite(&self.device.read_reports(&scan)?, place)
    }

    pub(super) fn all_finite(&self, found: &[Report], place: impl Fn(usize) -> Place) -> Result<()> {
        let named = |(i, report): (usize, &Report)| report.finite().map_err(|e| e.in_tensor(self.name_at(place(i))));
        found.iter().enumerate().try_for_each(named)
    }

    pub(super) fn name_at(&self, place: Place) -> &str {
        let at = self.places.iter().position(|p| *p == place);
        at.map_or("", |i| self.specs[i].name.as_str())
    }

    /// Adds to the tensors kept in f32, some dozens a kernel: `sum - (-1 (x weight))`, which is the sum to the bit.
    fn add_dense(&self, dense: &[Tensor], weight: f32) -> Result<()> {
        let config = &self.options.config;
        let (bits, block, draw) = (config.bits(), config.block, Draw::new(config.seed, self.window.step));
        let source = Source { bits, block, factor: weight, draw };
        let terms = SgdTerms { learning_rate: -1.0, momentum: 0.0, weight_decay: 0.0 };
        for (sums, gradients) in self.dense.chunks(AT_ONCE).zip(dense.chunks(AT_ONCE)) {
            let (sums, gradients) = (sums.iter().collect::<Vec<_>>(), gradients.iter().collect::<Vec<_>>());
            with_views(&gradients, |views| {
                with_weights::<f32>(&sums, &mut |mut sums| {
                    let mut items = Vec::with_capacity(views.len());
                    for ((tensor, view), sum) in (0u32..).zip(views).zip(&mut sums) {
                        if let Floats::F32(x) = view {
                            let (gradient, weights) = (Gradient::Dense(Device::shorten(*x)), Device::reborrow(sum));
                            items.push(SgdItem { tensor, first: 0, gradient, weights, momentum: None });
                        }
                    }
                    self.device.update_sgd(&Sgd { source, terms, nesterov: false }, &mut items, None)
                })
            })?;
        }
        Ok(())
    }

    fn refuse_on_error<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(e) = &result {
            self.window.refused = Some(e.to_string());
        }
        result
    }
}

/// With what is out of range, once weighted, as zero.
fn inside(x: &Tensor, weight: f32) -> Result<Tensor> {
    let p = x.affine(f64::from(weight), 0.0)?;
    Ok(p.abs()?.lt(RANGE)?.where_cond(x, &x.zeros_like()?)?)
}

/// Reports elements out of range, one slot a tensor.
fn find<T: std::borrow::Borrow<Tensor>>(
    device: &Device,
    tensors: &[T],
    weight: f32,
    reports: &mut Reports,
) -> Result<()> {
    let tensors: Vec<&Tensor> = tensors.iter().map(std::borrow::Borrow::borrow).collect();
    if tensors.is_empty() {
        return Ok(());
    }
    with_views(&tensors, |views| {
        let op = Check { weight };
        let (mut f32s, mut f16s, mut bf16s) = (Vec::new(), Vec::new(), Vec::new());
        for (report, view) in views.iter().enumerate() {
            match *view {
                Floats::F32(x) => f32s.push(Item { x, first: 0, report }),
                Floats::F16(x) => f16s.push(Item { x, first: 0, report }),
                Floats::Bf16(x) => bf16s.push(Item { x, first: 0, report }),
            }
        }
        if !f32s.is_empty() {
            device.check(&op, &f32s, reports)?;
        }
        if !f16s.is_empty() {
            device.check(&op, &f16s, reports)?;
        }
        if !bf16s.is_empty() {
            device.check(&op, &bf16s, reports)?;
        }
        Ok(())
    })
}
