//! Pack and convert: i8 trits, separate planes and 2-bit fields, from and to planes.

use super::Cpu;
use super::split::{TILE, Zip, each, fold, join, note, run_items};
use crate::error::Result;
use crate::numerics::constants::GROUP;
use crate::numerics::pack;
use crate::op::pack::{
    FieldsToPlanes, FieldsToPlanesItem, JoinPlanes, JoinPlanesItem, Pack, PackItem, PlanesToFields, PlanesToFieldsItem,
    SplitPlanes, SplitPlanesItem, Unpack, UnpackItem,
};
use crate::op::{Checked, Launch};
use crate::types::{Element, Report};
use rayon::prelude::*;

/// Groups of a tile.
const GROUPS: usize = TILE / GROUP;

impl Launch<Pack> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Pack, T>) -> Result<()> {
        let (_, items, reports) = work.into_parts();
        let elements = items.iter().map(|i| i.trits.len()).sum();
        let run = |item: &mut PackItem<'_, Cpu>| {
            let zip = Zip { a: item.trits, b: &mut *item.words, a_per: GROUP, b_per: 2, at: 0 };
            fold(zip, GROUPS, &pack_tile, &join)
        };
        run_items(items, elements, reports, |i| i.report, run);
        Ok(())
    }
}

fn pack_tile(Zip { a, b, at, .. }: Zip<'_, i8, u32>) -> Report {
    let mut report = Report::default();
    for (g, (trits, pair)) in a.chunks(GROUP).zip(b.chunks_exact_mut(2)).enumerate() {
        let mut group = [0i8; GROUP];
        for (i, (to, &t)) in group.iter_mut().zip(trits).enumerate() {
            if (-1..=1).contains(&t) {
                *to = t;
            } else {
                note(&mut report, ((at + g) * GROUP + i) as u64);
            }
        }
        pair.copy_from_slice(&pack::plane_words(&group));
    }
    report
}

impl Launch<Unpack> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Unpack, T>) -> Result<()> {
        let (_, items, reports) = work.into_parts();
        let elements = items.iter().map(|i| i.trits.len()).sum();
        let run = |item: &mut UnpackItem<'_, Cpu>| {
            let zip = Zip { a: item.words, b: &mut *item.trits, a_per: 2, b_per: GROUP, at: 0 };
            fold(zip, GROUPS, &unpack_tile, &join)
        };
        run_items(items, elements, reports, |i| i.report, run);
        Ok(())
    }
}

fn unpack_tile(Zip { a, b, at, .. }: Zip<'_, u32, i8>) -> Report {
    let mut report = Report::default();
    for (g, (pair, trits)) in a.chunks_exact(2).zip(b.chunks_mut(GROUP)).enumerate() {
        for (i, t) in trits.iter_mut().enumerate() {
            *t = (pair[0] >> i & 1) as i8 - (pair[1] >> i & 1) as i8; // both bits: 0
        }
        if pair[0] & pair[1] != 0 {
            let invalid = (0..trits.len()).filter(|i| (pair[0] & pair[1]) >> i & 1 == 1);
            invalid.for_each(|i| note(&mut report, ((at + g) * GROUP + i) as u64));
        }
    }
    report
}

impl Launch<SplitPlanes> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, SplitPlanes, T>) -> Result<()> {
        let (_, items, ()) = work.into_parts();
        let elements = items.iter().map(|i| GROUP * i.plus.len()).sum();
        let run = |((words, plus), minus): ((&[u32], &mut [u32]), &mut [u32])| {
            for ((pair, plus), minus) in words.chunks_exact(2).zip(plus).zip(minus) {
                (*plus, *minus) = (pair[0], pair[1]);
            }
        };
        each(items, elements, |item: &mut SplitPlanesItem<'_, Cpu>| {
            let (words, plus, minus) = (item.words, &mut *item.plus, &mut *item.minus);
            let tiles = words.par_chunks(2 * GROUPS).zip(plus.par_chunks_mut(GROUPS));
            tiles.zip(minus.par_chunks_mut(GROUPS)).for_each(run);
        });
        Ok(())
    }
}

impl Launch<JoinPlanes> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, JoinPlanes, T>) -> Result<()> {
        let (_, items, ()) = work.into_parts();
        let elements = items.iter().map(|i| GROUP * i.plus.len()).sum();
        let run = |((words, plus), minus): ((&mut [u32], &[u32]), &[u32])| {
            for ((pair, plus), minus) in words.chunks_exact_mut(2).zip(plus).zip(minus) {
                pair.copy_from_slice(&[*plus, *minus]);
            }
        };
        each(items, elements, |item: &mut JoinPlanesItem<'_, Cpu>| {
            let (words, plus, minus) = (&mut *item.words, item.plus, item.minus);
            let tiles = words.par_chunks_mut(2 * GROUPS).zip(plus.par_chunks(GROUPS));
            tiles.zip(minus.par_chunks(GROUPS)).for_each(run);
        });
        Ok(())
    }
}

impl Launch<PlanesToFields> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, PlanesToFields, T>) -> Result<()> {
        let (_, items, ()) = work.into_parts();
        let elements = items.iter().map(|i| 16 * i.words.len()).sum();
        each(items, elements, |item: &mut PlanesToFieldsItem<'_, Cpu>| {
            convert(item.words, item.fields, |pair| pack::planes_to_fields(pair[0], pair[1]));
        });
        Ok(())
    }
}

impl Launch<FieldsToPlanes> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, FieldsToPlanes, T>) -> Result<()> {
        let (_, items, ()) = work.into_parts();
        let elements = items.iter().map(|i| 16 * i.words.len()).sum();
        each(items, elements, |item: &mut FieldsToPlanesItem<'_, Cpu>| {
            convert(item.fields, item.words, pack::fields_to_planes);
        });
        Ok(())
    }
}

fn convert(from: &[u32], to: &mut [u32], group: impl Fn([u32; 2]) -> [u32; 2] + Sync) {
    let run = |z: Zip<'_, u32, u32>| {
        for (from, to) in z.a.chunks_exact(2).zip(z.b.chunks_exact_mut(2)) {
            to.copy_from_slice(&group([from[0], from[1]]));
        }
    };
    fold(Zip { a: from, b: to, a_per: 2, b_per: 2, at: 0 }, GROUPS, &run, &|(), ()| ());
}
