//! Accumulate: gradients are added to levels, counts or floats where they lie.

use super::Cuda;
use super::draw::DrawParams;
use super::item::{Pointer, item};
use super::launch::{CTA_TILE, Call, suffix};
use super::modules::Module;
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::numerics::float::magnitude;
use crate::op::accumulate::{Adaptive, Exact, F32};
use crate::op::{Checked, Launch};
use crate::types::{Element, ElementType};
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

item! {
    /// `AdaptiveItem` in kernels/include/accumulate.cuh.
    struct AdaptiveItem {
        gradient: Pointer,
        levels: Pointer,
        scales: Pointer,
        report: Pointer,
        n: u64,
        first: u64,
        tensor: u32,
        begin: u32,
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ExactParams {
    draw: DrawParams,
    weight: u32,
    block_shift: u32,
    /// f32 bits; 0: none.
    headroom: u32,
    pad: u32,
}

item! {
    /// `ExactItem` in kernels/include/exact.cuh.
    struct ExactItem {
        gradient: Pointer,
        counts: Pointer,
        scales: Pointer,
        seen: Pointer,
        report: Pointer,
        n: u64,
        first: u64,
        tensor: u32,
        begin: u32,
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct F32Params {
    weight: u32,
    pad: u32,
}

item! {
    /// `F32Item` in kernels/include/fine.cuh.
    struct F32Item {
        gradient: Pointer,
        sum: Pointer,
        report: Pointer,
        n: u64,
        first: u64,
        begin: u32,
        pad: u32,
    }
}

/// A weight's bits; a subnormal counts as zero.
pub(super) fn weight_bits(weight: f32) -> u32 {
    if magnitude(weight.to_bits()) == 0 { 0 } else { weight.to_bits() }
}

impl Launch<Adaptive> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Adaptive, T>) -> Result<()> {
        let (op, items, (state, reports)) = work.into_parts();
        let mut call = Call::new(self)?;
        let state = call.state(state.0)?;
        let slots = call.reports(reports)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(AdaptiveItem {
                gradient: call.read(item.x)?,
                levels: call.write(&mut item.levels)?,
                scales: call.write(&mut item.scales)?,
                report: slots.at(item.report),
                n: item.x.len() as u64,
                first: item.first,
                tensor: item.tensor,
                begin: 0,
            });
        }
        let params = AdaptiveParams {
            draw: DrawParams::new(&op.draw, domain::ADAPTIVE, state),
            weight: weight_bits(op.weight),
            block_shift: op.block.get().ilog2(),
            exponent: 0x4b00_0000,
            sixteen: 16,
        };
        let kernel = format!("accumulate_adaptive_{}_{}", op.bits, suffix::<T>());
        // `ADAPTIVE_TILES` in kernels/include/accumulate.cuh.
        let tiles = if op.bits > 2 && T::TYPE != ElementType::F32 { 4 } else { 1 };
        let ctas = |row: &AdaptiveItem| row.n.div_ceil(tiles * CTA_TILE);
        call.launch(Module::Accumulate, &kernel, &params, &rows, ctas, 0)
    }
}

impl Launch<Exact> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Exact, T>) -> Result<()> {
        let (op, items, (state, reports)) = work.into_parts();
        let mut call = Call::new(self)?;
        let state = call.state(state.0)?;
        let slots = call.reports(reports)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(ExactItem {
                gradient: call.read(item.x)?,
                counts: call.write(&mut item.counts)?,
                scales: call.write(&mut item.scales)?,
                seen: call.write(&mut item.seen)?,
                report: slots.at(item.report),
                n: item.x.len() as u64,
                first: item.first,
                tensor: item.tensor,
                begin: 0,
            });
        }
        let params = ExactParams {
            draw: DrawParams::new(&op.draw, domain::TERNARY, state),
            weight: weight_bits(op.weight),
            block_shift: op.block.get().ilog2(),
            headroom: op.headroom.map_or(0, f32::to_bits),
            pad: 0,
        };
        let kernel = format!("accumulate_exact_{}_{}", op.bits, suffix::<T>());
        call.launch_tiles(Module::Accumulate, &kernel, &params, &rows)
    }
}

impl Launch<F32> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, F32, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        let mut call = Call::new(self)?;
        let slots = call.reports(reports)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(F32Item {
                gradient: call.read(item.x)?,
                sum: call.write(&mut item.sum)?,
                report: slots.at(item.report),
                n: item.x.len() as u64,
                first: item.first,
                ..F32Item::default()
            });
        }
        let params = F32Params { weight: weight_bits(op.weight), pad: 0 };
        call.launch_tiles(Module::Accumulate, &format!("accumulate_f32_{}", suffix::<T>()), &params, &rows)
    }
}
