//! Windows of exact counts: first looks, scales, comparing and merging.

use super::Cuda;
use super::accumulate::weight_bits;
use super::item::{Pointer, item};
use super::launch::{CTA_TILE, Call, suffix};
use super::modules::Module;
use crate::error::Result;
use crate::op::window::{CompareScales, Look, Merge, WindowScales};
use crate::op::{Checked, Launch};
use crate::types::Element;
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LookParams {
    weight: u32,
    block_shift: u32,
}

item! {
    /// `LookItem` in kernels/window.cu.
    struct LookItem {
        gradient: Pointer,
        seen: Pointer,
        report: Pointer,
        n: u64,
        /// 0: a look is at a whole tensor.
        first: u64,
        begin: u32,
        pad: u32,
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ScalesParams {
    headroom: u32,
    bits: u32,
}

item! {
    /// `WindowScalesItem` in kernels/window.cu.
    struct WindowScalesItem { seen: Pointer, scales: Pointer, n: u64, begin: u32, pad: u32 }
}

item! {
    /// `CompareScalesItem` in kernels/window.cu.
    struct CompareScalesItem { scales_a: Pointer, scales_b: Pointer, report: Pointer, n: u64, begin: u32, pad: u32 }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MergeParams {
    bits: u32,
    pad: u32,
}

item! {
    /// `MergeItem` in kernels/window.cu.
    struct MergeItem {
        from: Pointer,
        into: Pointer,
        seen_from: Pointer,
        seen: Pointer,
        /// Words of counts.
        n: u64,
        /// Maxima.
        blocks: u64,
        /// Maxima that a CTA takes.
        share: u32,
        begin: u32,
    }
}

impl MergeItem {
    /// CTAs: one for each 4096 words or maxima, whatever is more.
    fn ctas(words: u64, blocks: u64) -> u64 {
        words.max(blocks).div_ceil(CTA_TILE)
    }
}

impl Launch<Look> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Look, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        let mut call = Call::new(self)?;
        let slots = call.reports(reports)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(LookItem {
                gradient: call.read(item.x)?,
                seen: call.write(&mut item.seen)?,
                report: slots.at(item.report),
                n: item.x.len() as u64,
                ..LookItem::default()
            });
        }
        let params = LookParams { weight: weight_bits(op.weight), block_shift: op.block.get().ilog2() };
        call.launch_tiles(Module::Window, &format!("look_{}", suffix::<T>()), &params, &rows)
    }
}

impl Launch<WindowScales> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, WindowScales, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        let mut call = Call::new(self)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(WindowScalesItem {
                seen: call.read(item.seen)?,
                scales: call.write(&mut item.scales)?,
                n: item.seen.len() as u64,
                ..WindowScalesItem::default()
            });
        }
        let params = ScalesParams { headroom: op.headroom.to_bits(), bits: op.bits };
        call.launch_tiles(Module::Window, "window_scales", &params, &rows)
    }
}

impl Launch<CompareScales> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, CompareScales, T>) -> Result<()> {
        let (_, items, reports) = work.into_parts();
        let mut call = Call::new(self)?;
        let slots = call.reports(reports)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(CompareScalesItem {
                scales_a: call.read(item.a)?,
                scales_b: call.read(item.b)?,
                report: slots.at(item.report),
                n: item.a.len() as u64,
                ..CompareScalesItem::default()
            });
        }
        call.launch_tiles(Module::Window, "compare_scales", &0u64, &rows)
    }
}

impl Launch<Merge> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Merge, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        let mut call = Call::new(self)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            let (words, blocks) = (item.from.len() as u64, item.seen.len() as u64);
            rows.push(MergeItem {
                from: call.read(item.from)?,
                into: call.write(&mut item.into)?,
                seen_from: call.read(item.seen_from)?,
                seen: call.write(&mut item.seen)?,
                n: words,
                blocks,
                share: blocks.div_ceil(MergeItem::ctas(words, blocks).max(1)) as u32,
                begin: 0,
            });
        }
        let params = MergeParams { bits: op.bits, pad: 0 };
        let ctas = |row: &MergeItem| MergeItem::ctas(row.n, row.blocks);
        call.launch(Module::Window, "merge", &params, &rows, ctas, 0)
    }
}
