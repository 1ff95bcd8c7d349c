//! Read out: levels or counts times their block's scale.

use super::Cpu;
use super::simd::Simd;
use super::split::{TILE, check_slot, fold};
use super::tile::{ReadOutTile, Reading};
use crate::error::Result;
use crate::op::read_out::{Item, ReadOut};
use crate::op::{Element, ElementType, Report};
use rayon::prelude::*;

pub(super) fn read_out<T: Element>(
    simd: Simd,
    op: &ReadOut,
    items: &mut [Item<'_, Cpu, T>],
    guards: Option<&[Report]>,
) -> Result<()> {
    op.validate()?;
    for item in items.iter() {
        item.validate(op)?;
        if let Some(slot) = item.guard {
            check_slot(slot, guards.map_or(0, <[Report]>::len))?;
        }
    }
    let how = Reading { bits: op.bits, block: op.block.get() as usize, factor: op.factor };
    let elements: usize = items.iter().map(|i| i.out.len()).sum();
    let run = |item: &mut Item<'_, Cpu, T>| {
        let found = item.guard.and_then(|slot| guards.and_then(|g| g.get(slot)));
        let work = ReadOutTile { levels: item.levels, scales: item.scales, out: &mut *item.out, how };
        if found.is_some_and(|r| r.non_finite > 0) {
            fold(work, TILE, &|w: ReadOutTile<'_, T>| w.out.fill(not_a_number()), &|(), ()| ());
        } else {
            fold(work, TILE, &|w| simd.read_out_blocks(w), &|(), ()| ());
        }
    };
    if elements <= TILE || items.len() < 2 {
        items.iter_mut().for_each(run);
    } else {
        items.par_iter_mut().for_each(run);
    }
    Ok(())
}

/// The pattern that marks a window with non-finite input: every bit but the sign.
fn not_a_number<T: Element>() -> T {
    match T::TYPE {
        ElementType::F32 => bytemuck::cast_slice::<u32, T>(&[0x7fff_ffff])[0],
        ElementType::F16 | ElementType::Bf16 => bytemuck::cast_slice::<u16, T>(&[0x7fff])[0],
    }
}
