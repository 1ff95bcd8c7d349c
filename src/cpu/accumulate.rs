//! Accumulate: a gradient is added to levels or counts where they lie, block by block in one pass.

use super::Cpu;
use super::simd::Simd;
use super::split::{TILE, Tile, Zip, fold, join, note, run_items};
use crate::error::Result;
use crate::numerics::constants::{BLOCK_MAX, GROUP, domain};
use crate::numerics::draw::{Position, draws};
use crate::numerics::float::{bf16_to_f32, magnitude, out_of_range};
use crate::numerics::level::{level_max, round_fine, round_level, sum, sum_f32, value, weighted};
use crate::numerics::pack::{level, set_level};
use crate::numerics::scale::{count_scale, level_scale, stochastic_scale};
use crate::numerics::trit::keep;
use crate::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, F32, F32Item};
use crate::op::{Checked, Launch};
use crate::types::{Element, Report};

impl Launch<Adaptive> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Adaptive, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        let simd = self.simd;
        let elements = items.iter().map(|i| i.x.len()).sum();
        let run = |item: &mut AdaptiveItem<'_, Cpu, T>| {
            let rule = Rule::new(op.draw.position(item.tensor, domain::ADAPTIVE), op.bits, op.block.get(), op.weight);
            let (levels, scales) = (&mut *item.levels, &mut *item.scales);
            let work = AdaptiveWork { x: item.x, levels, scales, first: item.first, rule };
            fold(work, TILE, &|w| simd.adaptive_blocks(w), &join)
        };
        run_items(items, elements, reports, |i| i.report, run);
        Ok(())
    }
}

/// What all blocks of an item share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Where the draws are made.
    pub(super) at: Position,
    /// Bits a level or count.
    pub(super) bits: u32,
    /// Elements a block.
    pub(super) block: usize,
    /// The weight, as f32 bits.
    pub(super) weight: u32,
}

impl Rule {
    fn new(at: Position, bits: u32, block: u32, weight: f32) -> Self {
        Rule { at, bits, block: block as usize, weight: weight.to_bits() }
    }

    /// Words of a level buffer that the first `at` elements take; `at` is a multiple of a block.
    fn words(&self, at: usize) -> usize {
        at / GROUP * self.bits as usize
    }
}

/// Blocks to accumulate adaptively.
pub(super) struct AdaptiveWork<'a, T> {
    pub(super) x: &'a [T],
    pub(super) levels: &'a mut [u32],
    pub(super) scales: &'a mut [u16],
    /// Index of `x[0]` in the tensor.
    pub(super) first: u64,
    pub(super) rule: Rule,
}

impl<T: Element> Tile for AdaptiveWork<'_, T> {
    fn elements(&self) -> usize {
        self.x.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (first, rule) = (self.first, self.rule);
        let (x, y) = self.x.split_at(at);
        let (levels, more_levels) = self.levels.split_at_mut(rule.words(at));
        let (scales, more_scales) = self.scales.split_at_mut(at / rule.block);
        (
            AdaptiveWork { x, levels, scales, first, rule },
            AdaptiveWork { x: y, levels: more_levels, scales: more_scales, first: first + at as u64, rule },
        )
    }
}

/// The plain form of the adaptive tile.
pub(super) fn plain_adaptive<T: Element>(w: AdaptiveWork<'_, T>) -> Report {
    let (mut report, rule) = (Report::default(), w.rule);
    let levels = w.levels.chunks_mut(rule.words(rule.block));
    for (b, ((x, levels), scale)) in w.x.chunks(rule.block).zip(levels).zip(w.scales).enumerate() {
        plain_adaptive_block(&rule, x, levels, scale, w.first + (b * rule.block) as u64, &mut report);
    }
    report
}

/// One block: sums, the scale that covers them, levels rounded under it.
pub(super) fn plain_adaptive_block<T: Element>(
    rule: &Rule,
    x: &[T],
    levels: &mut [u32],
    scale: &mut u16,
    first: u64,
    report: &mut Report,
) {
    let (old, mut max, mut sums) = (bf16_to_f32(*scale), 0, [0u32; BLOCK_MAX as usize]);
    for (i, (x, v)) in x.iter().zip(&mut sums).enumerate() {
        let l = level(levels, rule.bits, i);
        *v = sum(l, old, weighted(x.to_f32_bits(), rule.weight)).unwrap_or_else(|| {
            note(report, first + i as u64);
            value(l, old).to_bits()
        });
        max = max.max(magnitude(*v));
    }
    let new = level_scale(max, level_max(rule.bits));
    *scale = (new >> 16) as u16;
    let n = x.len();
    for (g, sums) in sums[..n].chunks(GROUP).enumerate() {
        let k = draws(&rule.at, (first / GROUP as u64) as u32 + g as u32);
        for (i, (v, k)) in (g * GROUP..).zip(sums.iter().zip(k)) {
            set_level(levels, rule.bits, i, round_level(*v, new, k));
        }
    }
}

impl Launch<Exact> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Exact, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        let simd = self.simd;
        let elements = items.iter().map(|i| i.x.len()).sum();
        let headroom = op.headroom.map(f32::to_bits);
        let run = |item: &mut ExactItem<'_, Cpu, T>| {
            let at = op.draw.position(item.tensor, domain::TERNARY);
            let rule = Rule::new(at, op.bits, op.block.get(), op.weight);
            let (counts, scales, seen) = (&mut *item.counts, &mut *item.scales, &mut *item.seen);
            let work = ExactTile { x: item.x, counts, scales, seen, first: item.first, rule, headroom };
            fold(work, TILE, &|w| exact_tile(simd, w), &join)
        };
        run_items(items, elements, reports, |i| i.report, run);
        Ok(())
    }
}

