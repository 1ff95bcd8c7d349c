//! Accumulate: gradients are added to levels or counts where they lie.

use super::Cuda;
use super::draw::DrawParams;
use super::item::Item as Row;
use super::launch::{CTA_TILE, Call, check_slot, suffix};
use super::memory::Reports;
use super::modules::Module;
use super::view::{View, ViewMut};
use crate::error::Result;
use crate::memory::Memory;
use crate::numerics::constants::domain;
use crate::numerics::float::magnitude;
use crate::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, Look, LookItem, Merge, WindowScales};
use crate::op::{Element, ElementType};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AdaptiveParams {
    draw: DrawParams,
    weight: u32,
    block_shift: u32,
    /// The bits of 2^23: the kernel must not know that it is a constant.
    exponent: u32,
    /// 16, for the same reason.
    sixteen: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ExactParams {
    draw: DrawParams,
    weight: u32,
    block_shift: u32,
}

/// Look: weight and log2 of the block; merge: bits; window scales: bits of the headroom.
type Two = [u32; 2];

/// A weight's bits; a subnormal counts as zero.
fn weight_bits(weight: f32) -> u32 {
    if magnitude(weight.to_bits()) == 0 { 0 } else { weight.to_bits() }
}

pub(super) fn adaptive<T: Element>(
    cuda: &Cuda,
    op: &Adaptive,
    items: &mut [AdaptiveItem<'_, Cuda, T>],
    reports: &mut Reports,
) -> Result<()> {
    op.validate()?;
    for item in items.iter() {
        item.validate(op)?;
        check_slot(item.report, Cuda::report_slots(reports))?;
    }
    let mut call = Call::new(cuda)?;
    let slots = call.reports(reports)?;
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        rows.push(Row {
            x: call.read(item.x)?,
            a: call.write(&mut item.levels)?,
            b: call.write(&mut item.scales)?,
            report: slots.at(item.report),
            n: item.x.len() as u64,
            first: item.first,
            tensor: item.tensor,
            ..Row::default()
        });
    }
    let params = AdaptiveParams {
        draw: DrawParams::new(cuda, &op.draw, domain::ADAPTIVE),
        weight: weight_bits(op.weight),
        block_shift: op.block.get().ilog2(),
        exponent: 0x4b00_0000,
        sixteen: 16,
    };
    let kernel = format!("accumulate_adaptive_{}_{}", op.bits, suffix::<T>());
    // `ADAPTIVE_TILES` in kernels/include/accumulate.cuh.
    let tiles = if op.bits > 2 && T::TYPE != ElementType::F32 { 4 } else { 1 };
    let ctas = |row: &Row| row.n.div_ceil(tiles * CTA_TILE);
    call.launch(Module::Accumulate, &kernel, &params, &rows, ctas, 0)
}

pub(super) fn exact<T: Element>(
    cuda: &Cuda,
    op: &Exact,
    items: &mut [ExactItem<'_, Cuda, T>],
    reports: &mut Reports,
) -> Result<()> {
    op.validate()?;
    for item in items.iter() {
        item.validate(op)?;
        check_slot(item.report, Cuda::report_slots(reports))?;
    }
    let mut call = Call::new(cuda)?;
    let slots = call.reports(reports)?;
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        rows.push(Row {
            x: call.read(item.x)?,
            a: call.write(&mut item.counts)?,
            b: call.read(item.scales)?,
            c: call.write(&mut item.seen)?,
            report: slots.at(item.report),
            n: item.x.len() as u64,
            first: item.first,
            tensor: item.tensor,
            ..Row::default()
        });
    }
    let params = ExactParams {
        draw: DrawParams::new(cuda, &op.draw, domain::TERNARY),
        weight: weight_bits(op.weight),
        block_shift: op.block.get().ilog2(),
    };
    let kernel = format!("accumulate_exact_{}_{}", op.bits, suffix::<T>());
    call.launch_tiles(Module::Accumulate, &kernel, &params, &rows)
}

pub(super) fn look<T: Element>(
    cuda: &Cuda,
    op: &Look,
    items: &mut [LookItem<'_, Cuda, T>],
    reports: &mut Reports,
) -> Result<()> {
    op.validate()?;
    for item in items.iter() {
        item.validate(op)?;
        check_slot(item.report, Cuda::report_slots(reports))?;
    }
    let mut call = Call::new(cuda)?;
    let slots = call.reports(reports)?;
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        rows.push(Row {
            x: call.read(item.x)?,
            a: call.write(&mut item.seen)?,
            report: slots.at(item.report),
            n: item.x.len() as u64,
            ..Row::default()
        });
    }
    let params: Two = [weight_bits(op.weight), op.block.get().ilog2()];
    call.launch_tiles(Module::Accumulate, &format!("look_{}", suffix::<T>()), &params, &rows)
}

pub(super) fn window_scales(
    cuda: &Cuda,
    op: &WindowScales,
    seen: View<'_, u16>,
    mut scales: ViewMut<'_, u16>,
) -> Result<()> {
    op.validate(seen.len(), scales.len())?;
    let n = seen.len() as u64;
    let mut call = Call::new(cuda)?;
    let row = Row { x: call.read(seen)?, a: call.write(&mut scales)?, n, ..Row::default() };
    let params: Two = [op.headroom.to_bits(), 0];
    call.launch_tiles(Module::Accumulate, "window_scales", &params, &[row])
}

pub(super) fn merge(cuda: &Cuda, op: &Merge, from: View<'_, u32>, mut into: ViewMut<'_, u32>) -> Result<()> {
    op.validate(into.len(), from.len())?;
    let n = from.len() as u64;
    let mut call = Call::new(cuda)?;
    let row = Row { x: call.read(from)?, a: call.write(&mut into)?, n, ..Row::default() };
    let params: Two = [op.bits, 0];
    call.launch_tiles(Module::Accumulate, "merge", &params, &[row])
}
