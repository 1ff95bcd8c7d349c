//! One micro-batch in: checked as a whole, then added as a whole.

use super::in_place::{AT_ONCE, with_weights};
use super::{ModelGradients, Place};
use crate::accumulator::{BEING_WRITTEN, Floats, Id, NonFinite};
use crate::candle::storage::with_views;
use crate::candle::{Gradients, in_order, same_device};
use crate::device::{Device, Reports};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::numerics::update::SgdTerms;
use crate::op::Backend;
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
    /// where exact counts are full or the micro-batch index is at its limit; [`Error::NonFinite`] under
    /// [`NonFinite::Reject`]. The state is then as it was. After a failure of the device, or a panic, in the middle of
    /// a call the window is refused until reset ([`Error::Refused`]).
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
        for accumulator in [&self.packed, &self.residual].into_iter().flatten() {
            accumulator.validate(weight)?;
        }
        let added = self.add(&packed, &dense, zeroed.as_deref(), weight);
        self.refuse_on_error(added)
    }

    /// Adds what was checked, all of it: packed sums, reports and f32 sums one after the other.
    fn add(&mut self, packed: &[&Tensor], dense: &[Tensor], zeroed: Option<&[Tensor]>, weight: f32) -> Result<()> {
        if self.residual.is_some() {
            self.being_written();
            self.add_with_feedback(packed, weight)?;
        } else if let Some(accumulator) = &mut self.packed {
            let refused = &mut self.window.refused;
            with_views(packed, |views| {
                let list: Vec<(Id<'_>, Floats<'_, Device>)> =
                    views.iter().enumerate().map(|(i, v)| (Id::Index(i), *v)).collect();
                let accepted = accumulator.accepted(&list, weight)?;
                *refused = Some(BEING_WRITTEN.to_owned());
                accumulator.add_accepted(&accepted, weight)
            })?;
        }
        self.being_written();
        find(&self.device, dense, weight, &mut self.dense_reports)?;
        self.add_dense(zeroed.unwrap_or(dense), weight)?;
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

    /// The gradients in the order of the tensors, on their device.
    fn in_order<'g>(&self, given: Vec<(Id<'g>, &'g Tensor)>) -> Result<Vec<&'g Tensor>> {
        let index = |id| match id {
            Id::Index(i) => Ok(i),
            Id::Name(name) => {
                let at = self.specs.iter().position(|s| s.name == name);
                at.ok_or_else(|| Error::UnknownTensor { name: name.to_owned(), known: self.specs.len() })
            }
        };
        let ordered = in_order(&self.specs, given, index)?;
        for (tensor, spec) in ordered.iter().zip(&self.specs) {
            same_device(&self.home, tensor).map_err(|e| e.in_tensor(&*spec.name))?;
        }
        Ok(ordered)
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
