//! Quantize, element by element.

use crate::cpu::measure::{Kernels, rows};
use crate::cpu::tile::{Measure, Method, QuantizeTile};
use crate::numerics::constants::{CHUNK, GROUP};
use crate::numerics::draw::draws;
use crate::numerics::float::{magnitude, out_of_range};
use crate::numerics::threshold::{Moments, Sum};
use crate::numerics::trit::{above, keep};
use crate::op::{Element, Report};

/// The plain code, as what [`crate::cpu::measure`] is made of.
pub(in crate::cpu) struct Plain;

impl Kernels for Plain {
    fn max<T: Element>(&self, x: &[T]) -> u32 {
        max(x)
    }

    fn moments<T: Element>(&self, x: &[T]) -> Moments {
        moments(x)
    }

    fn sum<T: Element>(&self, x: &[T], t: Option<u32>) -> Sum {
        sum(x, t)
    }

    fn encode<T: Element>(
        &self,
        method: &Method,
        measure: &Measure,
        x: &[T],
        words: &mut [u32],
        start: usize,
        first: u64,
        report: &mut Report,
    ) {
        encode(method, measure, x, words, start, first, report);
    }
}

/// Blocks, whose planes start on a word.
pub(in crate::cpu) fn blocks<T: Element>(method: &Method, w: QuantizeTile<'_, T>) -> Report {
    rows(&Plain, method, w)
}

/// The largest of `bits & 0x7fffffff`, NaN and Inf included.
pub(in crate::cpu) fn max<T: Element>(x: &[T]) -> u32 {
    x.iter().map(|x| x.to_f32_bits() & 0x7fff_ffff).max().unwrap_or(0)
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
pub(in crate::cpu) fn moments<T: Element>(x: &[T]) -> Moments {
    Moments::of_chunk(in_range(x, &mut [0; CHUNK]))
}

/// Sum of a chunk (at most 4096 elements) over what lies above `t`.
pub(in crate::cpu) fn sum<T: Element>(x: &[T], t: Option<u32>) -> Sum {
    let mut buffer = [0; CHUNK];
    let magnitudes = in_range(x, &mut buffer);
    for b in magnitudes.iter_mut() {
        *b = magnitude(*b);
    }
    Sum::of_chunk(magnitudes, t)
}

/// Writes the trits of `x` into `words`, whose bits are still zero, from element `start` of the words on; `first` is
/// the tensor index of element 0 of the words.
pub(in crate::cpu) fn encode<T: Element>(
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
