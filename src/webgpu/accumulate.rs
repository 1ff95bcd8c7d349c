//! Accumulate: adaptive levels, exact counts, sums in f32.

use super::device::Wgpu;
use super::launch::Batch;
use super::layout::{bits, element, shift, weight};
use super::shaders::{self, AccumulateParams, ExactParams, SumParams};
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::op::accumulate::{Adaptive, Exact, F32};
use crate::op::{Checked, Launch};
use crate::types::Element;

impl Launch<Adaptive> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Adaptive, T>) -> Result<()> {
        let (op, items, (state, reports)) = work.into_parts();
        let size = size_of::<T>() as u64;
        reports.reach(self, items.iter().map(|i| i.first + i.x.len as u64))?;
        let mut batch = Batch::following(self, state.0);
        for item in items.iter() {
            for piece in self.pieces(item.x.len, size) {
                let x = piece.elements(item.x.raw, size);
                let levels = piece.words(item.levels.raw, op.bits);
                let scales = piece.blocks(item.scales.raw, op.block);
                let first = item.first + piece.start;
                let params = AccumulateParams {
                    found: reports.found(item.report, first),
                    draws: self.draws(&op.draw, item.tensor, domain::ADAPTIVE, first),
                    zero: 0,
                    n: piece.len as u32,
                    x: x.skip(size),
                    levels: levels.skip(4),
                    scales: scales.skip(2),
                    shift: shift(op.block),
                    weight: weight(op.weight),
                };
                let mut flags = vec![element::<T>(), bits(op.bits)];
                let vectors = x.vectors(16) && levels.vectors(if op.bits == 2 { 8 } else { 16 });
                flags.extend(vectors.then_some("VECTOR"));
                self.able(&mut flags, op.block);
                let bindings = [x, levels, scales, reports.raw()];
                batch.dispatch_following(&shaders::ACCUMULATE, flags, &bindings, params, piece.len.div_ceil(32))?;
            }
        }
        batch.run("accumulate_adaptive").map(drop)
    }
}

impl Launch<Exact> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Exact, T>) -> Result<()> {
        let (op, items, (state, reports)) = work.into_parts();
        let size = size_of::<T>() as u64;
        reports.reach(self, items.iter().map(|i| i.first + i.x.len as u64))?;
        let mut batch = Batch::following(self, state.0);
        for item in items.iter() {
            for piece in self.pieces(item.x.len, size.max(u64::from(op.bits / 8))) {
                let x = piece.elements(item.x.raw, size);
                let counts = piece.words(item.counts.raw, op.bits);
                let scales = piece.blocks(item.scales.raw, op.block);
                let seen = piece.blocks(item.seen.raw, op.block);
                let first = item.first + piece.start;
                let params = ExactParams {
                    found: reports.found(item.report, first),
                    draws: self.draws(&op.draw, item.tensor, domain::TERNARY, first),
                    zero: 0,
                    n: piece.len as u32,
                    x: x.skip(size),
                    counts: counts.skip(4),
                    scales: scales.skip(2),
                    seen: seen.skip(2),
                    shift: shift(op.block),
                    weight: weight(op.weight),
                    headroom: op.headroom.map_or(0, f32::to_bits),
                };
                let mut flags = vec![element::<T>(), bits(op.bits)];
                flags.extend(x.vectors(16).then_some("VECTOR"));
                self.able(&mut flags, op.block);
                let bindings = [x, counts, scales, seen, reports.raw()];
                batch.dispatch_following(
                    &shaders::ACCUMULATE_EXACT,
                    flags,
                    &bindings,
                    params,
                    piece.len.div_ceil(32),
                )?;
            }
        }
        batch.run("accumulate_exact").map(drop)
    }
}

impl Launch<F32> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, F32, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        let size = size_of::<T>() as u64;
        reports.reach(self, items.iter().map(|i| i.first + i.x.len as u64))?;
        let mut batch = Batch::new(self);
        for item in items.iter() {
            for piece in self.pieces(item.x.len, 4) {
                let (x, sum) = (piece.elements(item.x.raw, size), piece.elements(item.sum.raw, 4));
                let params = SumParams {
                    found: reports.found(item.report, item.first + piece.start),
                    zero: 0,
                    n: piece.len as u32,
                    x: x.skip(size),
                    sum: sum.skip(4),
                    weight: weight(op.weight),
                };
                let mut flags = vec![element::<T>()];
                flags.extend(x.vectors(16).then_some("VECTOR"));
                self.soft(&mut flags);
                let bindings = [x, sum, reports.raw()];
                batch.dispatch(&shaders::ACCUMULATE_F32, flags, &bindings, params, piece.len.div_ceil(32))?;
            }
        }
        batch.run("accumulate_f32").map(drop)
    }
}
