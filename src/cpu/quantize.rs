//! Quantize: measure each group (scale and limit), then write its trits into the planes.
//!
//! Blocks and rows are measured and written tile by tile, so memory is read once; a group too large for a tile is
//! measured first, in parallel, and its planes are written in a second pass.

use super::Cpu;
use super::simd::Simd;
use super::split::{TILE, Tile, fold, join, note, run_items};
use crate::error::Result;
use crate::numerics::constants::{CHUNK, GROUP, domain};
use crate::numerics::draw::{Position, draws};
use crate::numerics::float::{magnitude, out_of_range};
use crate::numerics::scale::stochastic_scale;
use crate::numerics::threshold::{Moments, Sum, relative};
use crate::numerics::trit::{above, keep};
use crate::op::quantize::{Item, Quantize, Rule, Threshold};
use crate::op::{Checked, Launch};
use crate::types::{Element, Grouping, Report};

/// Elements up to which whole rows are handled within one task.
const ROWS_MAX: usize = 1 << 18;

impl Launch<Quantize> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Quantize, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        let simd = self.simd;
        let elements = items.iter().map(|i| i.x.len()).sum();
        run_items(items, elements, reports, |i| i.report, |i| quantize_item(simd, op, i));
        Ok(())
    }
}

/// What decides the trits of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measure {
    /// The stored scale, as f32 bits; the one that stochastic decisions use.
    pub(super) scale: u32,
    /// Stochastic: magnitudes above this are clipped to it. Threshold: what lies above is kept.
    pub(super) limit: u32,
}

/// The rule, with the draws placed in their tensor.
#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    Stochastic { at: Position, clip: Option<u32> },
    Threshold(Threshold),
}

/// A run of elements of one tensor with its planes and scales.
pub(super) struct Work<'a, T> {
    pub(super) x: &'a [T],
    pub(super) words: &'a mut [u32],
    pub(super) scales: &'a mut [u16],
    /// Index of `x[0]` in the tensor.
    pub(super) first: u64,
    /// Elements a scale group.
    pub(super) size: usize,
}

impl<T: Element> Tile for Work<'_, T> {
    fn elements(&self) -> usize {
        self.x.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (x, y) = self.x.split_at(at);
        let (words, more_words) = self.words.split_at_mut(at / GROUP * 2);
        let (scales, more_scales) = self.scales.split_at_mut(at / self.size);
        let (first, size) = (self.first, self.size);
        (
            Work { x, words, scales, first, size },
            Work { x: y, words: more_words, scales: more_scales, first: first + at as u64, size },
        )
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
    let work = Work { x: item.x, words: &mut *item.words, scales: &mut *item.scales, first: item.first, size };
    if let Grouping::Block(_) = op.grouping {
        return fold(work, TILE, &|w| simd.quantize_blocks(&method, w), &join);
    }
    // The fewest elements that are whole rows and whole words.
    let unit = size.checked_mul(GROUP >> size.trailing_zeros().min(GROUP.trailing_zeros()));
    match unit {
        Some(unit) if unit <= ROWS_MAX && size < n => {
            let step = unit * (TILE / unit).max(1);
            fold(work, step, &|w| rows(simd, &method, w), &join)
        }
        _ => large_groups(simd, &method, work),
    }
}

/// Whole rows whose planes start on a word: measured and written row by row.
pub(super) fn rows<T: Element>(simd: Simd, method: &Method, w: Work<'_, T>) -> Report {
    let Work { x, words, scales, first, size } = w;
    let mut report = Report::default();
    words.fill(0);
    for (r, (x, scale)) in x.chunks(size).zip(scales).enumerate() {
        let start = r * size;
        let m = measure(simd, method, x, first + start as u64, &mut report);
        *scale = (m.scale >> 16) as u16;
        simd.encode(method, &m, x, words, start, first, &mut report);
    }
    report
}

