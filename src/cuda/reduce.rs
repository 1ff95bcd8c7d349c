//! Reductions: kernels add integers into rows of limbs in scratch memory, and one that finishes adds those to the sums.

use super::Cuda;
use super::item::{Item, Pointer, item};
use super::launch::Call;
use super::modules::Module;
use crate::error::Result;
use crate::numerics::constants::GROUP;
use crate::numerics::reduce::SUM_WORDS;
use crate::op::reduce::{CountNonzero, Dot, SquaredNorm, SquaredNormF32};
use crate::op::{Checked, Launch};
use crate::types::{Element, Grouping};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

/// Units that a CTA takes: `CTA_UNITS` in kernels/reduce.cu. A unit is 16 bytes, or a pair of plane words.
const UNITS_PER_CTA: u64 = 1024;
/// Rows among which the CTAs of a sum take turns, where there are few sums.
const ROWS: u64 = 32;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: Pointer,
    rows_per_sum: u32,
    shift: u32,
}

item! {
    /// `CountItem` in kernels/reduce.cu; `n` is pairs of words.
    struct CountItem { words: Pointer, n: u64, sum: u32, begin: u32 }
}

item! {
    /// `DotItem` in kernels/reduce.cu.
    struct DotItem {
        words_a: Pointer,
        scales_a: Pointer,
        words_b: Pointer,
        scales_b: Pointer,
        n: u64,
        /// Elements of a scale group.
        size: u64,
        sum: u32,
        begin: u32,
    }
}

item! {
    /// `NormItem` in kernels/reduce.cu.
    struct NormItem { levels: Pointer, scales: Pointer, n: u64, size: u64, sum: u32, begin: u32 }
}

item! {
    /// `NormF32Item` in kernels/reduce.cu.
    struct NormF32Item { x: Pointer, n: u64, sum: u32, begin: u32 }
}

item! {
    /// `FinishItem` in kernels/reduce.cu; `n` is rows.
    struct FinishItem { rows: Pointer, sum: Pointer, n: u64, begin: u32, pad: u32 }
}

/// The sums that a list names, each once: kernels get their places in this order.
struct Named(Vec<usize>);

impl Named {
    fn new(slots: impl Iterator<Item = usize>) -> Self {
        let mut named: Vec<usize> = slots.collect();
        named.sort_unstable();
        named.dedup();
        Named(named)
    }

    fn place(&self, slot: usize) -> u32 {
        self.0.partition_point(|&named| named < slot) as u32
    }
}

impl Launch<CountNonzero> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, CountNonzero, T>) -> Result<()> {
        let (_, items, mut sums) = work.into_parts();
        let named = Named::new(items.iter().map(|item| item.sum));
        let mut call = Call::new(self)?;
        let sums = call.write(&mut sums)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            let n = (item.words.len() / 2) as u64;
            rows.push(CountItem { words: call.read(item.words)?, n, sum: named.place(item.sum), begin: 0 });
        }
        add(&call, "nonzero", 0, &rows, 1, (&named, sums))
    }
}

impl Launch<Dot> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Dot, T>) -> Result<()> {
        let (op, items, mut sums) = work.into_parts();
        let named = Named::new(items.iter().map(|item| item.sum));
        let mut call = Call::new(self)?;
        let sums = call.write(&mut sums)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(DotItem {
                words_a: call.read(item.words_a)?,
                scales_a: call.read(item.scales_a)?,
                words_b: call.read(item.words_b)?,
                scales_b: call.read(item.scales_b)?,
                n: item.n as u64,
                size: op.grouping.size(item.n) as u64,
                sum: named.place(item.sum),
                begin: 0,
            });
        }
        add(&call, "dot", shift(op.grouping), &rows, GROUP as u64, (&named, sums))
    }
}

impl Launch<SquaredNorm> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, SquaredNorm, T>) -> Result<()> {
        let (op, items, mut sums) = work.into_parts();
        let named = Named::new(items.iter().map(|item| item.sum));
        let mut call = Call::new(self)?;
        let sums = call.write(&mut sums)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(NormItem {
                levels: call.read(item.levels)?,
                scales: call.read(item.scales)?,
                n: item.n as u64,
                size: op.grouping.size(item.n) as u64,
                sum: named.place(item.sum),
                begin: 0,
            });
        }
        let unit = if op.bits == 2 { GROUP as u64 } else { 128 / u64::from(op.bits) };
        add(&call, &format!("norm_{}", op.bits), shift(op.grouping), &rows, unit, (&named, sums))
    }
}

impl Launch<SquaredNormF32> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, SquaredNormF32, T>) -> Result<()> {
        let (_, items, mut sums) = work.into_parts();
        let named = Named::new(items.iter().map(|item| item.sum));
        let mut call = Call::new(self)?;
        let sums = call.write(&mut sums)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            let n = item.x.len() as u64;
            rows.push(NormF32Item { x: call.read(item.x)?, n, sum: named.place(item.sum), begin: 0 });
        }
        add(&call, "norm_f32", 0, &rows, 4, (&named, sums))
    }
}

/// log2 of a scale group's elements; 64 where a unit may meet several.
const fn shift(grouping: Grouping) -> u32 {
    match grouping {
        Grouping::Block(block) => block.get().ilog2(),
        Grouping::Row(length) if length >= GROUP as u64 && length.is_power_of_two() => length.ilog2(),
        Grouping::Row(_) => 64,
        Grouping::Tensor => 63,
    }
}

/// Adds what the items come to, `unit` elements a unit of work, to the sums that they name.
fn add<I: Item>(
    call: &Call<'_>,
    kernel: &str,
    shift: u32,
    items: &[I],
    unit: u64,
    (named, sums): (&Named, Pointer),
) -> Result<()> {
    let ctas = |item: &I| item.n().div_ceil(unit * UNITS_PER_CTA);
    if items.iter().all(|item| item.n() == 0) {
        return Ok(());
    }
    let rows_per_sum = (2 * ROWS / named.0.len().max(1) as u64).clamp(1, ROWS);
    let row_bytes = (8 * SUM_WORDS) as u64;
    let words = named.0.len() as u64 * rows_per_sum * SUM_WORDS as u64;
    let mut scratch = call.cuda().scratch(8 * words)?;
    scratch.clear(call.cuda(), words as usize)?;
    let params = Params { rows: scratch.pointer(), rows_per_sum: rows_per_sum as u32, shift };
    call.launch(Module::Reduce, &format!("reduce_{kernel}"), &params, items, ctas, 0)?;
    let mut finish = Vec::with_capacity(named.0.len());
    for (place, &slot) in named.0.iter().enumerate() {
        finish.push(FinishItem {
            rows: scratch.pointer().byte_add(place as u64 * rows_per_sum * row_bytes),
            sum: sums.byte_add((4 * SUM_WORDS * slot) as u64),
            n: rows_per_sum,
            ..FinishItem::default()
        });
    }
    call.launch(Module::Reduce, "reduce_finish", &0u64, &finish, |_| 1, 0)
}
