//! Pack and convert: i8 trits, separate planes and 2-bit fields, from and to planes.

use super::split::{TILE, Zip, check_slot, fold, join, merge_into, note};
use crate::error::Result;
use crate::numerics::constants::GROUP;
use crate::numerics::pack;
use crate::op::Report;
use crate::op::pack::{validate_fields, validate_planes, validate_trits};
use rayon::prelude::*;

/// Groups of a tile.
const GROUPS: usize = TILE / GROUP;

pub(super) fn pack(trits: &[i8], words: &mut [u32], reports: &mut [Report], slot: usize) -> Result<()> {
    validate_trits(trits.len(), words.len())?;
    check_slot(slot, reports.len())?;
    let run = |z: Zip<'_, i8, u32>| {
        let mut report = Report::default();
        for (g, (trits, pair)) in z.a.chunks(GROUP).zip(z.b.chunks_exact_mut(2)).enumerate() {
            let mut group = [0i8; GROUP];
            for (i, (to, &t)) in group.iter_mut().zip(trits).enumerate() {
                if (-1..=1).contains(&t) {
                    *to = t;
                } else {
                    note(&mut report, ((z.at + g) * GROUP + i) as u64);
                }
            }
            pair.copy_from_slice(&pack::plane_words(&group));
        }
        report
    };
    let report = fold(Zip { a: trits, b: words, a_per: GROUP, b_per: 2, at: 0 }, GROUPS, &run, &join);
    merge_into(reports, slot, report);
    Ok(())
}

pub(super) fn unpack(words: &[u32], trits: &mut [i8], reports: &mut [Report], slot: usize) -> Result<()> {
    validate_trits(trits.len(), words.len())?;
    check_slot(slot, reports.len())?;
    let run = |z: Zip<'_, u32, i8>| {
        let mut report = Report::default();
        for (g, (pair, trits)) in z.a.chunks_exact(2).zip(z.b.chunks_mut(GROUP)).enumerate() {
            for (i, t) in trits.iter_mut().enumerate() {
                *t = (pair[0] >> i & 1) as i8 - (pair[1] >> i & 1) as i8; // both bits: 0
            }
            if pair[0] & pair[1] != 0 {
                let invalid = (0..trits.len()).filter(|i| (pair[0] & pair[1]) >> i & 1 == 1);
                invalid.for_each(|i| note(&mut report, ((z.at + g) * GROUP + i) as u64));
            }
        }
        report
    };
    let report = fold(Zip { a: words, b: trits, a_per: 2, b_per: GROUP, at: 0 }, GROUPS, &run, &join);
    merge_into(reports, slot, report);
    Ok(())
}

pub(super) fn split_planes(words: &[u32], plus: &mut [u32], minus: &mut [u32]) -> Result<()> {
    validate_planes(words.len(), plus.len(), minus.len())?;
    let run = |((words, plus), minus): ((&[u32], &mut [u32]), &mut [u32])| {
        for ((pair, plus), minus) in words.chunks_exact(2).zip(plus).zip(minus) {
            (*plus, *minus) = (pair[0], pair[1]);
        }
    };
    if plus.len() <= GROUPS {
        run(((words, plus), minus));
    } else {
        let tiles = words.par_chunks(2 * GROUPS).zip(plus.par_chunks_mut(GROUPS)).zip(minus.par_chunks_mut(GROUPS));
        tiles.for_each(run);
    }
    Ok(())
}

pub(super) fn join_planes(plus: &[u32], minus: &[u32], words: &mut [u32]) -> Result<()> {
    validate_planes(words.len(), plus.len(), minus.len())?;
    let run = |((words, plus), minus): ((&mut [u32], &[u32]), &[u32])| {
        for ((pair, plus), minus) in words.chunks_exact_mut(2).zip(plus).zip(minus) {
            pair.copy_from_slice(&[*plus, *minus]);
        }
    };
    if plus.len() <= GROUPS {
        run(((words, plus), minus));
    } else {
        let tiles = words.par_chunks_mut(2 * GROUPS).zip(plus.par_chunks(GROUPS)).zip(minus.par_chunks(GROUPS));
        tiles.for_each(run);
    }
    Ok(())
}

pub(super) fn planes_to_fields(words: &[u32], fields: &mut [u32]) -> Result<()> {
    validate_fields(words.len(), fields.len())?;
    convert(words, fields, |pair| pack::planes_to_fields(pair[0], pair[1]));
    Ok(())
}

pub(super) fn fields_to_planes(fields: &[u32], words: &mut [u32]) -> Result<()> {
    validate_fields(words.len(), fields.len())?;
    convert(fields, words, pack::fields_to_planes);
    Ok(())
}

fn convert(from: &[u32], to: &mut [u32], group: impl Fn([u32; 2]) -> [u32; 2] + Sync) {
    let run = |z: Zip<'_, u32, u32>| {
        for (from, to) in z.a.chunks_exact(2).zip(z.b.chunks_exact_mut(2)) {
            to.copy_from_slice(&group([from[0], from[1]]));
        }
    };
    fold(Zip { a: from, b: to, a_per: 2, b_per: 2, at: 0 }, GROUPS, &run, &|(), ()| ());
}