/// Groups larger than a task's share: measured in parallel chunks one after the other, then written tile by tile.
fn large_groups<T: Element>(simd: Simd, method: &Method, w: Work<'_, T>) -> Report {
    let Work { x, words, scales, first, size } = w;
    let mut report = Report::default();
    let mut measures = Vec::with_capacity(scales.len());
    for (r, (x, scale)) in x.chunks(size).zip(scales).enumerate() {
        let m = measure(simd, method, x, first + (r * size) as u64, &mut report);
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

/// Blocks, whose planes start on a word: the plain form of the tile.
pub(super) fn plain_blocks<T: Element>(method: &Method, w: Work<'_, T>) -> Report {
    rows(Simd::Plain, method, w)
}

/// The scale and the limit of one group; elements out of range are reported, and count as zero.
pub(super) fn measure<T: Element>(simd: Simd, method: &Method, x: &[T], first: u64, report: &mut Report) -> Measure {
    match *method {
        Method::Stochastic { clip: None, .. } => {
            let max = max(simd, x, first, report);
            Measure { scale: stochastic_scale(max), limit: u32::MAX }
        }
        Method::Stochastic { clip: Some(c), .. } => {
            let of_chunk = |x: &[T], first| {
                let mut report = Report::default();
                (chunk_max(simd, x, first, &mut report), report, simd.moments(x))
            };
            let (mut max, mut limit) = (0, None);
            chunks(x, first, of_chunk, |parts| {
                limit = match parts {
                    [only] => only.2.clip(c),
                    _ => Moments::of_chunks(&parts.iter().map(|p| p.2).collect::<Vec<_>>()).clip(c),
                };
                for part in parts {
                    max = part.0.max(max);
                    report.merge(part.1);
                }
            });
            Measure { scale: stochastic_scale(max.min(limit.unwrap_or(max))), limit: limit.unwrap_or(u32::MAX) }
        }
        Method::Threshold(rule) => {
            let mut noted = false;
            let mut sum = |t: Option<u32>| {
                let of_chunk = |x: &[T], first| {
                    let mut report = Report::default();
                    if !noted {
                        chunk_max(simd, x, first, &mut report);
                    }
                    (simd.sum(x, t), report)
                };
                let mut sum = Sum::default();
                chunks(x, first, of_chunk, |parts| {
                    sum = match parts {
                        [only] => only.0,
                        _ => Sum::of_chunks(&parts.iter().map(|p| p.0).collect::<Vec<_>>()),
                    };
                    parts.iter().for_each(|p| report.merge(p.1));
                });
                noted = true;
                sum
            };
            let limit = match rule {
                Threshold::Given(t) => magnitude(t.to_bits()),
                Threshold::Mean(factor) => relative(&sum(None), factor.to_bits()),
            };
            Measure { scale: sum(Some(limit)).mean_bf16(), limit }
        }
    }
}

/// The largest magnitude in range of a run of any length; what is out of range is reported.
fn max<T: Element>(simd: Simd, x: &[T], first: u64, report: &mut Report) -> u32 {
    let run = |run: Run<'_, T>| {
        let mut report = Report::default();
        (chunk_max(simd, run.x, first + run.at as u64, &mut report), report)
    };
    let (max, found) = fold(Run { x, at: 0 }, TILE, &run, &|a, b| (a.0.max(b.0), join(a.1, b.1)));
    report.merge(found);
    max
}

/// The largest magnitude in range; what is out of range is reported.
fn chunk_max<T: Element>(simd: Simd, x: &[T], first: u64, report: &mut Report) -> u32 {
    let raw = simd.max(x);
    if !out_of_range(raw) {
        return magnitude(raw);
    }
    let mut max = 0;
    for (i, x) in x.iter().enumerate() {
        let m = magnitude(x.to_f32_bits());
        if out_of_range(m) {
            note(report, first + i as u64);
        } else {
            max = max.max(m);
        }
    }
    max
}

/// Elements only, and the place of the first in its group.
struct Run<'a, T> {
    x: &'a [T],
    at: usize,
}

