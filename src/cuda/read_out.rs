//! Read out: levels or counts times their block's scale.

use super::Cuda;
use super::item::{Item as Row, Pointer};
use super::launch::{Call, Slots, check_slot, suffix};
use super::memory::Reports;
use super::modules::Module;
use crate::error::Result;
use crate::memory::Memory;
use crate::op::read_out::{Item, ReadOut};
use crate::op::{Element, ElementType};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    block_shift: u32,
    factor: u32,
}

pub(super) fn read_out<T: Element>(
    cuda: &Cuda,
    op: &ReadOut,
    items: &mut [Item<'_, Cuda, T>],
    guards: Option<&Reports>,
) -> Result<()> {
    op.validate()?;
    for item in items.iter() {
        item.validate(op)?;
        if let Some(slot) = item.guard {
            check_slot(slot, guards.map_or(0, Cuda::report_slots))?;
        }
    }
    let mut call = Call::new(cuda)?;
    let slots = guards.map_or(Ok(Slots::NONE), |guards| call.guards(guards))?;
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        rows.push(Row {
            x: call.read(item.levels)?,
            b: call.read(item.scales)?,
            report: item.guard.map_or(Pointer::NULL, |slot| slots.at(slot)),
            n: item.out.len() as u64,
            a: call.write(&mut item.out)?,
            ..Row::default()
        });
    }
    let params = Params { block_shift: op.block.get().ilog2(), factor: op.factor.to_bits() };
    let kernel = format!("read_out_{}_{}", op.bits, suffix::<T>());
    if (op.bits == 2 || op.bits == 16) && T::TYPE != ElementType::F32 {
        // Arithmetic is what is short there, or as much is read as written: all CTAs that fit.
        return call.launch_tiles(Module::ReadOut, &kernel, &params, &rows);
    }
    call.launch_writers::<T, _>(Module::ReadOut, &kernel, &params, &rows)
}
