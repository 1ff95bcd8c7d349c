//! Accumulate: a gradient is added to levels or counts where they lie, block by block in one pass.

use super::Cpu;
use super::simd::Simd;
use super::split::{TILE, Tile, Zip, check_slot, fold, join, note, run_items};
use crate::error::Result;
use crate::numerics::constants::{BLOCK_MAX, GROUP, domain};
use crate::numerics::draw::{Position, draws};
use crate::numerics::float::{bf16_to_f32, magnitude, out_of_range};
use crate::numerics::level::{level_max, round_level, sum, value, weighted};
use crate::numerics::pack::{level, set_level};
use crate::numerics::scale::{level_scale, stochastic_scale, window_scale};
use crate::numerics::trit::keep;
use crate::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, Look, LookItem, Merge, WindowScales};
use crate::op::{Element, Report};

pub(super) fn adaptive<T: Element>(
    simd: Simd,
    op: &Adaptive,
    items: &mut [AdaptiveItem<'_, Cpu, T>],
    reports: &mut [Report],
) -> Result<()> {
    op.validate()?;
    for item in items.iter() {
        item.validate(op)?;
        check_slot(item.report, reports.len())?;
    }
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

pub(super) fn exact<T: Element>(
    simd: Simd,
    op: &Exact,
    items: &mut [ExactItem<'_, Cpu, T>],
    reports: &mut [Report],
) -> Result<()> {
    op.validate()?;
    for item in items.iter() {
        item.validate(op)?;
        check_slot(item.report, reports.len())?;
    }
    let elements = items.iter().map(|i| i.x.len()).sum();
    let run = |item: &mut ExactItem<'_, Cpu, T>| {
        let rule = Rule::new(op.draw.position(item.tensor, domain::TERNARY), op.bits, op.block.get(), op.weight);
        let (counts, seen) = (&mut *item.counts, &mut *item.seen);
        let work = ExactWork { x: item.x, counts, scales: item.scales, seen, first: item.first, rule };
        fold(work, TILE, &|w| simd.exact_blocks(w), &join)
    };
    run_items(items, elements, reports, |i| i.report, run);
    Ok(())
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

pub(super) fn look<T: Element>(
    simd: Simd,
    op: &Look,
    items: &mut [LookItem<'_, Cpu, T>],
    reports: &mut [Report],
) -> Result<()> {
    op.validate()?;
    for item in items.iter() {
        item.validate(op)?;
        check_slot(item.report, reports.len())?;
    }
    let (elements, block) = (items.iter().map(|i| i.x.len()).sum(), op.block.get() as usize);
    let run = |item: &mut LookItem<'_, Cpu, T>| {
        let work = LookWork { x: item.x, seen: &mut *item.seen, first: 0, block, weight: op.weight.to_bits() };
        fold(work, TILE, &|w| look_tile(simd, w), &join)
    };
    run_items(items, elements, reports, |i| i.report, run);
    Ok(())
}

struct LookWork<'a, T> {
    x: &'a [T],
    seen: &'a mut [u16],
    first: u64,
    block: usize,
    weight: u32,
}

impl<T: Element> Tile for LookWork<'_, T> {
    fn elements(&self) -> usize {
        self.x.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (first, block, weight) = (self.first, self.block, self.weight);
        let (x, y) = self.x.split_at(at);
        let (seen, more) = self.seen.split_at_mut(at / block);
        (
            LookWork { x, seen, first, block, weight },
            LookWork { x: y, seen: more, first: first + at as u64, block, weight },
        )
    }
}

fn look_tile<T: Element>(simd: Simd, w: LookWork<'_, T>) -> Report {
    let mut report = Report::default();
    for (b, (x, seen)) in w.x.chunks(w.block).zip(w.seen).enumerate() {
        // A product is monotone in the magnitude, so the largest product is that of the largest magnitude.
        let mut max = magnitude(weighted(simd.max(x), w.weight));
        if out_of_range(max) {
            max = 0;
            for (i, x) in x.iter().enumerate() {
                let m = magnitude(weighted(x.to_f32_bits(), w.weight));
                if out_of_range(m) {
                    note(&mut report, w.first + (b * w.block + i) as u64);
                } else {
                    max = max.max(m);
                }
            }
        }
        *seen = (*seen).max((stochastic_scale(max) >> 16) as u16);
    }
    report
}

pub(super) fn window_scales(op: &WindowScales, seen: &[u16], scales: &mut [u16]) -> Result<()> {
    op.validate(seen.len(), scales.len())?;
    let headroom = op.headroom.to_bits();
    let run = |z: Zip<'_, u16, u16>| {
        for (scale, &seen) in z.b.iter_mut().zip(z.a) {
            *scale = (window_scale(bf16_to_f32(seen), headroom) >> 16) as u16;
        }
    };
    fold(Zip { a: seen, b: scales, a_per: 1, b_per: 1, at: 0 }, TILE, &run, &|(), ()| ());
    Ok(())
}

pub(super) fn merge(op: &Merge, from: &[u32], into: &mut [u32]) -> Result<()> {
    op.validate(into.len(), from.len())?;
    // The top bit of each field; below it a carry stays within the field.
    let top = match op.bits {
        4 => 0x8888_8888,
        8 => 0x8080_8080,
        _ => 0x8000_8000,
    };
    let run = |z: Zip<'_, u32, u32>| {
        for (a, &b) in z.b.iter_mut().zip(z.a) {
            *a = (*a & !top).wrapping_add(b & !top) ^ ((*a ^ b) & top);
        }
    };
    fold(Zip { a: from, b: into, a_per: 1, b_per: 1, at: 0 }, TILE, &run, &|(), ()| ());
    Ok(())
}
