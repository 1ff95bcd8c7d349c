//! The state of a training: micro-batches counted, windows decided, steps counted.

use super::Cuda;
use super::accumulate::weight_bits;
use super::item::{Pointer, item};
use super::launch::Call;
use super::modules::Module;
use crate::error::Result;
use crate::op::state::{AdvanceMicroBatch, AdvanceStep, Decide};
use crate::op::{Checked, Launch};
use crate::types::Element;
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MicroBatchParams {
    weight: f32,
    pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct StepParams {
    /// 0: the loss scale stays.
    interval: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct DecideParams {
    found: Pointer,
    slots: u64,
    limit: f32,
    pad: u32,
}

item! {
    /// `StateItem` in kernels/state.cu.
    struct StateItem { state: Pointer, n: u64, begin: u32, pad: u32 }
}

item! {
    /// `DecideItem` in kernels/state.cu.
    struct DecideItem {
        state: Pointer,
        sum: Pointer,
        corrections: Pointer,
        n: u64,
        /// Updates that there are corrections for.
        updates: u64,
        begin: u32,
        pad: u32,
    }
}

impl Launch<AdvanceMicroBatch> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdvanceMicroBatch, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        let mut call = Call::new(self)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(StateItem { state: call.write(&mut item.state)?, n: 1, ..StateItem::default() });
        }
        let params = MicroBatchParams { weight: f32::from_bits(weight_bits(op.weight)), pad: 0 };
        call.launch(Module::State, "advance_micro_batch", &params, &rows, |_| 1, 0)
    }
}

impl Launch<Decide> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Decide, T>) -> Result<()> {
        let (op, items, found) = work.into_parts();
        let mut call = Call::new(self)?;
        let slots = found.map_or(0, |reports| reports.0.len() as u64);
        let found = match found {
            Some(reports) => call.guards(reports)?.at(0),
            None => Pointer::NULL,
        };
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(DecideItem {
                state: call.write(&mut item.state)?,
                sum: call.read(item.sum)?,
                corrections: call.read(item.corrections)?,
                n: 1,
                updates: (item.corrections.len() / 2) as u64,
                ..DecideItem::default()
            });
        }
        let params = DecideParams { found, slots, limit: op.limit(), pad: 0 };
        call.launch(Module::State, "decide", &params, &rows, |_| 1, 0)
    }
}

impl Launch<AdvanceStep> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdvanceStep, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        let mut call = Call::new(self)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(StateItem { state: call.write(&mut item.state)?, n: 1, ..StateItem::default() });
        }
        let params = StepParams { interval: op.growth_interval.unwrap_or(0), pad: 0 };
        call.launch(Module::State, "advance_step", &params, &rows, |_| 1, 0)
    }
}
