//! Windows of exact counts: first looks, scales, comparing and merging.

use super::Cpu;
use super::accumulate::block_max;
use super::simd::Simd;
use super::split::{TILE, Tile, Zip, each, fold, join, note, run_items};
use crate::error::Result;
use crate::numerics::float::bf16_to_f32;
use crate::numerics::scale::{count_scale, stochastic_scale};
use crate::op::window::{
    CompareScales, CompareScalesItem, Look, LookItem, Merge, MergeItem, WindowScales, WindowScalesItem,
};
use crate::op::{Checked, Launch};
use crate::types::{Element, Report};

impl Launch<Look> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Look, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        let simd = self.simd;
        let (elements, block) = (items.iter().map(|i| i.x.len()).sum(), op.block.get() as usize);
        let run = |item: &mut LookItem<'_, Cpu, T>| {
            let work = LookWork { x: item.x, seen: &mut *item.seen, first: 0, block, weight: op.weight.to_bits() };
            fold(work, TILE, &|w| look_tile(simd, w), &join)
        };
        run_items(items, elements, reports, |i| i.report, run);
        Ok(())
    }
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
        let first = w.first + (b * w.block) as u64;
        let max = block_max(simd, x, w.weight, |i| note(&mut report, first + i as u64));
        *seen = (*seen).max((stochastic_scale(max) >> 16) as u16);
    }
    report
}

impl Launch<WindowScales> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, WindowScales, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        let (bits, headroom) = (op.bits, op.headroom.to_bits());
        let tile = |z: Zip<'_, u16, u16>| {
            for (scale, &seen) in z.b.iter_mut().zip(z.a).filter(|(_, seen)| **seen != 0) {
                *scale = (count_scale(bits, bf16_to_f32(seen), headroom) >> 16) as u16;
            }
        };
        let elements = items.iter().map(|i| i.seen.len()).sum();
        each(items, elements, |item: &mut WindowScalesItem<'_, Cpu>| {
            let zip = Zip { a: item.seen, b: &mut *item.scales, a_per: 1, b_per: 1, at: 0 };
            fold(zip, TILE, &tile, &|(), ()| ());
        });
        Ok(())
    }
}

impl Launch<CompareScales> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, CompareScales, T>) -> Result<()> {
        let (_, items, reports) = work.into_parts();
        let elements = items.iter().map(|i| i.a.len()).sum();
        let run = |item: &mut CompareScalesItem<'_, Cpu>| {
            let mut report = Report::default();
            let differ = item.a.iter().zip(item.b).enumerate().filter(|(_, (a, b))| a != b);
            differ.for_each(|(block, _)| note(&mut report, block as u64));
            report
        };
        run_items(items, elements, reports, |i| i.report, run);
        Ok(())
    }
}

impl Launch<Merge> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Merge, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        // The top bit of each field; below it a carry stays within the field.
        let top = match op.bits {
            4 => 0x8888_8888,
            8 => 0x8080_8080,
            16 => 0x8000_8000,
            _ => 0x8000_0000,
        };
        let add = |z: Zip<'_, u32, u32>| {
            for (a, &b) in z.b.iter_mut().zip(z.a) {
                *a = (*a & !top).wrapping_add(b & !top) ^ ((*a ^ b) & top);
            }
        };
        let elements = items.iter().map(|i| i.from.len()).sum();
        each(items, elements, |item: &mut MergeItem<'_, Cpu>| {
            let zip = Zip { a: item.from, b: &mut *item.into, a_per: 1, b_per: 1, at: 0 };
            fold(zip, TILE, &add, &|(), ()| ());
            // Patterns of magnitudes order like the magnitudes.
            for (seen, &from) in item.seen.iter_mut().zip(item.seen_from) {
                *seen = (*seen).max(from);
            }
        });
        Ok(())
    }
}
