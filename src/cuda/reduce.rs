//! Reductions over packed data: kernels add integers, each CTA its own, and the host adds those up exactly.

use super::Cuda;
use super::item::{Item, Pointer};
use super::launch::{Call, THREADS};
use super::modules::Module;
use super::view::View;
use crate::error::Result;
use crate::numerics::constants::GROUP;
use crate::numerics::reduce::{ExactSum, LIMBS};
use crate::op::reduce::{Dot, SquaredNorm};
use crate::op::{Grouping, length};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

/// CTAs of a reduction, each with a row of results.
const CTAS_MAX: u64 = 1024;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    out: Pointer,
    size: u64,
    shift: u32,
    pad: u32,
}

pub(super) fn count_nonzero(cuda: &Cuda, words: View<'_, u32>) -> Result<u64> {
    length("words", words.len().next_multiple_of(2), words.len())?;
    let pairs = (words.len() / 2) as u64;
    let mut call = Call::new(cuda)?;
    let item = Item { x: call.read(words)?, n: pairs, ..Item::default() };
    let rows = rows(&call, "reduce_nonzero", (1, 63), item, pairs, 1)?;
    Ok(rows.iter().sum())
}

pub(super) fn dot(
    cuda: &Cuda,
    op: &Dot,
    words_a: View<'_, u32>,
    scales_a: View<'_, u16>,
    words_b: View<'_, u32>,
    scales_b: View<'_, u16>,
) -> Result<f64> {
    op.validate(words_a.len(), scales_a.len(), words_b.len(), scales_b.len())?;
    let mut call = Call::new(cuda)?;
    let item = Item {
        x: call.read(words_a)?,
        a: call.read(scales_a)?,
        b: call.read(words_b)?,
        c: call.read(scales_b)?,
        n: op.n as u64,
        ..Item::default()
    };
    exact(&call, "reduce_dot", op.grouping, item)
}

pub(super) fn squared_norm(cuda: &Cuda, op: &SquaredNorm, levels: View<'_, u32>, scales: View<'_, u16>) -> Result<f64> {
    op.validate(levels.len(), scales.len())?;
    let mut call = Call::new(cuda)?;
    let item = Item { x: call.read(levels)?, a: call.read(scales)?, n: op.n as u64, ..Item::default() };
    exact(&call, &format!("reduce_norm_{}", op.bits), op.grouping, item)
}

/// Runs a kernel whose rows are limbs, and rounds their sum.
fn exact(call: &Call<'_>, kernel: &str, grouping: Grouping, item: Item) -> Result<f64> {
    let size = grouping.size(item.n as usize) as u64;
    let shift = match grouping {
        Grouping::Block(block) => block.get().ilog2(),
        Grouping::Row(length) if length >= GROUP as u64 && length.is_power_of_two() => length.ilog2(),
        Grouping::Row(_) => 64,
        Grouping::Tensor => 63,
    };
    let rows = rows(call, kernel, (size, shift), item, item.n.div_ceil(GROUP as u64), LIMBS)?;
    let mut sum = ExactSum::default();
    for row in rows.chunks_exact(LIMBS) {
        for (exponent, &limb) in (0..).step_by(32).zip(row) {
            if limb != 0 {
                sum.add(limb as i64, exponent);
            }
        }
    }
    Ok(sum.to_f64())
}

/// Launches over `groups` units of work and fetches the rows of all CTAs.
fn rows(
    call: &Call<'_>,
    kernel: &str,
    (size, shift): (u64, u32),
    item: Item,
    groups: u64,
    width: usize,
) -> Result<Vec<u64>> {
    let ctas = groups.div_ceil(u64::from(THREADS)).min(CTAS_MAX);
    if ctas == 0 {
        return Ok(Vec::new());
    }
    call.cuda().not_captured("a reduction that returns a number", "make it after the graph was launched")?;
    let words = ctas as usize * width;
    let scratch = call.cuda().scratch(8 * words as u64)?;
    let params = Params { out: scratch.pointer(), size, shift, pad: 0 };
    call.launch(Module::Reduce, kernel, &params, &[item], |_| ctas, 0)?;
    scratch.download(call.cuda(), words)
}
