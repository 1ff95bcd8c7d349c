//! Check: finds elements out of range.

use super::Cpu;
use super::measure::Kernels;
use super::simd::Simd;
use super::split::{TILE, Tile, check_slot, fold, join, merge_into, note};
use crate::error::Result;
use crate::numerics::float::{magnitude, out_of_range};
use crate::numerics::level::weighted;
use crate::op::check::{Check, Item};
use crate::op::{Element, Report};
use rayon::prelude::*;

pub(super) fn check<T: Element>(
    simd: Simd,
    op: &Check,
    items: &[Item<'_, Cpu, T>],
    reports: &mut [Report],
) -> Result<()> {
    op.validate()?;
    for item in items {
        item.validate()?;
        check_slot(item.report, reports.len())?;
    }
    let weight = op.weight.to_bits();
    let elements: usize = items.iter().map(|i| i.x.len()).sum();
    let run = |i: &Item<'_, Cpu, T>| {
        let work = Work { x: i.x, first: i.first };
        fold(work, TILE, &|w: Work<'_, T>| tile(simd, w.x, w.first, weight), &join)
    };
    if elements <= TILE || items.len() < 2 {
        for item in items {
            merge_into(reports, item.report, run(item));
        }
    } else {
        let found: Vec<Report> = items.par_iter().map(run).collect();
        for (item, report) in items.iter().zip(found) {
            merge_into(reports, item.report, report);
        }
    }
    Ok(())
}

struct Work<'a, T> {
    x: &'a [T],
    first: u64,
}

impl<T: Element> Tile for Work<'_, T> {
    fn elements(&self) -> usize {
        self.x.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (x, y) = self.x.split_at(at);
        (Work { x, first: self.first }, Work { x: y, first: self.first.saturating_add(at as u64) })
    }
}

/// A look at the maximum first; only a tile with something in it is gone through element by element.
fn tile<T: Element>(simd: Simd, x: &[T], first: u64, weight: u32) -> Report {
    let mut report = Report::default();
    // |weight| <= 1 cannot bring a value out of range that was not; NaN and Inf show in the maximum.
    if magnitude(weight) <= 1f32.to_bits() && !out_of_range(simd.max(x)) {
        return report;
    }
    for (i, x) in x.iter().enumerate() {
        if out_of_range(magnitude(weighted(x.to_f32_bits(), weight))) {
            note(&mut report, first.saturating_add(i as u64));
        }
    }
    report
}
