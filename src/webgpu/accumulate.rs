//! Accumulate: adaptive levels, exact counts, first looks, window scales, merging.

use super::launch::{Batch, Window};
use super::memory::{Raw, View, ViewMut};
use super::quantize::{draw, element, scales_of};
use super::reports::Reports;
use super::shaders::{self, Params};
use super::{Shader, Wgpu};
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::numerics::float::magnitude;
use crate::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, Look, LookItem, Merge, WindowScales};
use crate::op::{BlockSize, Element};

/// The flag of a width.
pub(super) fn bits(bits: u32) -> &'static str {
    match bits {
        2 => "BITS2",
        4 => "BITS4",
        8 => "BITS8",
        _ => "BITS16",
    }
}

/// A weight as shaders take it: a subnormal one is 0.
pub(super) fn weight(weight: f32) -> u32 {
    let bits = weight.to_bits();
    if magnitude(bits) == 0 { 0 } else { bits }
}

/// One dispatch for each window of a tensor: `build` gives the bindings after `x`, all but the reports.
struct Pass<'a, 'b> {
    x: Raw<'a>,
    size: u64,
    first: u64,
    report: usize,
    reports: &'b Reports,
    shader: &'static Shader,
    flags: Vec<&'static str>,
    block: BlockSize,
}

impl Pass<'_, '_> {
    fn run<'c>(
        &self,
        batch: &mut Batch<'_>,
        bytes: u64,
        build: impl Fn(Window, &mut Params) -> (Vec<Raw<'c>>, bool),
    ) -> Result<()> {
        let n = (self.x.bytes / self.size) as usize;
        for window in batch.gpu.windows(n, self.size.max(bytes)) {
            let x = self.x.part(window.start * self.size, window.len * self.size);
            let mut params = Params {
                n: window.len as u32,
                x: x.skip(self.size),
                shift: self.block.get().ilog2() - 5,
                ..Params::default()
            };
            let (others, vectors) = build(window, &mut params);
            self.reports.address(&mut params, self.report, self.first + window.start);
            let mut flags = self.flags.clone();
            flags.extend((x.vectors(16) && vectors).then_some("VECTOR"));
            batch.gpu.able(&mut flags, self.block);
            let mut bindings = vec![x];
            bindings.extend(others);
            bindings.push(self.reports.raw());
            batch.dispatch(self.shader, flags, &bindings, params, window.len.div_ceil(32))?;
        }
        Ok(())
    }
}

