//! Accumulate: a gradient is added to levels or counts where they lie, block by block in one pass.

use super::Cpu;
use super::measure::Kernels;
use super::simd::Simd;
use super::split::{TILE, Tile, Zip, fold, join, note, run_items};
use super::tile::{AdaptiveTile, Addition, ExactTile};
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::numerics::draw::Position;
use crate::numerics::float::{bf16_to_f32, magnitude, out_of_range};
use crate::numerics::level::{round_fine, sum_f32, weighted};
use crate::numerics::scale::{count_scale, stochastic_scale};
use crate::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, F32, F32Item};
use crate::op::state::Under;
use crate::op::{Checked, Launch};
use crate::types::{Element, Report};

impl Launch<Adaptive> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Adaptive, T>) -> Result<()> {
        let (op, items, (state, reports)) = work.into_parts();
        let (simd, op) = (self.simd, op.under_words(state.0));
        let elements = items.iter().map(|i| i.x.len()).sum();
        let run = |item: &mut AdaptiveItem<'_, Cpu, T>| {
            let how = addition(op.draw.position(item.tensor, domain::ADAPTIVE), op.bits, op.block.get(), op.weight);
            let (levels, scales) = (&mut *item.levels, &mut *item.scales);
            let work = AdaptiveTile { x: item.x, levels, scales, first: item.first, how };
            fold(work, TILE, &|w| simd.adaptive_blocks(w), &join)
        };
        run_items(items, elements, reports, |i| i.report, run);
        Ok(())
    }
}

impl Launch<Exact> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Exact, T>) -> Result<()> {
        let (op, items, (state, reports)) = work.into_parts();
        let (simd, op) = (self.simd, op.under_words(state.0));
        let elements = items.iter().map(|i| i.x.len()).sum();
        let headroom = op.headroom.map(f32::to_bits);
        let run = |item: &mut ExactItem<'_, Cpu, T>| {
            let at = op.draw.position(item.tensor, domain::TERNARY);
            let how = addition(at, op.bits, op.block.get(), op.weight);
            let (counts, scales, seen) = (&mut *item.counts, &mut *item.scales, &mut *item.seen);
            let work = Unscaled { x: item.x, counts, scales, seen, first: item.first, how, headroom };
            fold(work, TILE, &|w| exact_tile(simd, w), &join)
        };
        run_items(items, elements, reports, |i| i.report, run);
        Ok(())
    }
}

/// What all blocks of an item share.
fn addition(at: Position, bits: u32, block: u32, weight: f32) -> Addition {
    Addition { at, bits, block: block as usize, weight: weight.to_bits() }
}

/// A tile of exact counts before all of its scales are known.
struct Unscaled<'a, T> {
    x: &'a [T],
    counts: &'a mut [u32],
    scales: &'a mut [u16],
    seen: &'a mut [u16],
    first: u64,
    how: Addition,
    /// What gives a block that is seen for the first time its scale, as f32 bits.
    headroom: Option<u32>,
}

impl<T: Element> Tile for Unscaled<'_, T> {
    fn elements(&self) -> usize {
        self.x.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (first, how, headroom) = (self.first, self.how, self.headroom);
        let (x, y) = self.x.split_at(at);
        let (counts, more_counts) = self.counts.split_at_mut(how.words(at));
        let (scales, more_scales) = self.scales.split_at_mut(at / how.block);
        let (seen, more_seen) = self.seen.split_at_mut(at / how.block);
        (
            Unscaled { x, counts, scales, seen, first, how, headroom },
            Unscaled {
                x: y,
                counts: more_counts,
                scales: more_scales,
                seen: more_seen,
                first: first + at as u64,
                how,
                headroom,
            },
        )
    }
}

/// A tile of exact counts: blocks that are seen for the first time get their scales first.
fn exact_tile<T: Element>(simd: Simd, w: Unscaled<'_, T>) -> Report {
    let Unscaled { x, counts, scales, seen, first, how, headroom } = w;
    if let Some(headroom) = headroom {
        for (x, scale) in x.chunks(how.block).zip(scales.iter_mut()).filter(|(_, scale)| **scale == 0) {
            let max = block_max(simd, x, how.weight, |_| ());
            *scale = (count_scale(how.bits, stochastic_scale(max), headroom) >> 16) as u16;
        }
    }
    let tile = ExactTile { x, counts, scales, seen, first, how };
    if how.bits == 32 { fine(tile) } else { simd.exact_blocks(tile) }
}

/// The largest product of a block that is in range; calls `f` with the index of each that is not.
pub(super) fn block_max<T: Element>(simd: Simd, x: &[T], weight: u32, mut f: impl FnMut(usize)) -> u32 {
    // A product is monotone in the magnitude, so the largest product is that of the largest magnitude.
    let max = magnitude(weighted(simd.max(x), weight));
    if !out_of_range(max) {
        return max;
    }
    let mut max = 0;
    for (i, x) in x.iter().enumerate() {
        let m = magnitude(weighted(x.to_f32_bits(), weight));
        if out_of_range(m) { f(i) } else { max = max.max(m) }
    }
    max
}

/// Fine levels in 32-bit counts: rounded to nearest, so no draw is made.
fn fine<T: Element>(w: ExactTile<'_, T>) -> Report {
    let (mut report, how) = (Report::default(), w.how);
    let blocks = w.x.chunks(how.block).zip(w.counts.chunks_mut(how.block)).zip(w.scales).zip(w.seen);
    for (b, (((x, counts), scale), seen)) in blocks.enumerate() {
        let (q, mut max) = (bf16_to_f32(*scale), 0);
        for (i, (x, count)) in x.iter().zip(counts).enumerate() {
            let p = weighted(x.to_f32_bits(), how.weight);
            if out_of_range(magnitude(p)) {
                note(&mut report, w.first + (b * how.block + i) as u64);
                continue;
            }
            max = max.max(magnitude(p));
            let (level, cut) = round_fine(p, q);
            report.clipped += u64::from(cut);
            *count = count.wrapping_add(level as u32);
        }
        *seen = (*seen).max((stochastic_scale(max) >> 16) as u16);
    }
    report
}

impl Launch<F32> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, F32, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        let weight = op.weight.to_bits();
        let elements = items.iter().map(|i| i.x.len()).sum();
        let run = |item: &mut F32Item<'_, Cpu, T>| {
            let zip = Zip { a: item.x, b: &mut *item.sum, a_per: 1, b_per: 1, at: 0 };
            let mut report = fold(zip, TILE, &|z| add_f32(z, weight), &join);
            report.first = report.first.map(|i| item.first.saturating_add(i));
            report
        };
        run_items(items, elements, reports, |i| i.report, run);
        Ok(())
    }
}

fn add_f32<T: Element>(z: Zip<'_, T, f32>, weight: u32) -> Report {
    let mut report = Report::default();
    for (i, (x, s)) in z.a.iter().zip(z.b).enumerate() {
        match sum_f32(s.to_bits(), weighted(x.to_f32_bits(), weight)) {
            Some(v) => *s = f32::from_bits(v),
            None => note(&mut report, (z.at + i) as u64),
        }
    }
    report
}
