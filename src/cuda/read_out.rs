//! Read out: levels or counts times their block's scale, and sums held in f32.

use super::Cuda;
use super::item::{Pointer, item};
use super::launch::{Call, Slots, suffix};
use super::modules::Module;
use super::reports::Reports;
use crate::error::Result;
use crate::op::read_out::{ReadOut, ReadOutF32};
use crate::op::{Checked, Launch};
use crate::types::{Element, ElementType};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    block_shift: u32,
    factor: u32,
    /// f32 bits: under scales up to this nothing becomes infinite.
    scale_limit: u32,
    pad: u32,
}

item! {
    /// `ReadOutItem` in kernels/read_out.cu.
    struct ReadOutItem {
        levels: Pointer,
        scales: Pointer,
        out: Pointer,
        /// The slot that is looked at, or null.
        guard: Pointer,
        n: u64,
        begin: u32,
        pad: u32,
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct F32Params {
    factor: u32,
    pad: u32,
}

item! {
    /// `ReadOutF32Item` in kernels/read_out.cu.
    struct ReadOutF32Item { sum: Pointer, out: Pointer, guard: Pointer, n: u64, begin: u32, pad: u32 }
}

/// The bits of a bf16 scale (of an f32, with its low half 0) up to which neither `l s` nor `l s factor` exceeds `most`, with some
/// room. Larger scales take a slower way, which is right for all of them.
pub(super) fn scale_limit(bits: u32, factor: f32, most: f32) -> u32 {
    let levels = f64::from(1u32 << (bits - 1));
    let limit = f64::from(most) / (levels * f64::from(factor.abs()).max(1.0));
    // Below the quotient, whatever way that was rounded.
    ((limit * (1.0 - 1e-6)) as f32).to_bits() & 0xffff_0000
}

/// The largest finite number of an element type.
const fn most<T: Element>() -> f32 {
    match T::TYPE {
        ElementType::F32 => f32::MAX,
        ElementType::F16 => 65504.0,
        ElementType::Bf16 => f32::from_bits(0x7f7f_0000),
    }
}

/// The slots of guards.
fn slots_of<'a>(call: &mut Call<'a>, guards: Option<&'a Reports>) -> Result<Slots> {
    guards.map_or(Ok(Slots::NONE), |guards| call.guards(guards))
}

/// The slot of an item's guard, or null.
fn guard_at(slots: Slots, guard: Option<usize>) -> Pointer {
    guard.map_or(Pointer::NULL, |slot| slots.at(slot))
}

impl Launch<ReadOut> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, ReadOut, T>) -> Result<()> {
        let (op, items, guards) = work.into_parts();
        let mut call = Call::new(self)?;
        let slots = slots_of(&mut call, guards)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(ReadOutItem {
                levels: call.read(item.levels)?,
                scales: call.read(item.scales)?,
                guard: guard_at(slots, item.guard),
                n: item.out.len() as u64,
                out: call.write(&mut item.out)?,
                ..ReadOutItem::default()
            });
        }
        let params = Params {
            block_shift: op.block.get().ilog2(),
            factor: op.factor.to_bits(),
            scale_limit: scale_limit(op.bits, op.factor, most::<T>()),
            pad: 0,
        };
        let kernel = format!("read_out_{}_{}", op.bits, suffix::<T>());
        if op.bits == 32 || (matches!(op.bits, 2 | 16) && T::TYPE != ElementType::F32) {
            // As much is read as written, or arithmetic is what is short there: all CTAs that fit.
            return call.launch_tiles(Module::ReadOut, &kernel, &params, &rows);
        }
        call.launch_writers::<T, _, _>(Module::ReadOut, &kernel, &params, &rows)
    }
}

impl Launch<ReadOutF32> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, ReadOutF32, T>) -> Result<()> {
        let (op, items, guards) = work.into_parts();
        let mut call = Call::new(self)?;
        let slots = slots_of(&mut call, guards)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(ReadOutF32Item {
                sum: call.read(item.sum)?,
                guard: guard_at(slots, item.guard),
                n: item.out.len() as u64,
                out: call.write(&mut item.out)?,
                ..ReadOutF32Item::default()
            });
        }
        let params = F32Params { factor: op.factor.to_bits(), pad: 0 };
        call.launch_tiles(Module::ReadOut, &format!("read_out_f32_{}", suffix::<T>()), &params, &rows)
    }
}
