//! Error feedback (NUMERICS.md, section 13): what rounding lost is held in a few bits and added to the next micro-batch.
//!
//! With `y = weight x + r` and levels that stood for `a` and stand for `b` after `y` was added, the residual becomes
//! `r' = (a + y) - b`, itself rounded stochastically. It is carried from window to window. One tensor at a time, so
//! that the temporaries are never larger than three times the largest tensor.

use super::Options;
use crate::accumulator::{Accumulator, Floats, Format};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::numerics::constants::domain;
use crate::numerics::pack::words;
use crate::op::accumulate::{Adaptive, AdaptiveItem, F32, F32Item};
use crate::op::read_out::{Item, ReadOut};
use crate::op::{Backend, BlockSize, Draw, Element, Report, length};
use half::{bf16, f16};

/// What rounding lost, of every tensor held in adaptive levels.
pub(super) struct Feedback<B: Backend> {
    bits: u32,
    block: BlockSize,
    tensors: Vec<Option<Residual<B>>>,
    /// What was out of range where a gradient is added to a residual, one slot a tensor.
    found: B::Reports,
    /// What a checkpoint said was found.
    loaded: Vec<Report>,
    /// Takes what can not be: a residual is in range.
    unseen: B::Reports,
}

/// Levels of one tensor and their scales.
pub(super) struct Residual<B: Backend> {
    pub(super) levels: B::Buffer<u32>,
    pub(super) scales: B::Buffer<u16>,
}

impl<B: Backend> Residual<B> {
    fn new(backend: &B, n: usize, bits: u32, block: BlockSize) -> Result<Self> {
        Ok(Residual { levels: backend.zeros(words(n, bits))?, scales: backend.zeros(block.blocks(n))? })
    }
}

impl<B: Backend> Feedback<B> {
    pub(super) fn new(sums: &Accumulator<B>, options: &Options) -> Result<Option<Self>> {
        let Some(bits) = options.residual_bits else { return Ok(None) };
        let (backend, config) = (sums.backend(), sums.config());
        let make = |spec| match config.format_of(spec) {
            Format::Adaptive { .. } => Residual::new(backend, spec.elements()?, bits, config.block).map(Some),
            Format::Exact { .. } | Format::F32 => Ok(None),
        };
        let tensors = sums.specs().iter().map(make).collect::<Result<Vec<_>>>()?;
        Ok(Some(Feedback {
            bits,
            block: config.block,
            found: backend.reports(tensors.len())?,
            loaded: vec![Report::default(); tensors.len()],
            unseen: backend.reports(1)?,
            tensors,
        }))
    }

    pub(super) fn tensors(&self) -> &[Option<Residual<B>>] {
        &self.tensors
    }

    pub(super) fn bytes(&self) -> u64 {
        let of = |r: &Residual<B>| {
            B::len(&B::view(&r.levels)) * size_of::<u32>() + B::len(&B::view(&r.scales)) * size_of::<u16>()
        };
        self.tensors.iter().flatten().map(|r| of(r) as u64).sum()
    }

    pub(super) fn reports(&self, backend: &B) -> Result<Vec<Report>> {
        let mut found = backend.read_reports(&self.found)?;
        found.iter_mut().zip(&self.loaded).for_each(|(report, loaded)| report.merge(*loaded));
        Ok(found)
    }

