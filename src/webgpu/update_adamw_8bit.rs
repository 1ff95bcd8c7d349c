//! AdamW with moments in 8 bits: a workgroup a block of 64.

use super::device::Wgpu;
use super::launch::Batch;
use super::layout::shift;
use super::shaders::{self, AdamW8Params};
use super::update::{Common, common, terms_of};
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::numerics::moments::MOMENT_BLOCK;
use crate::op::update_adamw_8bit::AdamW8;
use crate::op::{BlockSize, Checked, Launch};
use crate::types::Element;

impl Launch<AdamW8> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdamW8, T>) -> Result<()> {
        let (op, items, (state, guards, reports)) = work.into_parts();
        reports.reach(self, items.iter().map(|i| i.first + i.weights.len as u64))?;
        let terms = terms_of(&op.terms);
        let moment_block = BlockSize::new(MOMENT_BLOCK as u32)?;
        let mut batch = Batch::following(self, state.0);
        for item in items.iter() {
            for piece in self.pieces(item.weights.len, 4) {
                let Common { levels, scales, weights, guard, flags, .. } =
                    common::<T>(self, &op.source, piece, item.gradient.shorten(), item.weights.raw, guards);
                let moments = piece.elements(item.moments.raw, 2);
                let moment_scales = piece.blocks(item.moment_scales.raw, moment_block);
                let first = item.first + piece.start;
                let params = AdamW8Params {
                    found: reports.found(item.report, first),
                    draws: self.draws(&op.source.draw, item.tensor, domain::WEIGHT, first),
                    terms,
                    zero: 0,
                    n: piece.len as u32,
                    levels: levels.skip(4),
                    scales: scales.skip(2),
                    weights: weights.skip(size_of::<T>() as u64),
                    moments: moments.skip(2),
                    moment_scales: moment_scales.skip(2),
                    factor: op.source.factor.to_bits(),
                    shift: shift(op.source.block),
                    guards: guards.map_or(0, |g| g.slots() as u32),
                };
                let bindings = [levels, scales, weights, moments, moment_scales, guard, reports.raw()];
                batch.dispatch_following(&shaders::UPDATE_ADAMW_8BIT, flags, &bindings, params, piece.len)?;
            }
        }
        batch.run("update_adamw_8bit").map(drop)
    }
}
