//! Dequantize: planes and scales become floats.

use super::Cuda;
use super::item::{Pointer, item};
use super::launch::{Call, suffix};
use super::modules::Module;
use crate::error::Result;
use crate::op::dequantize::Dequantize;
use crate::op::{Checked, Launch};
use crate::types::{Element, Grouping};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    shift: u32,
    pad: u32,
}

item! {
    /// `DequantizeItem` in kernels/dequantize.cu.
    struct DequantizeItem {
        words: Pointer,
        scales: Pointer,
        out: Pointer,
        n: u64,
        /// Elements of a group.
        size: u64,
        begin: u32,
        pad: u32,
    }
}

impl Launch<Dequantize> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Dequantize, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        let mut call = Call::new(self)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(DequantizeItem {
                words: call.read(item.words)?,
                scales: call.read(item.scales)?,
                n: item.out.len() as u64,
                size: op.grouping.size(item.out.len()) as u64,
                out: call.write(&mut item.out)?,
                ..DequantizeItem::default()
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
        call.launch_writers::<T, _, _>(Module::Dequantize, &kernel, &params, &rows)
    }
}
