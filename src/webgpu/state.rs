//! The state of a training: micro-batches counted, windows decided, steps counted; and how dispatches follow it.

use super::device::Wgpu;
use super::launch::Batch;
use super::layout::weight;
use super::pipeline::Flags;
use super::reports::Reports;
use super::shaders::{
    self, AccumulateParams, AdamW8Params, AdamWParams, AdamWTerms, DecideParams, Draws, ExactParams, GroupsParams,
    MicroBatchParams, QuantizeParams, SgdParams, StepParams,
};
use crate::error::Result;
use crate::op::state::{AdvanceMicroBatch, AdvanceStep, Decide};
use crate::op::{Checked, Launch};
use crate::types::Element;
use std::mem::offset_of;

impl Launch<AdvanceMicroBatch> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdvanceMicroBatch, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        let mut batch = Batch::new(self);
        for item in items.iter() {
            let state = item.state.raw;
            let params = MicroBatchParams { state: state.skip(4), weight: weight(op.weight), zero: 0 };
            batch.dispatch(&shaders::STATE_MICRO_BATCH, ieee(self), &[state], params, 1)?;
        }
        batch.run("advance_micro_batch").map(drop)
    }
}

impl Launch<Decide> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Decide, T>) -> Result<()> {
        let (op, items, found) = work.into_parts();
        let mut batch = Batch::new(self);
        for item in items.iter() {
            let (state, sum) = (item.state.raw, item.sum.raw);
            // Without corrections or reports any buffer does: it is not read.
            let corrections = if item.corrections.len == 0 { sum } else { item.corrections.raw };
            let reports = found.map_or(sum, Reports::raw);
            let params = DecideParams {
                state: state.skip(4),
                sum: sum.skip(4),
                corrections: corrections.skip(4),
                updates: u32::try_from(item.corrections.len / 2).unwrap_or(u32::MAX),
                slots: found.map_or(0, |reports| reports.slots() as u32),
                limit: op.limit().to_bits(),
                zero: 0,
            };
            batch.dispatch(&shaders::STATE_DECIDE, ieee(self), &[state, sum, corrections, reports], params, 1)?;
        }
        batch.run("decide").map(drop)
    }
}

impl Launch<AdvanceStep> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdvanceStep, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        let mut batch = Batch::new(self);
        for item in items.iter() {
            let state = item.state.raw;
            let params = StepParams { state: state.skip(4), interval: op.growth_interval.unwrap_or(0) };
            batch.dispatch(&shaders::STATE_STEP, Flags::new(), &[state], params, 1)?;
        }
        batch.run("advance_step").map(drop)
    }
}

/// The flags of shaders that compute in f32.
pub(super) fn ieee(gpu: &Wgpu) -> Flags {
    let mut flags = Flags::new();
    gpu.soft(&mut flags);
    flags
}

/// Where the parameters of a dispatch hold what a state changes, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) draws: u32,
    /// 0: it draws, no more; 1: SGD; 2: AdamW.
    pub(super) rule: u32,
    pub(super) n: u32,
    pub(super) factor: u32,
    pub(super) terms: u32,
}

/// A word of a struct of parameters.
const fn word(bytes: usize) -> u32 {
    (bytes / 4) as u32
}

/// Parameters that a state can change.
pub(super) trait Follows {
    /// Where.
    const PLACES: Places;
}

macro_rules! draws {
    ($($params:ty),*) => {
        $(impl Follows for $params {
            const PLACES: Places = Places {
                draws: word(offset_of!($params, draws) + offset_of!(Draws, step)),
                rule: 0,
                n: 0,
                factor: 0,
                terms: 0,
            };
        })*
    };
}
draws!(QuantizeParams, GroupsParams, AccumulateParams, ExactParams);

macro_rules! updates {
    ($($params:ty, $rule:literal);*) => {
        $(impl Follows for $params {
            const PLACES: Places = Places {
                draws: word(offset_of!($params, draws) + offset_of!(Draws, step)),
                rule: $rule,
                n: word(offset_of!($params, n)),
                factor: word(offset_of!($params, factor)),
                terms: word(offset_of!($params, terms)),
            };
        })*
    };
}
updates!(SgdParams, 1; AdamWParams, 2; AdamW8Params, 2);

// What shaders/state_params.wgsl takes for granted.
const _: () = assert!(
    offset_of!(Draws, purpose) == offset_of!(Draws, step) + 4
        && offset_of!(shaders::SgdTerms, learning_rate) == 0
        && offset_of!(AdamWTerms, learning_rate) == 0
        && offset_of!(AdamWTerms, correct1) == 20
        && offset_of!(AdamWTerms, correct2) == 24
        && offset_of!(AdamWTerms, keep) == 32
);
