//! Quantize, element by element.

use super::{Reference, draws, in_range, sign};
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::numerics::float::magnitude;
use crate::numerics::pack::set_level;
use crate::numerics::scale::stochastic_scale;
use crate::numerics::threshold::{Moments, Sum, relative};
use crate::numerics::trit::{above, keep};
use crate::op::quantize::{Item, Quantize, Rule, Threshold};
use crate::op::state::Under;
use crate::op::{Checked, Element, Launch, Report};

impl Launch<Quantize> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Quantize, T>) -> Result<()> {
        let (op, items, (state, reports)) = work.into_parts();
        let op = op.under_words(state.0);
        for item in items {
            reports[item.report].merge(quantize(&op, item));
        }
        Ok(())
    }
}

fn quantize<T: Element>(op: &Quantize, item: &mut Item<'_, Reference, T>) -> Report {
    let mut report = Report::default();
    let (first, n) = (item.first, item.x.len());
    let bits: Vec<u32> =
        item.x.iter().zip(first..).map(|(x, index)| in_range(x.to_f32_bits(), index, &mut report)).collect();
    item.words.fill(0);
    let mut drawn = None;
    let size = op.grouping.size(n);
    for (number, group) in bits.chunks(size).enumerate() {
        let start = number * size;
        let (scale, trits) = match op.rule {
            Rule::Stochastic { draw, clip } => {
                let all = drawn.get_or_insert_with(|| draws(&draw.position(item.tensor, domain::TERNARY), first, n));
                stochastic(group, clip, &all[start..], &mut report)
            }
            Rule::Threshold(threshold) => above_threshold(group, threshold),
        };
        item.scales[number] = (scale >> 16) as u16;
        for (i, t) in trits.into_iter().enumerate() {
            set_level(item.words, 2, start + i, t);
        }
    }
    report
}

fn stochastic(group: &[u32], clip: Option<f32>, draws: &[u32], report: &mut Report) -> (u32, Vec<i32>) {
    let limit = clip.and_then(|c| Moments::of_group(group).clip(magnitude(c.to_bits())));
    let clipped: Vec<u32> = group
        .iter()
        .map(|&b| match (magnitude(b), limit) {
            (m, Some(t)) if m > t => {
                report.clipped += 1;
                t
            }
            (m, _) => m,
        })
        .collect();
    let scale = stochastic_scale(clipped.iter().copied().max().unwrap_or(0));
    let decide = |(i, (&b, &m)): (usize, (&u32, &u32))| if keep(m, scale, draws[i]) { sign(b) } else { 0 };
    (scale, group.iter().zip(&clipped).enumerate().map(decide).collect())
}

fn above_threshold(group: &[u32], threshold: Threshold) -> (u32, Vec<i32>) {
    let magnitudes: Vec<u32> = group.iter().map(|&b| magnitude(b)).collect();
    let t = match threshold {
        Threshold::Given(t) => magnitude(t.to_bits()),
        Threshold::Mean(factor) => relative(&Sum::of_group(&magnitudes, None), magnitude(factor.to_bits())),
    };
    let scale = Sum::of_group(&magnitudes, Some(t)).mean_bf16();
    (scale, group.iter().map(|&b| if above(magnitude(b), t) { sign(b) } else { 0 }).collect())
}