impl<T: Element> Tile for Run<'_, T> {
    fn elements(&self) -> usize {
        self.x.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (x, y) = self.x.split_at(at);
        (Run { x, at: self.at }, Run { x: y, at: self.at + at })
    }
}

/// Hands one value a chunk of a group, in order, to `join`; `of_chunk` also takes the chunk's place in the tensor.
fn chunks<T: Element, R: Send>(x: &[T], first: u64, of_chunk: impl Fn(&[T], u64) -> R + Sync, join: impl FnOnce(&[R])) {
    if x.len() <= CHUNK {
        return join(&[of_chunk(x, first)]);
    }
    let run = |r: Run<'_, T>| {
        let first = first + r.at as u64;
        r.x.chunks(CHUNK).enumerate().map(|(i, x)| of_chunk(x, first + (i * CHUNK) as u64)).collect::<Vec<R>>()
    };
    let append = |mut a: Vec<R>, b: Vec<R>| {
        a.extend(b);
        a
    };
    join(&fold(Run { x, at: 0 }, TILE, &run, &append));
}

/// f32 bits of a chunk with what is out of range as zero.
fn in_range<'b, T: Element>(x: &[T], buffer: &'b mut [u32; CHUNK]) -> &'b mut [u32] {
    let n = x.len().min(CHUNK);
    for (b, x) in buffer.iter_mut().zip(x) {
        let bits = x.to_f32_bits();
        *b = if out_of_range(magnitude(bits)) { 0 } else { bits };
    }
    &mut buffer[..n]
}

/// Moments of a chunk (at most 4096 elements).
pub(super) fn plain_moments<T: Element>(x: &[T]) -> Moments {
    Moments::of_chunk(in_range(x, &mut [0; CHUNK]))
}

/// Sum of a chunk (at most 4096 elements) over what lies above `t`.
pub(super) fn plain_sum<T: Element>(x: &[T], t: Option<u32>) -> Sum {
    let mut buffer = [0; CHUNK];
    let magnitudes = in_range(x, &mut buffer);
    for b in magnitudes.iter_mut() {
        *b = magnitude(*b);
    }
    Sum::of_chunk(magnitudes, t)
}

/// Writes the trits of `x` into `words`, whose bits are still zero, from element `start` of the words on; `first` is
/// the tensor index of element 0 of the words.
pub(super) fn plain_encode<T: Element>(
    method: &Method,
    measure: &Measure,
    x: &[T],
    words: &mut [u32],
    start: usize,
    first: u64,
    report: &mut Report,
) {
    let mut i = 0;
    while i < x.len() {
        let at = start + i;
        let end = (i + GROUP - at % GROUP).min(x.len());
        let bits =
            group(method, measure, &x[i..end], at % GROUP, (first / GROUP as u64) as u32 + (at / GROUP) as u32, report);
        for (w, b) in words[at / GROUP * 2..].iter_mut().zip(bits) {
            *w |= b;
        }
        i = end;
    }
}

/// Planes of a group's elements, or part of them from `offset` on.
fn group<T: Element>(
    method: &Method,
    measure: &Measure,
    x: &[T],
    offset: usize,
    group: u32,
    report: &mut Report,
) -> [u32; 2] {
    let k = match method {
        Method::Stochastic { at, .. } => draws(at, group),
        Method::Threshold(_) => [0; GROUP],
    };
    let mut planes = [0; 2];
    for ((bit, x), k) in (offset..).zip(x).zip(&k[offset..]) {
        let bits = x.to_f32_bits();
        let mut m = magnitude(bits);
        if out_of_range(m) {
            continue;
        }
        let kept = match method {
            Method::Stochastic { .. } => {
                if m > measure.limit {
                    report.clipped += 1;
                    m = measure.limit;
                }
                keep(m, measure.scale, *k)
            }
            Method::Threshold(_) => above(m, measure.limit),
        };
        planes[(bits >> 31) as usize] |= u32::from(kept) << bit;
    }
    planes
}
