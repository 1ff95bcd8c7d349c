//! One micro-batch into the window: everything is checked, then everything is added.

use super::gradients::Typed;
use super::{Accumulator, Floats, Format, Id, NonFinite, Scales, Sum};
use crate::error::{Error, Result};
use crate::numerics::constants::RANGE_LIMIT;
use crate::numerics::float::magnitude;
use crate::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, F32, F32Item};
use crate::op::check::{self, Check};
use crate::op::{Backend, Report, finite, length};
use half::{bf16, f16};

/// The smallest scale: 2^-97, what a block at the limit of zero comes to with 8-bit levels.
const SCALE_MIN: u32 = 30 << 23;
/// The smallest and the largest size of a fine level: 2^-111 and 2^105.
const FINE_MIN: u32 = 16 << 23;
const FINE_MAX: u32 = RANGE_LIMIT - (21 << 23);

/// Checks that a bf16 can be the scale of a block of counts of a width.
pub(super) fn scale_in_range(scale: u16, bits: u32) -> Result<()> {
    let s = u32::from(scale) << 16;
    let (range, fits, requirement) = if bits == 32 {
        (FINE_MIN..=FINE_MAX, scale & 0x7f == 0, "0 or, for 32 bits, a power of two from 2^-111 to 2^105")
    } else {
        (SCALE_MIN..=RANGE_LIMIT, true, "0 or from 2^-97 to 2^126")
    };
    if s == 0 || fits && range.contains(&s) {
        return Ok(());
    }
    Err(Error::Parameter { name: "scale", got: f64::from(f32::from_bits(s)), requirement })
}

/// What a micro-batch of this weight adds to the sum of weights: as for gradients, a subnormal weight is 0.
fn counted(weight: f32) -> f64 {
    if magnitude(weight.to_bits()) == 0 { 0.0 } else { f64::from(weight) }
}

