//! Update: weights follow their gradients in place, in operations that are IEEE 754's on every adapter.

use super::device::Wgpu;
use super::launch::{Batch, Piece};
use super::layout::{bits, element, shift};
use super::pipeline::Flags;
use super::raw::Raw;
use super::reports::Reports;
use super::shaders::{self, AdamWParams, AdamWTerms, SgdParams, SgdTerms};
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::op::update::{AdamW, Gradient, Sgd, Source};
use crate::op::{Checked, Launch};
use crate::types::Element;

impl Launch<Sgd> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Sgd, T>) -> Result<()> {
        let (op, items, (state, guards, reports)) = work.into_parts();
        reports.reach(self, items.iter().map(|i| i.first + i.weights.len as u64))?;
        let terms = SgdTerms {
            learning_rate: op.terms.learning_rate.to_bits(),
            momentum: op.terms.momentum.to_bits(),
            weight_decay: op.terms.weight_decay.to_bits(),
            nesterov: u32::from(op.nesterov),
        };
        let mut batch = Batch::following(self, state.0);
        for item in items.iter() {
            for piece in self.pieces(item.weights.len, 4) {
                let Common { levels, scales, weights, guard, flags, threads } =
                    common::<T>(self, &op.source, piece, item.gradient.shorten(), item.weights.raw, guards);
                // Without momentum any buffer does: it is not touched.
                let moment = item.momentum.as_ref().filter(|m| m.len > 0);
                let momentum = moment.map_or(weights, |m| piece.elements(m.raw, 4));
                let first = item.first + piece.start;
                let params = SgdParams {
                    found: reports.found(item.report, first),
                    draws: self.draws(&op.source.draw, item.tensor, domain::WEIGHT, first),
                    terms,
                    zero: 0,
                    n: piece.len as u32,
                    levels: levels.skip(4),
                    scales: scales.skip(2),
                    weights: weights.skip(size_of::<T>() as u64),
                    momentum: momentum.skip(4),
                    factor: op.source.factor.to_bits(),
                    shift: shift(op.source.block),
                    guards: guards.map_or(0, |g| g.slots() as u32),
                };
                let bindings = [levels, scales, weights, momentum, guard, reports.raw()];
                batch.dispatch_following(&shaders::UPDATE, flags, &bindings, params, threads)?;
            }
        }
        batch.run("update_sgd").map(drop)
    }
}

impl Launch<AdamW> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdamW, T>) -> Result<()> {
        let (op, items, (state, guards, reports)) = work.into_parts();
        reports.reach(self, items.iter().map(|i| i.first + i.weights.len as u64))?;
        let terms = terms_of(&op.terms);
        let mut batch = Batch::following(self, state.0);
        for item in items.iter() {
            for piece in self.pieces(item.weights.len, 4) {
                let Common { levels, scales, weights, guard, flags, threads } =
                    common::<T>(self, &op.source, piece, item.gradient.shorten(), item.weights.raw, guards);
                let first_moment = piece.elements(item.first_moment.raw, 4);
                let second_moment = piece.elements(item.second_moment.raw, 4);
                let first = item.first + piece.start;
                let params = AdamWParams {
                    found: reports.found(item.report, first),
                    draws: self.draws(&op.source.draw, item.tensor, domain::WEIGHT, first),
                    terms,
                    zero: 0,
                    n: piece.len as u32,
                    levels: levels.skip(4),
                    scales: scales.skip(2),
                    weights: weights.skip(size_of::<T>() as u64),
                    first_moment: first_moment.skip(4),
                    second_moment: second_moment.skip(4),
                    factor: op.source.factor.to_bits(),
                    shift: shift(op.source.block),
                    guards: guards.map_or(0, |g| g.slots() as u32),
                };
                let bindings = [levels, scales, weights, first_moment, second_moment, guard, reports.raw()];
                batch.dispatch_following(&shaders::UPDATE_ADAMW, flags, &bindings, params, threads)?;
            }
        }
        batch.run("update_adamw").map(drop)
    }
}

/// The terms as the shaders take them.
pub(super) fn terms_of(terms: &crate::numerics::update::AdamWTerms) -> AdamWTerms {
    AdamWTerms {
        learning_rate: terms.learning_rate.to_bits(),
        beta1: terms.beta1.to_bits(),
        rest1: terms.rest1.to_bits(),
        beta2: terms.beta2.to_bits(),
        rest2: terms.rest2.to_bits(),
        correct1: terms.correct1.to_bits(),
        correct2: terms.correct2.to_bits(),
        eps: terms.eps.to_bits(),
        keep: terms.keep.to_bits(),
        ..AdamWTerms::default()
    }
}

/// What updates bind and choose for a piece.
pub(super) struct Common<'a> {
    pub(super) levels: Raw<'a>,
    pub(super) scales: Raw<'a>,
    pub(super) weights: Raw<'a>,
    pub(super) guard: Raw<'a>,
    pub(super) flags: Flags,
    pub(super) threads: u64,
}

pub(super) fn common<'a, T: Element>(
    gpu: &Wgpu,
    source: &Source,
    piece: Piece,
    gradient: Gradient<'a, Wgpu>,
    weights: Raw<'a>,
    guards: Option<&'a Reports>,
) -> Common<'a> {
    let weights = piece.elements(weights, size_of::<T>() as u64);
    let (levels, scales, kind) = match gradient {
        Gradient::Packed { levels, scales } => {
            let scales = piece.blocks(scales.raw, source.block);
            (piece.words(levels.raw, source.bits), scales, bits(source.bits))
        }
        Gradient::Dense(x) => {
            let x = piece.elements(x.raw, 4);
            (x, x, "DENSE")
        }
    };
    let mut flags = vec![element::<T>(), kind];
    gpu.wide(&mut flags);
    gpu.soft(&mut flags);
    let threads = (weights.offset % 4 + weights.bytes).div_ceil(4);
    // Without guards any buffer does: it is not read.
    let guard = guards.map_or(scales, Reports::raw);
    Common { levels, scales, weights, guard, flags, threads }
}
