//! One micro-batch into the window: everything is checked, then everything is added.

use super::gradients::Typed;
use super::{Accumulator, Floats, Format, Id, NonFinite, Scales};
use crate::op::Backend;
use crate::error::{Error, Result};
use crate::numerics::constants::RANGE_LIMIT;
use crate::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, Look, LookItem, WindowScales};
use crate::op::check::{self, Check};
use crate::op::length;
use half::{bf16, f16};

/// The smallest scale: 2^-97, what a block at the limit of zero comes to with 8-bit levels.
const SCALE_MIN: u32 = 30 << 23;

/// Checks that a bf16 can be a scale.
pub(super) fn scale_in_range(scale: u16) -> Result<()> {
    let bits = u32::from(scale) << 16;
    if bits == 0 || (SCALE_MIN..=RANGE_LIMIT).contains(&bits) {
        return Ok(());
    }
    let (got, requirement) = (f64::from(f32::from_bits(bits)), "0 or from 2^-97 to 2^126");
    Err(Error::Parameter { name: "scale", got, requirement })
}

impl<B: Backend> Accumulator<B> {
    /// Adds `weight` times the gradients of one micro-batch: every tensor once, by name or by index, in any order.
    ///
    /// On a device this queues work and returns, except under [`NonFinite::Reject`].
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`], [`Error::MissingTensor`], [`Error::DuplicateTensor`]; [`Error::Length`] or
    /// [`Error::WrongDevice`] within the tensor; [`Error::Parameter`] for a weight that is not finite;
    /// [`Error::Limit`] when the counts or the micro-batch index are at their limit; [`Error::NonFinite`] under
    /// [`NonFinite::Reject`]. The state is then as it was. What the device reports while it writes: the window is then
    /// refused until reset.
    pub fn accumulate<'i, I: Into<Id<'i>> + Copy>(
        &mut self,
        gradients: &[(I, Floats<'_, B>)],
        weight: f32,
    ) -> Result<()> {
        let gradients = self.accepted(gradients, weight)?;
        self.add_accepted(&gradients, weight)
    }

    /// Everything that can be wrong with a micro-batch; its gradients in the order of the tensors. Nothing is written.
    pub(crate) fn accepted<'g, 'i, I: Into<Id<'i>> + Copy>(
        &mut self,
        gradients: &[(I, Floats<'g, B>)],
        weight: f32,
    ) -> Result<Vec<Floats<'g, B>>> {
        self.usable()?;
        let gradients = self.in_order(gradients)?;
        self.validate(weight)?;
        if self.config.non_finite == NonFinite::Reject {
            self.reject(&gradients, weight)?;
        }
        Ok(gradients)
    }

    /// Adds what was [`accepted`](Self::accepted).
    pub(crate) fn add_accepted(&mut self, gradients: &[Floats<'_, B>], weight: f32) -> Result<()> {
        self.write(|this| this.add(gradients, weight))?;
        self.window.held = self.window.held.saturating_add(1);
        self.window.micro_batch += 1;
        self.window.weights += f64::from(weight);
        Ok(())
    }

    /// Fixes the block scales of a tensor, under [`Scales::Given`]: one a block, each 0 or from 2^-97 to 2^126. They
    /// stay until set again, through resets.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`]; [`Error::Length`]; [`Error::Parameter`] for a scale out of range; [`Error::Limit`]
    /// where micro-batches were already counted in this window, or where the format takes no scales.
    pub fn set_scales<'i>(&mut self, id: impl Into<Id<'i>>, scales: &[bf16]) -> Result<()> {
        self.usable()?;
        let i = self.index(id)?;
        let upload = |tensor: &super::Tensor<B>| {
            let Format::Exact { scales: Scales::Given, .. } = self.config.format else {
                return Err(Error::Limit { what: "scales given in this format", got: scales.len() as u64, limit: 0 });
            };
            if self.window.held > 0 {
                let got = u64::from(self.window.held);
                return Err(Error::Limit { what: "micro-batches counted before new scales", got, limit: 0 });
            }
            length("scales", self.config.block.blocks(tensor.len), scales.len())?;
            let bits: Vec<u16> = scales.iter().map(|s| s.to_bits()).collect();
            bits.iter().try_for_each(|s| scale_in_range(*s))?;
            self.backend.upload(&bits)
        };
        let buffer = upload(&self.tensors[i]).map_err(|e| e.in_tensor(&*self.specs[i].name))?;
        self.tensors[i].scales = buffer;
        self.tensors[i].scaled = true;
        Ok(())
    }

    /// Everything that can be known to be wrong before anything is queued.
    pub(crate) fn validate(&self, weight: f32) -> Result<()> {
        match self.config.format {
            Format::Adaptive { bits } => self.adaptive(bits, weight).validate(),
            Format::Exact { bits, scales } => {
                self.exact(bits, weight).validate()?;
                let unset = self.tensors.iter().position(|t| !t.scaled);
                match (scales, unset) {
                    (Scales::Given, Some(i)) => {
                        let expected = self.config.block.blocks(self.tensors[i].len);
                        length("scales given", expected, 0).map_err(|e| e.in_tensor(&*self.specs[i].name))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    pub(super) fn adaptive(&self, bits: u32, weight: f32) -> Adaptive {
        Adaptive { bits, block: self.config.block, draw: self.draw(), weight }
    }

    fn exact(&self, bits: u32, weight: f32) -> Exact {
        Exact { bits, block: self.config.block, draw: self.draw(), weight, held: self.window.held }
    }

    fn reject(&mut self, gradients: &[Floats<'_, B>], weight: f32) -> Result<()> {
        self.backend.clear_reports(&mut self.scan)?;
        let op = Check { weight };
        self.check_type::<f32>(&op, gradients)?;
        self.check_type::<f16>(&op, gradients)?;
        self.check_type::<bf16>(&op, gradients)?;
        let found = self.backend.read_reports(&self.scan)?;
        self.all_finite(&found)
    }

    pub(super) fn all_finite(&self, found: &[crate::op::Report]) -> Result<()> {
        found.iter().zip(&self.specs).try_for_each(|(r, spec)| r.finite().map_err(|e| e.in_tensor(&*spec.name)))
    }

    fn add(&mut self, gradients: &[Floats<'_, B>], weight: f32) -> Result<()> {
        match self.config.format {
            Format::Adaptive { bits } => {
                let op = self.adaptive(bits, weight);
                self.adaptive_type::<f32>(&op, gradients)?;
                self.adaptive_type::<f16>(&op, gradients)?;
                self.adaptive_type::<bf16>(&op, gradients)
            }
            Format::Exact { bits, scales } => {
                if let Some(headroom) = scales.headroom()
                    && self.tensors.iter().any(|t| !t.scaled)
                {
                    self.first_look(gradients, weight, headroom)?;
                }
                let op = self.exact(bits, weight);
                self.exact_type::<f32>(&op, gradients)?;
                self.exact_type::<f16>(&op, gradients)?;
                self.exact_type::<bf16>(&op, gradients)
            }
        }
    }

    /// The scales of a window from its first micro-batch. What it reports is reported again when it is counted.
    fn first_look(&mut self, gradients: &[Floats<'_, B>], weight: f32, headroom: f32) -> Result<()> {
        let op = Look { block: self.config.block, weight };
        self.look_type::<f32>(&op, gradients)?;
        self.look_type::<f16>(&op, gradients)?;
        self.look_type::<bf16>(&op, gradients)?;
        let op = WindowScales { headroom };
        for tensor in &mut self.tensors {
            if let Some(seen) = &tensor.seen {
                self.backend.window_scales(&op, B::view(seen), B::view_mut(&mut tensor.scales))?;
            }
            tensor.scaled = true;
        }
        Ok(())
    }

    fn check_type<T: Typed>(&mut self, op: &Check, gradients: &[Floats<'_, B>]) -> Result<()> {
        let item = |(report, g)| Some(check::Item { x: B::shorten(T::of(g)?), first: 0, report });
        let items: Vec<check::Item<'_, B, T>> = gradients.iter().enumerate().filter_map(item).collect();
        if items.is_empty() { Ok(()) } else { self.backend.check(op, &items, &mut self.scan) }
    }

    fn look_type<T: Typed>(&mut self, op: &Look, gradients: &[Floats<'_, B>]) -> Result<()> {
        let mut items = Vec::new();
        for (report, (g, t)) in gradients.iter().zip(&mut self.tensors).enumerate() {
            if let (Some(x), Some(seen)) = (T::of(g), &mut t.seen) {
                items.push(LookItem { x: B::shorten(x), seen: B::view_mut(seen), report });
            }
        }
        if items.is_empty() { Ok(()) } else { self.backend.look(op, &mut items, &mut self.scan) }
    }

    fn adaptive_type<T: Typed>(&mut self, op: &Adaptive, gradients: &[Floats<'_, B>]) -> Result<()> {
        let mut items = Vec::new();
        for (report, (g, t)) in gradients.iter().zip(&mut self.tensors).enumerate() {
            if let Some(x) = T::of(g) {
                items.push(AdaptiveItem {
                    tensor: report as u32,
                    first: 0,
                    x: B::shorten(x),
                    levels: B::view_mut(&mut t.levels),
                    scales: B::view_mut(&mut t.scales),
                    report,
                });
            }
        }
        if items.is_empty() { Ok(()) } else { self.backend.accumulate_adaptive(op, &mut items, &mut self.reports) }
    }

    fn exact_type<T: Typed>(&mut self, op: &Exact, gradients: &[Floats<'_, B>]) -> Result<()> {
        let mut items = Vec::new();
        for (report, (g, t)) in gradients.iter().zip(&mut self.tensors).enumerate() {
            if let (Some(x), Some(seen)) = (T::of(g), &mut t.seen) {
                items.push(ExactItem {
                    tensor: report as u32,
                    first: 0,
                    x: B::shorten(x),
                    counts: B::view_mut(&mut t.levels),
                    scales: B::view(&t.scales),
                    seen: B::view_mut(seen),
                    report,
                });
            }
        }
        if items.is_empty() { Ok(()) } else { self.backend.accumulate_exact(op, &mut items, &mut self.reports) }
    }
}
