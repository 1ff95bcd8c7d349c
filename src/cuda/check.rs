//! Check: finds elements out of range.

use super::Cuda;
use super::item::Item as Row;
use super::launch::{Call, check_slot, suffix};
use super::memory::Reports;
use super::modules::Module;
use crate::error::Result;
use crate::memory::Memory;
use crate::op::Element;
use crate::op::check::{Check, Item};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    weight: u32,
    pad: u32,
}

pub(super) fn check<T: Element>(
    cuda: &Cuda,
    op: &Check,
    items: &[Item<'_, Cuda, T>],
    reports: &mut Reports,
) -> Result<()> {
    op.validate()?;
    for item in items {
        item.validate()?;
        check_slot(item.report, Cuda::report_slots(reports))?;
    }
    let mut call = Call::new(cuda)?;
    let slots = call.reports(reports)?;
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        rows.push(Row {
            x: call.read(item.x)?,
            report: slots.at(item.report),
            n: item.x.len() as u64,
            first: item.first,
            ..Row::default()
        });
    }
    let params = Params { weight: op.weight.to_bits(), pad: 0 };
    call.launch_tiles(Module::Check, &format!("check_{}", suffix::<T>()), &params, &rows)
}
