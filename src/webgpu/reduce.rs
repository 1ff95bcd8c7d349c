//! Reductions: bins of exact sums, which a last dispatch adds to the slots of the sums. Nothing leaves the device.

use super::device::Wgpu;
use super::launch::Batch;
use super::layout::bits;
use super::raw::Raw;
use super::shaders::{self, CountParams, DotParams, FinishParams, NormParams, SquaresParams};
use super::view::ViewMut;
use crate::error::Result;
use crate::numerics::reduce::{SUM_LOWEST, SUM_WORDS};
use crate::op::reduce::{CountNonzero, Dot, SquaredNorm, SquaredNormF32};
use crate::op::{Checked, Launch};
use crate::types::Element;

/// Bytes of the bins of one sum: a bin for each power of two of a term, three words each.
const BINS: u64 = 544 * 12;
/// Groups of 32 elements that a thread takes.
const EACH: u64 = 16;
/// The bit of a sum that bin 0 begins at: for products of two scales, in units of 2^-268; for squares of floats, in units
/// of 2^-300; for counts.
const SCALES: u32 = SUM_LOWEST - 268;
const FLOATS: u32 = SUM_LOWEST - 300;
const COUNTS: u32 = SUM_LOWEST;

/// Threads for so many elements.
fn threads(n: u64) -> u64 {
    n.div_ceil(32).div_ceil(EACH)
}

/// Adds items into bins, those of one slot together, and the bins into the slots.
fn add_all<I>(
    gpu: &Wgpu,
    call: &'static str,
    items: &[I],
    sums: &ViewMut<'_, u32>,
    base: u32,
    slot: impl Fn(&I) -> usize,
    add: impl Fn(&mut Batch<'_>, &I, Raw<'_>) -> Result<()>,
) -> Result<()> {
    let mut slots: Vec<usize> = items.iter().map(&slot).collect();
    slots.sort_unstable();
    slots.dedup();
    let bytes = slots.len() as u64 * BINS;
    let scratch = gpu.inner.link.allocate(bytes)?;
    let bins = |place: usize| Raw { buffer: &scratch, offset: place as u64 * BINS, bytes: BINS };
    let mut batch = Batch::new(gpu);
    for item in items {
        if let Ok(place) = slots.binary_search(&slot(item)) {
            add(&mut batch, item, bins(place))?;
        }
    }
    for (place, slot) in slots.iter().enumerate() {
        let (bins, bytes) = (bins(place), SUM_WORDS as u64 * 4);
        let sum = sums.raw.part(*slot as u64 * bytes, bytes);
        let params = FinishParams { sums: sum.skip(4), bins: bins.skip(4), base };
        batch.dispatch(&shaders::REDUCE_FINISH, Vec::new(), &[bins, sum], params, 1)?;
    }
    batch.run(call).map(drop)
}

impl Launch<CountNonzero> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, CountNonzero, T>) -> Result<()> {
        let (_, items, sums) = work.into_parts();
        add_all(
            self,
            "count_nonzero",
            items,
            &sums,
            COUNTS,
            |i| i.sum,
            |batch, item, bins| {
                for piece in self.pieces(item.words.len / 2 * 32, 1) {
                    let words = piece.words(item.words.raw, 2);
                    let params = CountParams { n: piece.len as u32, words: words.skip(4), bins: bins.skip(4) };
                    batch.dispatch(&shaders::REDUCE_COUNT, Vec::new(), &[words, bins], params, threads(piece.len))?;
                }
                Ok(())
            },
        )
    }
}

impl Launch<Dot> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Dot, T>) -> Result<()> {
        let (op, items, sums) = work.into_parts();
        add_all(
            self,
            "dot",
            items,
            &sums,
            SCALES,
            |i| i.sum,
            |batch, item, bins| {
                for piece in self.pieces(item.n, 2) {
                    let groups = piece.grouped(op.grouping, item.n as u64);
                    let (words_a, words_b) = (piece.words(item.words_a.raw, 2), piece.words(item.words_b.raw, 2));
                    let scales_a = groups.scales(piece, item.scales_a.raw);
                    let scales_b = groups.scales(piece, item.scales_b.raw);
                    let params = DotParams {
                        n: piece.len as u32,
                        words_a: words_a.skip(4),
                        scales_a: scales_a.skip(2),
                        words_b: words_b.skip(4),
                        scales_b: scales_b.skip(2),
                        bins: bins.skip(4),
                        shift: groups.shift(),
                        columns: groups.columns,
                        head: groups.head,
                    };
                    let bindings = [words_a, scales_a, words_b, scales_b, bins];
                    batch.dispatch(&shaders::REDUCE, Vec::new(), &bindings, params, threads(piece.len))?;
                }
                Ok(())
            },
        )
    }
}

impl Launch<SquaredNorm> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, SquaredNorm, T>) -> Result<()> {
        let (op, items, sums) = work.into_parts();
        add_all(
            self,
            "squared_norm",
            items,
            &sums,
            SCALES,
            |i| i.sum,
            |batch, item, bins| {
                for piece in self.pieces(item.n, u64::from(op.bits / 8).max(2)) {
                    let groups = piece.grouped(op.grouping, item.n as u64);
                    let levels = piece.words(item.levels.raw, op.bits);
                    let scales = groups.scales(piece, item.scales.raw);
                    let params = NormParams {
                        n: piece.len as u32,
                        levels: levels.skip(4),
                        scales: scales.skip(2),
                        bins: bins.skip(4),
                        shift: groups.shift(),
                        columns: groups.columns,
                        head: groups.head,
                    };
                    let flags = vec![bits(op.bits)];
                    let bindings = [levels, scales, bins];
                    batch.dispatch(&shaders::REDUCE_NORM, flags, &bindings, params, threads(piece.len))?;
                }
                Ok(())
            },
        )
    }
}

impl Launch<SquaredNormF32> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, SquaredNormF32, T>) -> Result<()> {
        let (_, items, sums) = work.into_parts();
        add_all(
            self,
            "squared_norm_f32",
            items,
            &sums,
            FLOATS,
            |i| i.sum,
            |batch, item, bins| {
                for piece in self.pieces(item.x.len, 4) {
                    let x = piece.elements(item.x.raw, 4);
                    let params = SquaresParams { n: piece.len as u32, x: x.skip(4), bins: bins.skip(4) };
                    batch.dispatch(&shaders::REDUCE_F32, Vec::new(), &[x, bins], params, threads(piece.len))?;
                }
                Ok(())
            },
        )
    }
}
