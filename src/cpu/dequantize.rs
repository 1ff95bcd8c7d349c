//! Dequantize: each trit times the scale of its group.

use super::Cpu;
use super::simd::Simd;
use super::split::{TILE, Tile, fold};
use crate::error::Result;
use crate::numerics::constants::GROUP;
use crate::numerics::float::bf16_to_f32;
use crate::op::Element;
use crate::op::dequantize::{Dequantize, Item};
use rayon::prelude::*;

pub(super) fn dequantize<T: Element>(simd: Simd, op: &Dequantize, items: &mut [Item<'_, Cpu, T>]) -> Result<()> {
    for item in items.iter() {
        item.validate(op)?;
    }
    let elements: usize = items.iter().map(|i| i.out.len()).sum();
    let run = |item: &mut Item<'_, Cpu, T>| {
        let size = op.grouping.size(item.out.len());
        let work = Work { words: item.words, scales: item.scales, out: &mut *item.out, start: 0, size };
        fold(work, TILE, &|w| tile(simd, w), &|(), ()| ());
    };
    if elements <= TILE || items.len() < 2 {
        items.iter_mut().for_each(run);
    } else {
        items.par_iter_mut().for_each(run);
    }
    Ok(())
}

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
        simd.dequantize_run(words, at, bf16_to_f32(scale), &mut out[at..end]);
        at = end;
    }
}
