//! Read out: levels or counts times their block's scale.

use super::Cpu;
use super::plain;
use super::simd::Simd;
use super::split::{TILE, Zip, each, fold};
use super::tile::{ReadOutTile, Reading};
use crate::error::Result;
use crate::numerics::float::bf16_to_f32;
use crate::numerics::level::{self, level_max};
use crate::op::read_out::{F32Item, Item, ReadOut, ReadOutF32};
use crate::op::{Checked, Launch};
use crate::types::{Element, ElementType, Report};

impl Launch<ReadOut> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, ReadOut, T>) -> Result<()> {
        let (op, items, guards) = work.into_parts();
        let simd = self.simd;
        let how = Reading { bits: op.bits, block: op.block.get() as usize, factor: op.factor };
        let elements: usize = items.iter().map(|i| i.out.len()).sum();
        let run = |item: &mut Item<'_, Cpu, T>| {
            let found = item.guard.and_then(|slot| guards.and_then(|g| g.get(slot)));
            let work = ReadOutTile { levels: item.levels, scales: item.scales, out: &mut *item.out, how };
            if found.is_some_and(|r| r.non_finite > 0) {
                fold(work, TILE, &|w: ReadOutTile<'_, T>| w.out.fill(not_a_number()), &|(), ()| ());
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

/// A tile: the vector code is for what cannot leave the range of the output.
fn tile<T: Element>(simd: Simd, w: ReadOutTile<'_, T>) {
    let how = w.how;
    let scale = w.scales.iter().map(|s| s & 0x7fff).max().unwrap_or(0);
    let largest = f64::from(level_max(how.bits)) * f64::from(f32::from_bits(bf16_to_f32(scale)));
    let most = if T::TYPE == ElementType::F16 { 65504.0 } else { f64::from(f32::from_bits(0x7f7f_0000)) };
    let within = largest <= f64::from(f32::MAX) && largest * f64::from(how.factor.abs()) <= most;
    if how.bits < 32 && within { simd.read_out_blocks(w) } else { plain::read_out::blocks(w) }
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
