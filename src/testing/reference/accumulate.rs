//! Accumulation, element by element.

use super::{Reference, draws, in_range, note, sign};
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::numerics::float::{bf16_to_f32, magnitude};
use crate::numerics::level::{level_max, round_fine, round_level, sum, sum_f32, value, weighted};
use crate::numerics::pack::{field, level, set_field, set_level};
use crate::numerics::scale::{count_scale, level_scale, stochastic_scale};
use crate::numerics::trit::keep;
use crate::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, F32};
use crate::op::state::Under;
use crate::op::{Checked, Element, Launch, Report};

impl Launch<Adaptive> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Adaptive, T>) -> Result<()> {
        let (op, items, (state, reports)) = work.into_parts();
        let op = op.under_words(state.0);
        for item in items {
            reports[item.report].merge(adaptive(&op, item));
        }
        Ok(())
    }
}

fn adaptive<T: Element>(op: &Adaptive, item: &mut AdaptiveItem<'_, Reference, T>) -> Report {
    let mut report = Report::default();
    let draws = draws(&op.draw.position(item.tensor, domain::ADAPTIVE), item.first, item.x.len());
    let size = op.block.get() as usize;
    for (block, (x, scale)) in item.x.chunks(size).zip(item.scales.iter_mut()).enumerate() {
        let start = block * size;
        let old = bf16_to_f32(*scale);
        let sums: Vec<u32> = x
            .iter()
            .enumerate()
            .map(|(i, x)| {
                let l = level(item.levels, op.bits, start + i);
                sum(l, old, weighted(x.to_f32_bits(), op.weight.to_bits())).unwrap_or_else(|| {
                    note(&mut report, item.first + (start + i) as u64);
                    value(l, old).to_bits()
                })
            })
            .collect();
        let max = sums.iter().map(|&v| magnitude(v)).max().unwrap_or(0);
        let new = level_scale(max, level_max(op.bits));
        for (i, &v) in sums.iter().enumerate() {
            let l = round_level(v, new, draws[start + i]);
            set_level(item.levels, op.bits, start + i, l);
        }
        *scale = (new >> 16) as u16;
    }
    report
}

impl Launch<Exact> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Exact, T>) -> Result<()> {
        let (op, items, (state, reports)) = work.into_parts();
        let op = op.under_words(state.0);
        for item in items {
            reports[item.report].merge(exact(&op, item));
        }
        Ok(())
    }
}

fn exact<T: Element>(op: &Exact, item: &mut ExactItem<'_, Reference, T>) -> Report {
    let mut report = Report::default();
    let draws = draws(&op.draw.position(item.tensor, domain::TERNARY), item.first, item.x.len());
    let products: Vec<u32> = (item.first..)
        .zip(item.x)
        .map(|(index, x)| in_range(weighted(x.to_f32_bits(), op.weight.to_bits()), index, &mut report))
        .collect();
    let size = op.block.get() as usize;
    for (block, products) in products.chunks(size).enumerate() {
        let max = products.iter().map(|&p| magnitude(p)).max().unwrap_or(0);
        let seen = stochastic_scale(max);
        if let (0, Some(headroom)) = (item.scales[block], op.headroom) {
            item.scales[block] = (count_scale(op.bits, seen, headroom.to_bits()) >> 16) as u16;
        }
        item.seen[block] = item.seen[block].max((seen >> 16) as u16);
        let s = bf16_to_f32(item.scales[block]);
        for (i, &p) in (block * size..).zip(products) {
            let (added, clipped) = if op.bits == 32 { round_fine(p, s) } else { trit(p, s, draws[i]) };
            set_field(item.counts, op.bits, i, field(item.counts, op.bits, i).wrapping_add(added));
            report.clipped += u64::from(clipped);
        }
    }
    report
}

/// The trit of a product under a scale, and whether it was cut.
fn trit(p: u32, s: u32, k: u32) -> (i32, bool) {
    let m = magnitude(p);
    (if keep(m, s, k) { sign(p) } else { 0 }, m > s)
}

impl Launch<F32> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, F32, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        for item in items {
            for (index, (x, total)) in (item.first..).zip(item.x.iter().zip(item.sum.iter_mut())) {
                match sum_f32(total.to_bits(), weighted(x.to_f32_bits(), op.weight.to_bits())) {
                    Some(v) => *total = f32::from_bits(v),
                    None => note(&mut reports[item.report], index),
                }
            }
        }
        Ok(())
    }
}
