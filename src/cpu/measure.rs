//! Scale and limit of groups of any length, and whole rows, from whatever code counts chunks.

use super::split::{TILE, Tile, fold, join, note};
use super::tile::{Measure, Method, QuantizeTile};
use crate::numerics::constants::CHUNK;
use crate::numerics::float::{magnitude, out_of_range};
use crate::numerics::scale::stochastic_scale;
use crate::numerics::threshold::{Moments, Sum, relative};
use crate::op::quantize::Threshold;
use crate::op::{Element, Report};

/// What measuring and writing a group is made of; one implementation a kind of code.
pub(super) trait Kernels: Sync {
    /// The largest of `bits & 0x7fffffff`, NaN and Inf included.
    fn max<T: Element>(&self, x: &[T]) -> u32;

    /// Moments of a chunk of at most 4096 elements; what is out of range counts as zero.
    fn moments<T: Element>(&self, x: &[T]) -> Moments;

    /// The sum of a chunk of at most 4096 elements over what lies above `t`; what is out of range counts as zero.
    fn sum<T: Element>(&self, x: &[T], t: Option<u32>) -> Sum;

    /// Writes the trits of `x` under one measure: see [`super::plain::quantize::encode`].
    #[expect(clippy::too_many_arguments, reason = "a piece of a group and where it lies")]
    fn encode<T: Element>(
        &self,
        method: &Method,
        measure: &Measure,
        x: &[T],
        words: &mut [u32],
        start: usize,
        first: u64,
        report: &mut Report,
    );
}

/// Whole rows whose planes start on a word: measured and written row by row.
pub(super) fn rows<T: Element>(kernels: &impl Kernels, method: &Method, w: QuantizeTile<'_, T>) -> Report {
    let QuantizeTile { x, words, scales, first, size } = w;
    let mut report = Report::default();
    words.fill(0);
    for (r, (x, scale)) in x.chunks(size).zip(scales).enumerate() {
        let start = r * size;
        let m = measure(kernels, method, x, first + start as u64, &mut report);
        *scale = (m.scale >> 16) as u16;
        kernels.encode(method, &m, x, words, start, first, &mut report);
    }
    report
}

/// The scale and the limit of one group; elements out of range are reported, and count as zero.
pub(super) fn measure<T: Element>(
    kernels: &impl Kernels,
    method: &Method,
    x: &[T],
    first: u64,
    report: &mut Report,
) -> Measure {
    match *method {
        Method::Stochastic { clip: None, .. } => {
            let max = max(kernels, x, first, report);
            Measure { scale: stochastic_scale(max), limit: u32::MAX }
        }
        Method::Stochastic { clip: Some(c), .. } => {
            let of_chunk = |x: &[T], first| {
                let mut report = Report::default();
                (chunk_max(kernels, x, first, &mut report), report, kernels.moments(x))
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
                        chunk_max(kernels, x, first, &mut report);
                    }
                    (kernels.sum(x, t), report)
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
fn max<T: Element>(kernels: &impl Kernels, x: &[T], first: u64, report: &mut Report) -> u32 {
    let run = |run: Run<'_, T>| {
        let mut report = Report::default();
        (chunk_max(kernels, run.x, first + run.at as u64, &mut report), report)
    };
    let (max, found) = fold(Run { x, at: 0 }, TILE, &run, &|a, b| (a.0.max(b.0), join(a.1, b.1)));
    report.merge(found);
    max
}

/// The largest magnitude in range; what is out of range is reported.
fn chunk_max<T: Element>(kernels: &impl Kernels, x: &[T], first: u64, report: &mut Report) -> u32 {
    let raw = kernels.max(x);
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
