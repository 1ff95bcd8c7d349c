//! Read out: levels or counts times their block's scale.

use super::Cpu;
use super::simd::Simd;
use super::split::{TILE, Tile, Zip, each, fold};
use crate::error::Result;
use crate::numerics::constants::GROUP;
use crate::numerics::float::bf16_to_f32;
use crate::numerics::level::{self, level_max};
use crate::numerics::pack;
use crate::op::read_out::{F32Item, Item, ReadOut, ReadOutF32};
use crate::op::{Checked, Launch};
use crate::types::{Element, ElementType, Report};

impl Launch<ReadOut> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, ReadOut, T>) -> Result<()> {
        let (op, items, guards) = work.into_parts();
        let simd = self.simd;
        let rule = Rule { bits: op.bits, block: op.block.get() as usize, factor: op.factor };
        let elements: usize = items.iter().map(|i| i.out.len()).sum();
        let run = |item: &mut Item<'_, Cpu, T>| {
            let found = item.guard.and_then(|slot| guards.and_then(|g| g.get(slot)));
            let work = Work { levels: item.levels, scales: item.scales, out: &mut *item.out, rule };
            if found.is_some_and(|r| r.non_finite > 0) {
                fold(work, TILE, &|w: Work<'_, T>| w.out.fill(not_a_number()), &|(), ()| ());
            } else {
                fold(work, TILE, &|w| tile(simd, w), &|(), ()| ());
            }
        };
        each(items, elements, run);
        Ok(())
    }
}

/// The pattern that marks a window with non-finite input: every bit but the sign.
fn not_a_number<T: Element>() -> T {
    match T::TYPE {
        ElementType::F32 => bytemuck::cast_slice::<u32, T>(&[0x7fff_ffff])[0],
        ElementType::F16 | ElementType::Bf16 => bytemuck::cast_slice::<u16, T>(&[0x7fff])[0],
    }
}

/// What all blocks share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) bits: u32,
    pub(super) block: usize,
    pub(super) factor: f32,
}

/// Blocks to read out.
pub(super) struct Work<'a, T> {
    pub(super) levels: &'a [u32],
    pub(super) scales: &'a [u16],
    pub(super) out: &'a mut [T],
    pub(super) rule: Rule,
}

impl<T: Element> Tile for Work<'_, T> {
    fn elements(&self) -> usize {
        self.out.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let rule = self.rule;
        let (levels, more_levels) = self.levels.split_at(at / GROUP * rule.bits as usize);
        let (scales, more_scales) = self.scales.split_at(at / rule.block);
        let (out, more) = self.out.split_at_mut(at);
        (Work { levels, scales, out, rule }, Work { levels: more_levels, scales: more_scales, out: more, rule })
    }
}

/// A tile: the vector code is for what cannot leave the range of the output.
fn tile<T: Element>(simd: Simd, w: Work<'_, T>) {
    let rule = w.rule;
    let scale = w.scales.iter().map(|s| s & 0x7fff).max().unwrap_or(0);
    let largest = f64::from(level_max(rule.bits)) * f64::from(f32::from_bits(bf16_to_f32(scale)));
    let most = if T::TYPE == ElementType::F16 { 65504.0 } else { f64::from(f32::from_bits(0x7f7f_0000)) };
    let within = largest <= f64::from(f32::MAX) && largest * f64::from(rule.factor.abs()) <= most;
    if rule.bits < 32 && within { simd.read_out_blocks(w) } else { plain_blocks(w) }
}

/// The plain form of the tile.
pub(super) fn plain_blocks<T: Element>(w: Work<'_, T>) {
    let Work { levels, scales, out, rule } = w;
    let levels = levels.chunks(rule.block / GROUP * rule.bits as usize);
    for ((out, levels), scale) in out.chunks_mut(rule.block).zip(levels).zip(scales) {
        plain_block(&rule, levels, *scale, out);
    }
}

/// One block.
pub(super) fn plain_block<T: Element>(rule: &Rule, levels: &[u32], scale: u16, out: &mut [T]) {
    let s = bf16_to_f32(scale);
    for (i, out) in out.iter_mut().enumerate() {
        *out =
            T::from_f32_bits_saturating(level::read_out(pack::level(levels, rule.bits, i), s, rule.factor).to_bits());
    }
}

impl Launch<ReadOutF32> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, ReadOutF32, T>) -> Result<()> {
        let (op, items, guards) = work.into_parts();
        let factor = op.factor;
        let elements = items.iter().map(|i| i.out.len()).sum();
        let tile = |z: Zip<'_, f32, T>| {
            for (out, sum) in z.b.iter_mut().zip(z.a) {
                *out = T::from_f32_bits_saturating(level::saturate(sum * factor).to_bits());
            }
        };
        each(items, elements, |item: &mut F32Item<'_, Cpu, T>| {
            let found: Option<&Report> = item.guard.and_then(|slot| guards.and_then(|g| g.get(slot)));
            if found.is_some_and(|r| r.non_finite > 0) {
                item.out.fill(not_a_number());
            } else {
                let zip = Zip { a: item.sum, b: &mut *item.out, a_per: 1, b_per: 1, at: 0 };
                fold(zip, TILE, &tile, &|(), ()| ());
            }
        });
        Ok(())
    }
}
