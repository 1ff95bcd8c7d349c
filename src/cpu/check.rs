//! Check: finds elements out of range.

use super::Cpu;
use super::measure::Kernels;
use super::simd::Simd;
use super::split::{TILE, Tile, fold, join, note, run_items};
use crate::error::Result;
use crate::numerics::float::{magnitude, out_of_range};
use crate::numerics::level::weighted;
use crate::op::check::{Check, Item};
use crate::op::{Checked, Launch};
use crate::types::{Element, Report};

impl Launch<Check> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Check, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        let simd = self.simd;
        let weight = op.weight.to_bits();
        let elements: usize = items.iter().map(|i| i.x.len()).sum();
        let run = |i: &mut Item<'_, Cpu, T>| {
            let work = Work { x: i.x, first: i.first };
            fold(work, TILE, &|w: Work<'_, T>| tile(simd, w.x, w.first, weight), &join)
        };
        run_items(items, elements, reports, |i| i.report, run);
        Ok(())
    }
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
