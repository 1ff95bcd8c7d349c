//! Accumulate: a gradient is added to levels or counts where they lie, block by block in one pass.

use super::Cpu;
use super::measure::Kernels;
use super::simd::Simd;
use super::split::{TILE, Tile, Zip, check_slot, fold, join, note, run_items};
use super::tile::{AdaptiveTile, Addition, ExactTile};
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::numerics::draw::Position;
use crate::numerics::float::{bf16_to_f32, magnitude, out_of_range};
use crate::numerics::level::weighted;
use crate::numerics::scale::{stochastic_scale, window_scale};
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
        let how = addition(op.draw.position(item.tensor, domain::ADAPTIVE), op.bits, op.block.get(), op.weight);
        let (levels, scales) = (&mut *item.levels, &mut *item.scales);
        let work = AdaptiveTile { x: item.x, levels, scales, first: item.first, how };
        fold(work, TILE, &|w| simd.adaptive_blocks(w), &join)
    };
    run_items(items, elements, reports, |i| i.report, run);
    Ok(())
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
        let how = addition(op.draw.position(item.tensor, domain::TERNARY), op.bits, op.block.get(), op.weight);
        let (counts, seen) = (&mut *item.counts, &mut *item.seen);
        let work = ExactTile { x: item.x, counts, scales: item.scales, seen, first: item.first, how };
        fold(work, TILE, &|w| simd.exact_blocks(w), &join)
    };
    run_items(items, elements, reports, |i| i.report, run);
    Ok(())
}

/// What all blocks of an item share.
fn addition(at: Position, bits: u32, block: u32, weight: f32) -> Addition {
    Addition { at, bits, block: block as usize, weight: weight.to_bits() }
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
