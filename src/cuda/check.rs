//! Check: finds elements out of range.

use super::Cuda;
use super::item::{Pointer, item};
use super::launch::{Call, suffix};
use super::modules::Module;
use crate::error::Result;
use crate::op::check::Check;
use crate::op::{Checked, Launch};
use crate::types::Element;
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    weight: u32,
    pad: u32,
}

item! {
    /// `CheckItem` in kernels/check.cu.
    struct CheckItem { gradient: Pointer, report: Pointer, n: u64, first: u64, begin: u32, pad: u32 }
}

impl Launch<Check> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Check, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        let mut call = Call::new(self)?;
        let slots = call.reports(reports)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(CheckItem {
                gradient: call.read(item.x)?,
                report: slots.at(item.report),
                n: item.x.len() as u64,
                first: item.first,
                ..CheckItem::default()
            });
        }
        let params = Params { weight: op.weight.to_bits(), pad: 0 };
        call.launch_tiles(Module::Check, &format!("check_{}", suffix::<T>()), &params, &rows)
    }
}
