//! Quantize: measure each group (scale and limit), then write its trits into the planes.
//!
//! Blocks and rows are measured and written tile by tile, so memory is read once; a group too large for a tile is
//! measured first, in parallel, and its planes are written in a second pass.

use super::Cpu;
use super::measure::{Kernels, measure, rows};
use super::simd::Simd;
use super::split::{TILE, Tile, fold, join, run_items};
use super::tile::{Method, QuantizeTile};
use crate::error::Result;
use crate::numerics::constants::{GROUP, domain};
use crate::op::quantize::{Item, Quantize, Rule, Threshold};
use crate::op::state::Under;
use crate::op::{Checked, Launch};
use crate::types::{Element, Grouping, Report};

/// Elements up to which whole rows are handled within one task.
const ROWS_MAX: usize = 1 << 18;

impl Launch<Quantize> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Quantize, T>) -> Result<()> {
        let (op, items, (state, reports)) = work.into_parts();
        let (simd, op) = (self.simd, op.under_words(state.0));
        let elements = items.iter().map(|i| i.x.len()).sum();
        run_items(items, elements, reports, |i| i.report, |i| quantize_item(simd, &op, i));
        Ok(())
    }
}

fn quantize_item<T: Element>(simd: Simd, op: &Quantize, item: &mut Item<'_, Cpu, T>) -> Report {
    let n = item.x.len();
    if n == 0 {
        return Report::default();
    }
    let method = match op.rule {
        Rule::Stochastic { draw, clip } => {
            Method::Stochastic { at: draw.position(item.tensor, domain::TERNARY), clip: clip.map(f32::to_bits) }
        }
        // A factor of -0 is 0; its bits are taken for a magnitude.
        Rule::Threshold(Threshold::Mean(factor)) => Method::Threshold(Threshold::Mean(factor.abs())),
        Rule::Threshold(t) => Method::Threshold(t),
    };
    let size = op.grouping.size(n);
    let work = QuantizeTile { x: item.x, words: &mut *item.words, scales: &mut *item.scales, first: item.first, size };
    if let Grouping::Block(_) = op.grouping {
        return fold(work, TILE, &|w| simd.quantize_blocks(&method, w), &join);
    }
    // The fewest elements that are whole rows and whole words.
    let unit = size.checked_mul(GROUP >> size.trailing_zeros().min(GROUP.trailing_zeros()));
    match unit {
        Some(unit) if unit <= ROWS_MAX && size < n => {
            let step = unit * (TILE / unit).max(1);
            fold(work, step, &|w| rows(&simd, &method, w), &join)
        }
        _ => large_groups(simd, &method, work),
    }
}

/// Groups larger than a task's share: measured in parallel chunks one after the other, then written tile by tile.
fn large_groups<T: Element>(simd: Simd, method: &Method, w: QuantizeTile<'_, T>) -> Report {
    let QuantizeTile { x, words, scales, first, size } = w;
    let mut report = Report::default();
    let mut measures = Vec::with_capacity(scales.len());
    for (r, (x, scale)) in x.chunks(size).zip(scales).enumerate() {
        let m = measure(&simd, method, x, first + (r * size) as u64, &mut report);
        *scale = (m.scale >> 16) as u16;
        measures.push(m);
    }
    let encode = |p: Planes<'_, T>| {
        let mut report = Report::default();
        p.words.fill(0);
        let mut i = (p.first - first) as usize; // index of the next element in the item
        let mut at = 0; // and in this tile
        while at < p.x.len() {
            let end = (at + size - i % size).min(p.x.len());
            if let Some(m) = measures.get(i / size) {
                simd.encode(method, m, &p.x[at..end], p.words, at, p.first, &mut report);
            }
            i += end - at;
            at = end;
        }
        report
    };
    join(report, fold(Planes { x, words, first }, TILE, &encode, &join))
}

struct Planes<'a, T> {
    x: &'a [T],
    words: &'a mut [u32],
    first: u64,
}

impl<T: Element> Tile for Planes<'_, T> {
    fn elements(&self) -> usize {
        self.x.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (x, y) = self.x.split_at(at);
        let (words, more) = self.words.split_at_mut(at / GROUP * 2);
        (Planes { x, words, first: self.first }, Planes { x: y, words: more, first: self.first + at as u64 })
    }
}
