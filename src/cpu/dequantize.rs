//! Dequantize: each trit times the scale of its group.

use super::Cpu;
use super::plain;
use super::simd::Simd;
use super::split::{TILE, Tile, each, fold};
use crate::error::Result;
use crate::numerics::constants::GROUP;
use crate::numerics::float::{bf16_to_f32, magnitude};
use crate::op::dequantize::{Dequantize, Item};
use crate::op::{Checked, Launch};
use crate::types::{Element, ElementType};

impl Launch<Dequantize> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Dequantize, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        let simd = self.simd;
        let elements: usize = items.iter().map(|i| i.out.len()).sum();
        let run = |item: &mut Item<'_, Cpu, T>| {
            let size = op.grouping.size(item.out.len());
            let work = Work { words: item.words, scales: item.scales, out: &mut *item.out, start: 0, size };
            fold(work, TILE, &|w| tile(simd, w), &|(), ()| ());
        };
        each(items, elements, run);
        Ok(())
    }
}

/// The bits of 65504.
const LARGEST_F16: u32 = 0x477f_e000;

struct Work<'a, T> {
    words: &'a [u32],
    /// All scales of the item: a tile may begin within a group.
    scales: &'a [u16],
    out: &'a mut [T],
    /// Index of `out[0]` in the item.
    start: usize,
    size: usize,
}

impl<T: Element> Tile for Work<'_, T> {
    fn elements(&self) -> usize {
        self.out.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (words, more_words) = self.words.split_at(at / GROUP * 2);
        let (out, more) = self.out.split_at_mut(at);
        let (scales, start, size) = (self.scales, self.start, self.size);
        (
            Work { words, scales, out, start, size },
            Work { words: more_words, scales, out: more, start: start + at, size },
        )
    }
}

fn tile<T: Element>(simd: Simd, w: Work<'_, T>) {
    let Work { words, scales, out, start, size } = w;
    let mut at = 0;
    while at < out.len() {
        let i = start + at;
        let end = (at + size - i % size).min(out.len());
        let scale = scales.get(i / size).copied().unwrap_or(0);
        let (scale, out) = (bf16_to_f32(scale), &mut out[at..end]);
        // What lies above the largest f16 becomes that: rare, and left to the plain code.
        if T::TYPE == ElementType::F16 && magnitude(scale) > LARGEST_F16 {
            plain::dequantize::run(words, at, scale, out);
        } else {
            simd.dequantize_run(words, at, scale, out);
        }
        at = end;
    }
}
