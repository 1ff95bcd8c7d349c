//! The unit of work: tiles of whole blocks, and what tasks report.

use crate::types::Report;
use rayon::prelude::*;
use std::ops::Range;

/// Elements in a tile: a multiple of every block and of 32, small enough that a second pass over it hits the
/// second-level cache, large enough that a task's overhead does not show.
pub(super) const TILE: usize = 1 << 16;

/// Inputs and outputs of a run of elements, which can be cut in two.
pub(super) trait Tile: Send + Sized {
    /// How many elements.
    fn elements(&self) -> usize;
    /// The first `at` elements and the rest; `at` is a multiple of the step given to [`fold`].
    fn split(self, at: usize) -> (Self, Self);
}

impl Tile for Range<usize> {
    fn elements(&self) -> usize {
        self.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        (self.start..self.start + at, self.start + at..self.end)
    }
}

/// One array read and one written, `a_per` and `b_per` entries a unit; counted in units.
pub(super) struct Zip<'a, A, B> {
    pub(super) a: &'a [A],
    pub(super) b: &'a mut [B],
    pub(super) a_per: usize,
    pub(super) b_per: usize,
    /// Number of the first unit.
    pub(super) at: usize,
}

impl<A: Sync, B: Send> Tile for Zip<'_, A, B> {
    fn elements(&self) -> usize {
        self.a.len().div_ceil(self.a_per)
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (a_per, b_per) = (self.a_per, self.b_per);
        let (a, more_a) = self.a.split_at((at * a_per).min(self.a.len()));
        let (b, more_b) = self.b.split_at_mut((at * b_per).min(self.b.len()));
        (Zip { a, b, a_per, b_per, at: self.at }, Zip { a: more_a, b: more_b, a_per, b_per, at: self.at + at })
    }
}

/// Runs a tile in pieces of at most `step` elements, over all threads of the pool, and joins what they return.
///
/// One piece runs on the calling thread and never enters the pool.
pub(super) fn fold<W: Tile, R: Send>(
    tile: W,
    step: usize,
    run: &(impl Fn(W) -> R + Sync),
    join: &(impl Fn(R, R) -> R + Sync),
) -> R {
    let n = tile.elements();
    if n <= step {
        return run(tile);
    }
    let (a, b) = tile.split(n.div_ceil(step).div_ceil(2) * step);
    let (a, b) = rayon::join(|| fold(a, step, run, join), || fold(b, step, run, join));
    join(a, b)
}

/// Runs every item and merges what it found into its slot; short lists stay on the calling thread.
pub(super) fn run_items<I: Send>(
    items: &mut [I],
    elements: usize,
    reports: &mut [Report],
    slot: impl Fn(&I) -> usize,
    run: impl Fn(&mut I) -> Report + Sync + Send,
) {
    if elements <= TILE || items.len() < 2 {
        for item in items.iter_mut() {
            let report = run(item);
            merge_into(reports, slot(item), report);
        }
        return;
    }
    let found: Vec<Report> = items.par_iter_mut().map(run).collect();
    for (item, report) in items.iter().zip(found) {
        merge_into(reports, slot(item), report);
    }
}

/// Runs every item; short lists stay on the calling thread.
pub(super) fn each<I: Send>(items: &mut [I], elements: usize, run: impl Fn(&mut I) + Sync + Send) {
    if elements <= TILE || items.len() < 2 {
        items.iter_mut().for_each(run);
    } else {
        items.par_iter_mut().for_each(run);
    }
}

/// Merges a report into its slot.
pub(super) fn merge_into(reports: &mut [Report], slot: usize, report: Report) {
    if let Some(r) = reports.get_mut(slot) {
        r.merge(report);
    }
}

/// Joins what two tasks found.
pub(super) fn join(mut a: Report, b: Report) -> Report {
    a.merge(b);
    a
}

/// Notes one element out of range (or an invalid trit) at `index`.
pub(super) fn note(report: &mut Report, index: u64) {
    report.non_finite += 1;
    report.first = Some(report.first.map_or(index, |f| f.min(index)));
}