impl<B: Backend> Accumulator<B> {
    /// Adds `weight` times the gradients of one micro-batch: every tensor once, by name or by index, in any order. A
    /// weight of 0 adds nothing and finds nothing, whatever the gradients are.
    ///
    /// On a device this queues work and returns, except under [`NonFinite::Reject`].
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`], [`Error::MissingTensor`], [`Error::DuplicateTensor`]; [`Error::Length`] or
    /// [`Error::WrongDevice`] within the tensor; [`Error::Parameter`] for a weight that is not finite;
    /// [`Error::Limit`] when the counts or the micro-batch index are at their limit; [`Error::NoScales`] under
    /// [`Scales::Given`] before they were; [`Error::NonFinite`] under [`NonFinite::Reject`]. The state is then as it was.
    /// What the device reports while it writes: the window is then refused until reset.
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
            let given: Vec<(usize, Floats<'g, B>)> = gradients.iter().copied().enumerate().collect();
            self.reject(&given, weight)?;
        }
        Ok(gradients)
    }

    /// Adds what was [`accepted`](Self::accepted).
    pub(crate) fn add_accepted(&mut self, gradients: &[Floats<'_, B>], weight: f32) -> Result<()> {
        self.write(|this| this.add(0, gradients, weight))?;
        self.advance(weight);
        Ok(())
    }

    /// Moves the window on by a micro-batch whose tensors were all added.
    pub(crate) fn advance(&mut self, weight: f32) {
        self.window.held = self.window.held.saturating_add(1);
        self.window.micro_batch = self.window.micro_batch.saturating_add(1);
        self.window.weights += counted(weight);
    }

    /// Fixes the block scales of a tensor, under [`Scales::Given`]: one a block, each 0 or from 2^-97 to 2^126 (counts of
    /// 32 bits: a power of two from 2^-111 to 2^105, the size of a fine level). They stay until set again, through resets.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`]; [`Error::Length`]; [`Error::Parameter`] for a scale out of range;
    /// [`Error::WindowStarted`] where micro-batches were already counted in this window; [`Error::Format`] where the
    /// format takes no scales.
    pub fn set_scales<'i>(&mut self, id: impl Into<Id<'i>>, new: &[bf16]) -> Result<()> {
        self.usable()?;
        let i = self.index(id)?;
        let upload = |tensor: &super::Tensor<B>| {
            let bits = match tensor.format {
                Format::Exact { bits, scales: Scales::Given } => bits,
                other => return Err(takes_no_scales(other)),
            };
            if self.window.held > 0 {
                return Err(Error::WindowStarted { what: "new scales", held: self.window.held });
            }
            length("scales", self.config.block.blocks(tensor.len), new.len())?;
            let new: Vec<u16> = new.iter().map(|s| s.to_bits()).collect();
            new.iter().try_for_each(|s| scale_in_range(*s, bits))?;
            self.backend.upload(&new)
        };
        let buffer = upload(&self.tensors[i]).map_err(|e| e.in_tensor(&*self.specs[i].name))?;
        if let Sum::Exact { scales, scaled, .. } = &mut self.tensors[i].sum {
            *scales = buffer;
            *scaled = true;
        }
        Ok(())
    }

    /// Everything that can be known to be wrong before anything is queued.
    pub(crate) fn validate(&self, weight: f32) -> Result<()> {
        finite("weight", weight)?;
        for format in &self.formats {
            match *format {
                Format::Adaptive { bits } => self.adaptive(bits, weight).validate()?,
                Format::Exact { bits, scales } => self.exact(bits, scales, weight).validate()?,
                Format::F32 => self.draw().validate()?,
            }
        }
        let weights = self.window.weights + counted(weight);
        if !weights.is_finite() {
            return Err(Error::Parameter { name: "sum of weights", got: weights, requirement: "finite" });
        }
        let unset = |t: &super::Tensor<B>| {
            let given = matches!(t.format, Format::Exact { scales: Scales::Given, .. });
            given && matches!(t.sum, Sum::Exact { scaled: false, .. })
        };
        match self.tensors.iter().position(unset) {
            Some(i) => {
                let advice = "call `set_scales` for every tensor before the first micro-batch";
                Err(Error::NoScales { held: self.window.held, advice }.in_tensor(&*self.specs[i].name))
            }
            None => Ok(()),
        }
    }

    fn adaptive(&self, bits: u32, weight: f32) -> Adaptive {
        Adaptive { bits, block: self.config.block, draw: self.draw(), weight }
    }

    fn exact(&self, bits: u32, scales: Scales, weight: f32) -> Exact {
        let (block, draw, held) = (self.config.block, self.draw(), self.window.held);
        Exact { bits, block, draw, weight, held, headroom: scales.headroom() }
    }

    pub(super) fn reject(&mut self, gradients: &[(usize, Floats<'_, B>)], weight: f32) -> Result<()> {
        self.backend.clear_reports(&mut self.scan)?;
        let op = Check { weight };
        self.check_type::<f32>(&op, gradients)?;
        self.check_type::<f16>(&op, gradients)?;
        self.check_type::<bf16>(&op, gradients)?;
        let found = self.backend.read_reports(&self.scan)?;
        self.all_finite(&found)
    }

    pub(super) fn all_finite(&self, found: &[Report]) -> Result<()> {
        found.iter().zip(&self.specs).try_for_each(|(r, spec)| r.finite().map_err(|e| e.in_tensor(&*spec.name)))
    }

    fn check_type<T: Typed>(&mut self, op: &Check, gradients: &[(usize, Floats<'_, B>)]) -> Result<()> {
        let mut items: Vec<check::Item<'_, B, T>> = Vec::new();
        for &(report, g) in gradients {
            if let Some(x) = T::of(&g) {
                items.push(check::Item { x: B::shorten(x), first: 0, report });
            }
        }
        if items.is_empty() { Ok(()) } else { self.backend.check(op, &mut items, &mut self.scan) }
    }

    /// Adds gradients to the tensors from `start` on.
    pub(super) fn add(&mut self, start: usize, gradients: &[Floats<'_, B>], weight: f32) -> Result<()> {
        self.add_drawn(start, gradients, weight, 0)
    }

    /// The same, where tensor `i` draws as number `i + base`.
    pub(super) fn add_drawn(
        &mut self,
        start: usize,
        gradients: &[Floats<'_, B>],
        weight: f32,
        base: u32,
    ) -> Result<()> {
        for format in self.formats.clone() {
            self.add_type::<f32>(format, start, gradients, weight, base)?;
            self.add_type::<f16>(format, start, gradients, weight, base)?;
            self.add_type::<bf16>(format, start, gradients, weight, base)?;
        }
        Ok(())
    }

    fn add_type<T: Typed>(
        &mut self,
        format: Format,
        start: usize,
        gradients: &[Floats<'_, B>],
        weight: f32,
        base: u32,
    ) -> Result<()> {
        let done = match format {
            Format::Adaptive { bits } => {
                self.add_adaptive::<T>(format, &self.adaptive(bits, weight), start, gradients, base)
            }
            Format::Exact { bits, scales } => {
                self.add_exact::<T>(format, &self.exact(bits, scales, weight), start, gradients, base)
            }
            Format::F32 => self.add_f32::<T>(&F32 { weight }, start, gradients),
        };
        if done? {
            self.written = true;
        }
        Ok(())
    }

    fn add_adaptive<T: Typed>(
        &mut self,
        format: Format,
        op: &Adaptive,
        start: usize,
        gradients: &[Floats<'_, B>],
        base: u32,
    ) -> Result<bool> {
        let mut items = Vec::new();
        for ((i, t), g) in self.tensors.iter_mut().enumerate().skip(start).zip(gradients) {
            if t.format == format
                && let (Some(x), Sum::Adaptive { levels, scales }) = (T::of(g), &mut t.sum)
            {
                let (levels, scales, tensor) = (B::view_mut(levels), B::view_mut(scales), i as u32 + base);
                items.push(AdaptiveItem { tensor, first: 0, x: B::shorten(x), levels, scales, report: i });
            }
        }
        if items.is_empty() {
            return Ok(false);
        }
        self.backend.accumulate_adaptive(op, &mut items, &mut self.reports).map(|()| true)
    }

    fn add_exact<T: Typed>(
        &mut self,
        format: Format,
        op: &Exact,
        start: usize,
        gradients: &[Floats<'_, B>],
        base: u32,
    ) -> Result<bool> {
        let mut items = Vec::new();
        for ((i, t), g) in self.tensors.iter_mut().enumerate().skip(start).zip(gradients) {
            if t.format == format
                && let (Some(x), Sum::Exact { counts, scales, seen, scaled }) = (T::of(g), &mut t.sum)
            {
                *scaled = true;
                items.push(ExactItem {
                    tensor: i as u32 + base,
                    first: 0,
                    x: B::shorten(x),
                    counts: B::view_mut(counts),
                    scales: B::view_mut(scales),
                    seen: B::view_mut(seen),
                    report: i,
                });
            }
        }
        if items.is_empty() {
            return Ok(false);
        }
        self.backend.accumulate_exact(op, &mut items, &mut self.reports).map(|()| true)
    }

    fn add_f32<T: Typed>(&mut self, op: &F32, start: usize, gradients: &[Floats<'_, B>]) -> Result<bool> {
        let mut items = Vec::new();
        for ((i, t), g) in self.tensors.iter_mut().enumerate().skip(start).zip(gradients) {
            if let (Some(x), Sum::F32(sum)) = (T::of(g), &mut t.sum) {
                items.push(F32Item { first: 0, x: B::shorten(x), sum: B::view_mut(sum), report: i });
            }
        }
        if items.is_empty() {
            return Ok(false);
        }
        self.backend.accumulate_f32(op, &mut items, &mut self.reports).map(|()| true)
    }
}

fn takes_no_scales(format: Format) -> Error {
    let (format, advice) = match format {
        Format::Adaptive { .. } => ("adaptive", "they find their own scales; use Format::Exact with Scales::Given"),
        Format::Exact { .. } => ("exact", "they find their own scales unless made with Scales::Given"),
        Format::F32 => ("f32", "they have no scales"),
    };
    Error::Format { operation: "setting scales", format, advice }
}
