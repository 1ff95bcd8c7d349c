//! Accumulation, element by element.

use super::{draws, in_range, note, sign};
use crate::numerics::constants::domain;
use crate::numerics::float::{bf16_to_f32, magnitude};
use crate::numerics::level::{level_max, round_level, sum, value, weighted};
use crate::numerics::pack::{field, level, set_field, set_level};
use crate::numerics::scale::{level_scale, stochastic_scale, window_scale};
use crate::numerics::trit::keep;
use crate::op::accumulate::{Adaptive, Exact, Look, WindowScales};
use crate::op::{Element, Report};

/// One tensor added to adaptive levels.
pub(super) fn adaptive<T: Element>(
    op: &Adaptive,
    (tensor, first): (u32, u64),
    x: &[T],
    levels: &mut [u32],
    scales: &mut [u16],
) -> Report {
    let mut report = Report::default();
    let draws = draws(&op.draw.position(tensor, domain::ADAPTIVE), first, x.len());
    let size = op.block.get() as usize;
    for (block, (x, scale)) in x.chunks(size).zip(scales).enumerate() {
        let start = block * size;
        let old = bf16_to_f32(*scale);
        let sums: Vec<u32> = x
            .iter()
            .enumerate()
            .map(|(i, x)| {
                let l = level(levels, op.bits, start + i);
                sum(l, old, weighted(x.to_f32_bits(), op.weight.to_bits())).unwrap_or_else(|| {
                    note(&mut report, first + (start + i) as u64);
                    value(l, old).to_bits()
                })
            })
            .collect();
        let max = sums.iter().map(|&v| magnitude(v)).max().unwrap_or(0);
        let new = level_scale(max, level_max(op.bits));
        for (i, &v) in sums.iter().enumerate() {
            let l = round_level(v, new, draws[start + i]);
            set_level(levels, op.bits, start + i, l);
        }
        *scale = (new >> 16) as u16;
    }
    report
}

/// One tensor added to exact counts.
pub(super) fn exact<T: Element>(
    op: &Exact,
    (tensor, first): (u32, u64),
    x: &[T],
    counts: &mut [u32],
    scales: &[u16],
    seen: &mut [u16],
) -> Report {
    let mut report = Report::default();
    let draws = draws(&op.draw.position(tensor, domain::TERNARY), first, x.len());
    let size = op.block.get() as usize;
    for (i, x) in x.iter().enumerate() {
        let index = first + i as u64;
        let p = in_range(weighted(x.to_f32_bits(), op.weight.to_bits()), index, &mut report);
        let (m, s) = (magnitude(p), bf16_to_f32(scales[i / size]));
        if keep(m, s, draws[i]) {
            set_field(counts, op.bits, i, field(counts, op.bits, i) + sign(p));
        }
        report.clipped += u64::from(m > s);
        // Rounding up keeps the order of magnitudes, so the maximum of the rounded is the rounded maximum.
        seen[i / size] = seen[i / size].max((stochastic_scale(m) >> 16) as u16);
    }
    report
}

/// The block maxima of one tensor joined into `seen`.
pub(super) fn look<T: Element>(op: &Look, x: &[T], seen: &mut [u16]) -> Report {
    let mut report = Report::default();
    let size = op.block.get() as usize;
    for (i, x) in x.iter().enumerate() {
        let p = in_range(weighted(x.to_f32_bits(), op.weight.to_bits()), i as u64, &mut report);
        seen[i / size] = seen[i / size].max((stochastic_scale(magnitude(p)) >> 16) as u16);
    }
    report
}

/// Block maxima to the scales of a window.
pub(super) fn window_scales(op: &WindowScales, seen: &[u16], scales: &mut [u16]) {
    for (seen, scale) in seen.iter().zip(scales) {
        *scale = (window_scale(bf16_to_f32(*seen), magnitude(op.headroom.to_bits())) >> 16) as u16;
    }
}

/// Counts added field by field.
pub(super) fn merge(bits: u32, from: &[u32], into: &mut [u32]) {
    for i in 0..from.len() * 32 / bits as usize {
        set_field(into, bits, i, field(into, bits, i).wrapping_add(field(from, bits, i)));
    }
}