    /// Adds a micro-batch that was accepted.
    pub(super) fn add(
        &mut self,
        sums: &mut Accumulator<B>,
        given: &[Option<Floats<'_, B>>],
        weight: f32,
    ) -> Result<()> {
        let part: Vec<(usize, Floats<'_, B>)> =
            given.iter().enumerate().filter_map(|(i, g)| Some((i, (*g)?))).collect();
        self.add_part(sums, &part, weight)?;
        sums.advance(weight);
        Ok(())
    }

    /// Adds gradients of some tensors, at their places; the micro-batch goes on.
    pub(super) fn add_part(
        &mut self,
        sums: &mut Accumulator<B>,
        part: &[(usize, Floats<'_, B>)],
        weight: f32,
    ) -> Result<()> {
        let largest = part.iter().filter(|(i, _)| self.tensors[*i].is_some()).map(|(_, g)| g.len());
        let largest = largest.max().unwrap_or(0);
        let mut scratch = Scratch {
            y: sums.backend().zeros(largest)?,
            whole: sums.backend().zeros(largest)?,
            after: sums.backend().zeros(largest)?,
        };
        for (i, gradient) in part {
            if self.tensors[*i].is_some() {
                self.add_one(sums, *i, gradient, weight, &mut scratch)?;
            } else {
                sums.add_one(*i, *gradient, weight)?;
            }
        }
        Ok(())
    }

    fn add_one(
        &mut self,
        sums: &mut Accumulator<B>,
        i: usize,
        gradient: &Floats<'_, B>,
        weight: f32,
        scratch: &mut Scratch<B>,
    ) -> Result<()> {
        let Some(residual) = &mut self.tensors[i] else { return Ok(()) };
        let n = gradient.len();
        // y: the residual, and the gradient with its weight.
        let op = ReadOut { bits: self.bits, block: self.block, factor: 1.0 };
        let (levels, scales) = (B::view(&residual.levels), B::view(&residual.scales));
        let item = Item { levels, scales, out: part_mut::<B>(&mut scratch.y, n)?, guard: None };
        sums.backend().read_out::<f32>(&op, &mut [item], None)?;
        let op = F32 { weight };
        let (y, found) = (part_mut::<B>(&mut scratch.y, n)?, &mut self.found);
        match *gradient {
            Floats::F32(x) => sum::<B, f32>(sums.backend(), &op, x, y, i, found)?,
            Floats::F16(x) => sum::<B, f16>(sums.backend(), &op, x, y, i, found)?,
            Floats::Bf16(x) => sum::<B, bf16>(sums.backend(), &op, x, y, i, found)?,
        }
        // a, the levels take y, b.
        sums.read_out_one::<f32>(i, 1.0, part_mut::<B>(&mut scratch.whole, n)?)?;
        sums.add_one(i, Floats::F32(part::<B>(&scratch.y, n)?), 1.0)?;
        sums.read_out_one::<f32>(i, 1.0, part_mut::<B>(&mut scratch.after, n)?)?;
        // r' = (a + y) - b.
        let backend = sums.backend();
        for (x, weight) in [(&scratch.y, 1.0), (&scratch.after, -1.0)] {
            let whole = part_mut::<B>(&mut scratch.whole, n)?;
            sum::<B, f32>(backend, &F32 { weight }, part::<B>(x, n)?, whole, 0, &mut self.unseen)?;
        }
        backend.clear(B::view_mut(&mut residual.levels))?;
        backend.clear(B::view_mut(&mut residual.scales))?;
        // The residual's own seed keeps its draws apart from those of the levels.
        let seed = sums.config().seed ^ (u64::from(domain::RESIDUAL) << 62);
        let draw = Draw { seed, ..sums.draw() };
        let item = AdaptiveItem {
            tensor: i as u32,
            first: 0,
            x: part::<B>(&scratch.whole, n)?,
            levels: B::view_mut(&mut residual.levels),
            scales: B::view_mut(&mut residual.scales),
            report: 0,
        };
        let op = Adaptive { bits: self.bits, block: self.block, draw, weight: 1.0 };
        backend.accumulate_adaptive::<f32>(&op, &mut [item], &mut self.unseen)
    }

    /// Starts the next window: what rounding lost goes on, unless what is held is forgotten; what was found does not.
    pub(super) fn next_window(&mut self, backend: &B, forget: bool) -> Result<()> {
        backend.clear_reports(&mut self.found)?;
        backend.clear_reports(&mut self.unseen)?;
        self.loaded.fill(Report::default());
        if forget { self.clear(backend) } else { Ok(()) }
    }

    pub(super) fn clear(&mut self, backend: &B) -> Result<()> {
        let (mut levels, mut scales) = (Vec::new(), Vec::new());
        for residual in self.tensors.iter_mut().flatten() {
            levels.push(B::view_mut(&mut residual.levels));
            scales.push(B::view_mut(&mut residual.scales));
        }
        backend.clear_all(levels)?;
        backend.clear_all(scales)
    }

    /// The same with what a checkpoint held.
    pub(super) fn of(&self, backend: &B, tensors: Vec<Option<Residual<B>>>, loaded: Vec<Report>) -> Result<Self> {
        length("residuals", self.tensors.len(), tensors.len())?;
        Ok(Feedback {
            bits: self.bits,
            block: self.block,
            found: backend.reports(tensors.len())?,
            loaded,
            unseen: backend.reports(1)?,
            tensors,
        })
    }

    pub(super) const fn bits(&self) -> u32 {
        self.bits
    }
}

/// Floats of the length of the largest tensor, for one micro-batch.
struct Scratch<B: Backend> {
    y: B::Buffer<f32>,
    whole: B::Buffer<f32>,
    after: B::Buffer<f32>,
}

fn part<B: Backend>(buffer: &B::Buffer<f32>, n: usize) -> Result<B::View<'_, f32>> {
    B::slice(B::view(buffer), 0..n).ok_or_else(too_short)
}

fn part_mut<B: Backend>(buffer: &mut B::Buffer<f32>, n: usize) -> Result<B::ViewMut<'_, f32>> {
    B::slice_mut(B::view_mut(buffer), 0..n).ok_or_else(too_short)
}

fn too_short() -> Error {
    Error::Refused { reason: "a temporary is shorter than its tensor".to_owned() }
}

fn sum<B: Backend, T: Element>(
    backend: &B,
    op: &F32,
    x: <B as Memory>::View<'_, T>,
    mut sum: B::ViewMut<'_, f32>,
    report: usize,
    reports: &mut B::Reports,
) -> Result<()> {
    let item = F32Item { first: 0, x: B::shorten(x), sum: B::reborrow(&mut sum), report };
    backend.accumulate_f32::<T>(op, &mut [item], reports)
}
