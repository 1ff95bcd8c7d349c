//! Pack and convert: i8 trits, separate planes and 2-bit fields, from and to planes.

use super::split::{TILE, check_slot, join, merge_into, note};
use crate::error::Result;
use crate::numerics::constants::GROUP;
use crate::numerics::pack;
use crate::op::Report;
use crate::op::pack::{validate_fields, validate_planes, validate_trits};
use rayon::prelude::*;

/// Words of a tile: a pair for each 32 elements.
const WORDS: usize = TILE / GROUP * 2;

pub(super) fn pack(trits: &[i8], words: &mut [u32], reports: &mut [Report], slot: usize) -> Result<()> {
    validate_trits(trits.len(), words.len())?;
    check_slot(slot, reports.len())?;
    let tiles = words.par_chunks_mut(WORDS).zip(trits.par_chunks(TILE)).enumerate();
    let run = |(tile, (words, trits)): (usize, (&mut [u32], &[i8]))| {
        let mut report = Report::default();
        for (g, (pair, trits)) in words.chunks_mut(2).zip(trits.chunks(GROUP)).enumerate() {
            let mut group = [0i8; GROUP];
            for (i, (to, &t)) in group.iter_mut().zip(trits).enumerate() {
                if (-1..=1).contains(&t) {
                    *to = t;
                } else {
                    note(&mut report, (tile * TILE + g * GROUP + i) as u64);
                }
            }
            pair.copy_from_slice(&pack::plane_words(&group));
        }
        report
    };
    merge_into(reports, slot, tiles.map(run).reduce(Report::default, join));
    Ok(())
}

pub(super) fn unpack(words: &[u32], trits: &mut [i8], reports: &mut [Report], slot: usize) -> Result<()> {
    validate_trits(trits.len(), words.len())?;
    check_slot(slot, reports.len())?;
    let tiles = words.par_chunks(WORDS).zip(trits.par_chunks_mut(TILE)).enumerate();
    let run = |(tile, (words, trits)): (usize, (&[u32], &mut [i8]))| {
        let mut report = Report::default();
        for (i, t) in trits.iter_mut().enumerate() {
            *t = pack::trit(words, i).unwrap_or_else(|| {
                note(&mut report, (tile * TILE + i) as u64);
                0
            });
        }
        report
    };
    merge_into(reports, slot, tiles.map(run).reduce(Report::default, join));
    Ok(())
}

pub(super) fn split_planes(words: &[u32], plus: &mut [u32], minus: &mut [u32]) -> Result<()> {
    validate_planes(words.len(), plus.len(), minus.len())?;
    let tiles = words.par_chunks(WORDS).zip(plus.par_chunks_mut(WORDS / 2)).zip(minus.par_chunks_mut(WORDS / 2));
    tiles.for_each(|((words, plus), minus)| {
        for ((pair, plus), minus) in words.chunks_exact(2).zip(plus).zip(minus) {
            (*plus, *minus) = (pair[0], pair[1]);
        }
    });
    Ok(())
}

pub(super) fn join_planes(plus: &[u32], minus: &[u32], words: &mut [u32]) -> Result<()> {
    validate_planes(words.len(), plus.len(), minus.len())?;
    let tiles = words.par_chunks_mut(WORDS).zip(plus.par_chunks(WORDS / 2)).zip(minus.par_chunks(WORDS / 2));
    tiles.for_each(|((words, plus), minus)| {
        for ((pair, plus), minus) in words.chunks_exact_mut(2).zip(plus).zip(minus) {
            pair.copy_from_slice(&[*plus, *minus]);
        }
    });
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
    let tiles = from.par_chunks(WORDS).zip(to.par_chunks_mut(WORDS));
    tiles.for_each(|(from, to)| {
        for (from, to) in from.chunks_exact(2).zip(to.chunks_exact_mut(2)) {
            to.copy_from_slice(&group([from[0], from[1]]));
        }
    });
}
