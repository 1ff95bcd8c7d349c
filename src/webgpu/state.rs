//! The state of a training: micro-batches counted, windows decided, steps counted.

use super::device::Wgpu;
use super::follow::ieee;
use super::launch::Batch;
use super::layout::weight;
use super::pipeline::Flags;
use super::reports::Reports;
use super::shaders::{self, DecideParams, MicroBatchParams, StepParams};
use crate::error::Result;
use crate::op::state::{AdvanceMicroBatch, AdvanceStep, Decide};
use crate::op::{Checked, Launch};
use crate::types::Element;

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
            batch.dispatch(&shaders::STATE, ieee(self), &[state, sum, corrections, reports], params, 1)?;
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