/// Blocks to accumulate exactly.
pub(super) struct ExactWork<'a, T> {
    pub(super) x: &'a [T],
    pub(super) counts: &'a mut [u32],
    pub(super) scales: &'a [u16],
    pub(super) seen: &'a mut [u16],
    /// Index of `x[0]` in the tensor.
    pub(super) first: u64,
    pub(super) rule: Rule,
}

impl<T: Element> Tile for ExactWork<'_, T> {
    fn elements(&self) -> usize {
        self.x.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (first, rule) = (self.first, self.rule);
        let (x, y) = self.x.split_at(at);
        let (counts, more_counts) = self.counts.split_at_mut(rule.words(at));
        let (scales, more_scales) = self.scales.split_at(at / rule.block);
        let (seen, more_seen) = self.seen.split_at_mut(at / rule.block);
        (
            ExactWork { x, counts, scales, seen, first, rule },
            ExactWork {
                x: y,
                counts: more_counts,
                scales: more_scales,
                seen: more_seen,
                first: first + at as u64,
                rule,
            },
        )
    }
}

/// The same before the scales are known.
struct ExactTile<'a, T> {
    x: &'a [T],
    counts: &'a mut [u32],
    scales: &'a mut [u16],
    seen: &'a mut [u16],
    first: u64,
    rule: Rule,
    /// What gives a block that is seen for the first time its scale, as f32 bits.
    headroom: Option<u32>,
}

impl<T: Element> Tile for ExactTile<'_, T> {
    fn elements(&self) -> usize {
        self.x.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (first, rule, headroom) = (self.first, self.rule, self.headroom);
        let (x, y) = self.x.split_at(at);
        let (counts, more_counts) = self.counts.split_at_mut(rule.words(at));
        let (scales, more_scales) = self.scales.split_at_mut(at / rule.block);
        let (seen, more_seen) = self.seen.split_at_mut(at / rule.block);
        (
            ExactTile { x, counts, scales, seen, first, rule, headroom },
            ExactTile {
                x: y,
                counts: more_counts,
                scales: more_scales,
                seen: more_seen,
                first: first + at as u64,
                rule,
                headroom,
            },
        )
    }
}

/// A tile of exact counts: blocks that are seen for the first time get their scales first.
fn exact_tile<T: Element>(simd: Simd, w: ExactTile<'_, T>) -> Report {
    if let Some(headroom) = w.headroom {
        for (x, scale) in w.x.chunks(w.rule.block).zip(w.scales.iter_mut()).filter(|(_, scale)| **scale == 0) {
            let max = block_max(simd, x, w.rule.weight, |_| ());
            *scale = (count_scale(w.rule.bits, stochastic_scale(max), headroom) >> 16) as u16;
        }
    }
    let w = ExactWork { x: w.x, counts: w.counts, scales: w.scales, seen: w.seen, first: w.first, rule: w.rule };
    if w.rule.bits == 32 { fine(w) } else { simd.exact_blocks(w) }
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
fn fine<T: Element>(w: ExactWork<'_, T>) -> Report {
    let (mut report, rule) = (Report::default(), w.rule);
    let blocks = w.x.chunks(rule.block).zip(w.counts.chunks_mut(rule.block)).zip(w.scales).zip(w.seen);
    for (b, (((x, counts), scale), seen)) in blocks.enumerate() {
        let (q, mut max) = (bf16_to_f32(*scale), 0);
        for (i, (x, count)) in x.iter().zip(counts).enumerate() {
            let p = weighted(x.to_f32_bits(), rule.weight);
            if out_of_range(magnitude(p)) {
                note(&mut report, w.first + (b * rule.block + i) as u64);
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

/// The plain form of the exact tile.
pub(super) fn plain_exact<T: Element>(w: ExactWork<'_, T>) -> Report {
    let (mut report, rule) = (Report::default(), w.rule);
    let counts = w.counts.chunks_mut(rule.words(rule.block));
    let blocks = w.x.chunks(rule.block).zip(counts).zip(w.scales).zip(w.seen);
    for (b, (((x, counts), scale), seen)) in blocks.enumerate() {
        plain_exact_block(&rule, x, counts, *scale, seen, w.first + (b * rule.block) as u64, &mut report);
    }
    report
}

/// One block: trits under the window's scale are added to the counts.
pub(super) fn plain_exact_block<T: Element>(
    rule: &Rule,
    x: &[T],
    counts: &mut [u32],
    scale: u16,
    seen: &mut u16,
    first: u64,
    report: &mut Report,
) {
    let (s, mut max) = (bf16_to_f32(scale), 0);
    for (g, x) in x.chunks(GROUP).enumerate() {
        let k = draws(&rule.at, (first / GROUP as u64) as u32 + g as u32);
        for (i, (x, k)) in (g * GROUP..).zip(x.iter().zip(k)) {
            let p = weighted(x.to_f32_bits(), rule.weight);
            let m = magnitude(p);
            if out_of_range(m) {
                note(report, first + i as u64);
                continue;
            }
            max = max.max(m);
            report.clipped += u64::from(m > s);
            if keep(m, s, k) {
                let t = if p >> 31 == 1 { -1 } else { 1 };
                set_level(counts, rule.bits, i, level(counts, rule.bits, i) + t);
            }
        }
    }
    *seen = (*seen).max((stochastic_scale(max) >> 16) as u16);
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
