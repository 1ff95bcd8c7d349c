//! AdamW with moments in 8 bits: one pass, blocks joined in registers.

use super::Cuda;
use super::item::{Pointer, item};
use super::launch::Call;
use super::modules::Module;
use super::update::{SourceParams, gradient, kernel, launch};
use crate::error::Result;
use crate::numerics::update::AdamWTerms;
use crate::op::update_adamw_8bit::AdamW8;
use crate::op::{Checked, Launch};
use crate::types::Element;
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

/// `UpdateAdamW8` in kernels/update_adamw_8bit.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AdamW8Params {
    source: SourceParams,
    terms: AdamWTerms,
    pad: u32,
}

item! {
    /// `AdamW8Item` in kernels/update_adamw_8bit.cu.
    struct AdamW8Item {
        gradient: Pointer,
        /// Null: the gradient is floats.
        scales: Pointer,
        weights: Pointer,
        moments: Pointer,
        moment_scales: Pointer,
        report: Pointer,
        n: u64,
        first: u64,
        tensor: u32,
        begin: u32,
    }
}

impl Launch<AdamW8> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdamW8, T>) -> Result<()> {
        let (op, items, (state, guards, reports)) = work.into_parts();
        let mut call = Call::new(self)?;
        let source = SourceParams::new(&mut call, &op.source, state.0, guards)?;
        let params = AdamW8Params { source, terms: op.terms, pad: 0 };
        let slots = call.reports(reports)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            let (gradient, scales) = gradient(&mut call, &item.gradient)?;
            rows.push(AdamW8Item {
                gradient,
                scales,
                n: item.weights.len() as u64,
                weights: call.write(&mut item.weights)?,
                moments: call.write(&mut item.moments)?,
                moment_scales: call.write(&mut item.moment_scales)?,
                report: slots.at(item.report),
                first: item.first,
                tensor: item.tensor,
                begin: 0,
            });
        }
        launch(&call, Module::UpdateAdamw8bit, &kernel::<T>("update_adamw_8bit", state.0), &params, &rows)
    }
}
