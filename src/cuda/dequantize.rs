//! Dequantize: planes and scales become floats.

use super::Cuda;
use super::item::Item as Row;
use super::launch::{Call, suffix};
use super::modules::Module;
use crate::error::Result;
use crate::op::dequantize::{Dequantize, Item};
use crate::op::{Element, Grouping};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    shift: u32,
    pad: u32,
}

pub(super) fn dequantize<T: Element>(cuda: &Cuda, op: &Dequantize, items: &mut [Item<'_, Cuda, T>]) -> Result<()> {
    for item in items.iter() {
        item.validate(op)?;
    }
    let mut call = Call::new(cuda)?;
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        rows.push(Row {
            x: call.read(item.words)?,
            b: call.read(item.scales)?,
            n: item.out.len() as u64,
            first: op.grouping.size(item.out.len()) as u64,
            a: call.write(&mut item.out)?,
            ..Row::default()
        });
    }
    let (form, shift) = match op.grouping {
        Grouping::Block(block) => ("block", block.get().ilog2()),
        Grouping::Row(length) if length >= 32 && length.is_power_of_two() => ("block", length.ilog2()),
        Grouping::Row(_) => ("row", 0),
        Grouping::Tensor => ("block", 63),
    };
    let kernel = format!("dequantize_{form}_{}", suffix::<T>());
    let params = Params { shift, pad: 0 };
    if form == "row" {
        // Arithmetic is what is short there: all CTAs that fit.
        return call.launch_tiles(Module::Dequantize, &kernel, &params, &rows);
    }
    call.launch_writers::<T, _>(Module::Dequantize, &kernel, &params, &rows)
}
