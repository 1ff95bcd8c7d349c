//! Read out: levels or counts times their block's scale, and sums held in f32.

use super::device::Wgpu;
use super::launch::Batch;
use super::layout::{bits, outputs, shift};
use super::reports::Reports;
use super::shaders::{self, ReadOutF32Params, ReadOutParams};
use crate::error::Result;
use crate::op::read_out::{ReadOut, ReadOutF32};
use crate::op::{Checked, Launch};
use crate::types::Element;

impl Launch<ReadOut> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, ReadOut, T>) -> Result<()> {
        let (op, items, guards) = work.into_parts();
        let size = size_of::<T>() as u64;
        let mut batch = Batch::new(self);
        for item in items.iter() {
            for piece in self.pieces(item.out.len, size.max(u64::from(op.bits / 8))) {
                let out = piece.elements(item.out.raw, size);
                let levels = piece.words(item.levels.raw, op.bits);
                let scales = piece.blocks(item.scales.raw, op.block);
                let params = ReadOutParams {
                    zero: 0,
                    n: piece.len as u32,
                    levels: levels.skip(4),
                    scales: scales.skip(2),
                    out: out.skip(size),
                    shift: shift(op.block),
                    factor: op.factor.to_bits(),
                    guarded: u32::from(item.guard.is_some()),
                    guard: item.guard.unwrap_or(0) as u32,
                };
                let (mut flags, threads) = outputs::<T>(out);
                flags.push(bits(op.bits));
                self.soft(&mut flags);
                // Without a guard any buffer does: it is not read.
                let guard = guards.filter(|_| item.guard.is_some()).map_or(scales, Reports::raw);
                batch.dispatch(&shaders::READ_OUT, flags, &[levels, scales, out, guard], params, threads)?;
            }
        }
        batch.run("read_out").map(drop)
    }
}

impl Launch<ReadOutF32> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, ReadOutF32, T>) -> Result<()> {
        let (op, items, guards) = work.into_parts();
        let size = size_of::<T>() as u64;
        let mut batch = Batch::new(self);
        for item in items.iter() {
            for piece in self.pieces(item.out.len, 4) {
                let (sum, out) = (piece.elements(item.sum.raw, 4), piece.elements(item.out.raw, size));
                let params = ReadOutF32Params {
                    zero: 0,
                    n: piece.len as u32,
                    sum: sum.skip(4),
                    out: out.skip(size),
                    factor: op.factor.to_bits(),
                    guarded: u32::from(item.guard.is_some()),
                    guard: item.guard.unwrap_or(0) as u32,
                };
                let (mut flags, threads) = outputs::<T>(out);
                self.soft(&mut flags);
                let guard = guards.filter(|_| item.guard.is_some()).map_or(sum, Reports::raw);
                batch.dispatch(&shaders::READ_OUT_F32, flags, &[sum, out, guard], params, threads)?;
            }
        }
        batch.run("read_out_f32").map(drop)
    }
}