/// The words of a window's groups of 32.
pub(super) fn words_of(words: Raw<'_>, bits: u32, window: Window) -> Raw<'_> {
    let group = u64::from(bits) * 4;
    words.part(window.start / 32 * group, window.len.div_ceil(32) * group)
}

pub(super) fn adaptive<T: Element>(
    gpu: &Wgpu,
    op: &Adaptive,
    items: &mut [AdaptiveItem<'_, Wgpu, T>],
    reports: &mut Reports,
) -> Result<()> {
    op.validate()?;
    let size = size_of::<T>() as u64;
    let mut end = 0;
    for item in items.iter() {
        item.validate(op)?;
        reports.check(item.report)?;
        end = end.max(item.first + item.x.raw.bytes / size);
    }
    reports.reach(gpu, end)?;
    let mut batch = Batch::new(gpu);
    for item in items.iter() {
        let pass = Pass {
            x: item.x.raw,
            size,
            first: item.first,
            report: item.report,
            reports,
            shader: &shaders::ACCUMULATE,
            flags: vec![element::<T>(), bits(op.bits)],
            block: op.block,
        };
        pass.run(&mut batch, 1, |window, params| {
            let levels = words_of(item.levels.raw, op.bits, window);
            let scales = scales_of(item.scales.raw, op.block, window.start, window.len);
            draw(params, &op.draw, item.tensor, domain::ADAPTIVE);
            params.words = levels.skip(4);
            params.scales = scales.skip(2);
            params.weight = weight(op.weight);
            (vec![levels, scales], levels.vectors(if op.bits == 2 { 8 } else { 16 }))
        })?;
    }
    batch.run("accumulate_adaptive").map(drop)
}

pub(super) fn exact<T: Element>(
    gpu: &Wgpu,
    op: &Exact,
    items: &mut [ExactItem<'_, Wgpu, T>],
    reports: &mut Reports,
) -> Result<()> {
    op.validate()?;
    let size = size_of::<T>() as u64;
    let mut end = 0;
    for item in items.iter() {
        item.validate(op)?;
        reports.check(item.report)?;
        end = end.max(item.first + item.x.raw.bytes / size);
    }
    reports.reach(gpu, end)?;
    let mut batch = Batch::new(gpu);
    for item in items.iter() {
        let pass = Pass {
            x: item.x.raw,
            size,
            first: item.first,
            report: item.report,
            reports,
            shader: &shaders::ACCUMULATE_EXACT,
            flags: vec![element::<T>(), bits(op.bits)],
            block: op.block,
        };
        pass.run(&mut batch, 2, |window, params| {
            let counts = words_of(item.counts.raw, op.bits, window);
            let scales = scales_of(item.scales.raw, op.block, window.start, window.len);
            let seen = scales_of(item.seen.raw, op.block, window.start, window.len);
            draw(params, &op.draw, item.tensor, domain::TERNARY);
            params.words = counts.skip(4);
            params.scales = scales.skip(2);
            params.seen = seen.skip(2);
            params.weight = weight(op.weight);
            (vec![counts, scales, seen], true)
        })?;
    }
    batch.run("accumulate_exact").map(drop)
}

pub(super) fn look<T: Element>(
    gpu: &Wgpu,
    op: &Look,
    items: &mut [LookItem<'_, Wgpu, T>],
    reports: &mut Reports,
) -> Result<()> {
    op.validate()?;
    let size = size_of::<T>() as u64;
    let mut end = 0;
    for item in items.iter() {
        item.validate(op)?;
        reports.check(item.report)?;
        end = end.max(item.x.raw.bytes / size);
    }
    reports.reach(gpu, end)?;
    let mut batch = Batch::new(gpu);
    for item in items.iter() {
        let pass = Pass {
            x: item.x.raw,
            size,
            first: 0,
            report: item.report,
            reports,
            shader: &shaders::ACCUMULATE_LOOK,
            flags: vec![element::<T>()],
            block: op.block,
        };
        pass.run(&mut batch, 1, |window, params| {
            let seen = scales_of(item.seen.raw, op.block, window.start, window.len);
            params.seen = seen.skip(2);
            params.weight = weight(op.weight);
            (vec![seen], true)
        })?;
    }
    batch.run("look").map(drop)
}

pub(super) fn window_scales(
    gpu: &Wgpu,
    op: &WindowScales,
    seen: View<'_, u16>,
    scales: &ViewMut<'_, u16>,
) -> Result<()> {
    op.validate((seen.raw.bytes / 2) as usize, (scales.raw.bytes / 2) as usize)?;
    let mut batch = Batch::new(gpu);
    for Window { start, len } in gpu.windows((seen.raw.bytes / 2) as usize, 2) {
        let (seen, scales) = (seen.raw.part(2 * start, 2 * len), scales.raw.part(2 * start, 2 * len));
        let params = Params {
            n: len as u32,
            seen: seen.skip(2),
            scales: scales.skip(2),
            weight: op.headroom.to_bits(),
            ..Params::default()
        };
        batch.dispatch(&shaders::ACCUMULATE_WINDOW, Vec::new(), &[seen, scales], params, len)?;
    }
    batch.run("window_scales").map(drop)
}

pub(super) fn merge(gpu: &Wgpu, op: &Merge, added: View<'_, u32>, into: &ViewMut<'_, u32>) -> Result<()> {
    op.validate((into.raw.bytes / 4) as usize, (added.raw.bytes / 4) as usize)?;
    let mut batch = Batch::new(gpu);
    for Window { start, len } in gpu.windows((into.raw.bytes / 4) as usize, 4) {
        let (added, into) = (added.raw.part(4 * start, 4 * len), into.raw.part(4 * start, 4 * len));
        let params = Params { n: len as u32, x: added.skip(4), words: into.skip(4), ..Params::default() };
        batch.dispatch(&shaders::ACCUMULATE_MERGE, vec![bits(op.bits)], &[added, into], params, len)?;
    }
    batch.run("merge").map(drop)
}
