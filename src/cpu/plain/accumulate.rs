//! Accumulation, element by element.

use crate::cpu::split::note;
use crate::cpu::tile::{AdaptiveTile, Addition, ExactTile};
use crate::numerics::constants::{BLOCK_MAX, GROUP};
use crate::numerics::draw::draws;
use crate::numerics::float::{bf16_to_f32, magnitude, out_of_range};
use crate::numerics::level::{level_max, round_level, sum, value, weighted};
use crate::numerics::pack::{level, set_level};
use crate::numerics::scale::{level_scale, stochastic_scale};
use crate::numerics::trit::keep;
use crate::op::{Element, Report};

/// Whole blocks adaptively.
pub(in crate::cpu) fn adaptive<T: Element>(w: AdaptiveTile<'_, T>) -> Report {
    let (mut report, how) = (Report::default(), w.how);
    let levels = w.levels.chunks_mut(how.words(how.block));
    for (b, ((x, levels), scale)) in w.x.chunks(how.block).zip(levels).zip(w.scales).enumerate() {
        adaptive_block(&how, x, levels, scale, w.first + (b * how.block) as u64, &mut report);
    }
    report
}

/// One block: sums, the scale that covers them, levels rounded under it.
fn adaptive_block<T: Element>(
    how: &Addition,
    x: &[T],
    levels: &mut [u32],
    scale: &mut u16,
    first: u64,
    report: &mut Report,
) {
    let (old, mut max, mut sums) = (bf16_to_f32(*scale), 0, [0u32; BLOCK_MAX as usize]);
    for (i, (x, v)) in x.iter().zip(&mut sums).enumerate() {
        let l = level(levels, how.bits, i);
        *v = sum(l, old, weighted(x.to_f32_bits(), how.weight)).unwrap_or_else(|| {
            note(report, first + i as u64);
            value(l, old).to_bits()
        });
        max = max.max(magnitude(*v));
    }
    let new = level_scale(max, level_max(how.bits));
    *scale = (new >> 16) as u16;
    let n = x.len();
    for (g, sums) in sums[..n].chunks(GROUP).enumerate() {
        let k = draws(&how.at, (first / GROUP as u64) as u32 + g as u32);
        for (i, (v, k)) in (g * GROUP..).zip(sums.iter().zip(k)) {
            set_level(levels, how.bits, i, round_level(*v, new, k));
        }
    }
}

/// Whole blocks exactly.
pub(in crate::cpu) fn exact<T: Element>(w: ExactTile<'_, T>) -> Report {
    let (mut report, how) = (Report::default(), w.how);
    let counts = w.counts.chunks_mut(how.words(how.block));
    let blocks = w.x.chunks(how.block).zip(counts).zip(w.scales).zip(w.seen);
    for (b, (((x, counts), scale), seen)) in blocks.enumerate() {
        exact_block(&how, x, counts, *scale, seen, w.first + (b * how.block) as u64, &mut report);
    }
    report
}

/// One block: trits under the window's scale are added to the counts.
fn exact_block<T: Element>(
    how: &Addition,
    x: &[T],
    counts: &mut [u32],
    scale: u16,
    seen: &mut u16,
    first: u64,
    report: &mut Report,
) {
    let (s, mut max) = (bf16_to_f32(scale), 0);
    for (g, x) in x.chunks(GROUP).enumerate() {
        let k = draws(&how.at, (first / GROUP as u64) as u32 + g as u32);
        for (i, (x, k)) in (g * GROUP..).zip(x.iter().zip(k)) {
            let p = weighted(x.to_f32_bits(), how.weight);
            let m = magnitude(p);
            if out_of_range(m) {
                note(report, first + i as u64);
                continue;
            }
            max = max.max(m);
            report.clipped += u64::from(m > s);
            if keep(m, s, k) {
                let t = if p >> 31 == 1 { -1 } else { 1 };
                set_level(counts, how.bits, i, level(counts, how.bits, i) + t);
            }
        }
    }
    *seen = (*seen).max((stochastic_scale(max) >> 16) as u16);
}
