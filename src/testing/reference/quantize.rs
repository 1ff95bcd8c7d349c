//! Quantize, element by element.

use super::{draws, in_range, sign};
use crate::numerics::constants::domain;
use crate::numerics::float::magnitude;
use crate::numerics::pack::set_level;
use crate::numerics::scale::stochastic_scale;
use crate::numerics::threshold::{Moments, Sum, relative};
use crate::numerics::trit::{above, keep};
use crate::op::quantize::{Quantize, Rule, Threshold};
use crate::op::{Element, Report};

/// One tensor to planes and scales; what was found.
pub(super) fn quantize<T: Element>(
    op: &Quantize,
    (tensor, first): (u32, u64),
    x: &[T],
    words: &mut [u32],
    scales: &mut [u16],
) -> Report {
    let mut report = Report::default();
    let bits: Vec<u32> =
        x.iter().zip(first..).map(|(x, index)| in_range(x.to_f32_bits(), index, &mut report)).collect();
    words.fill(0);
    let mut drawn = None;
    let size = op.grouping.size(x.len());
    for (number, group) in bits.chunks(size).enumerate() {
        let start = number * size;
        let (scale, trits) = match op.rule {
            Rule::Stochastic { draw: place, clip } => {
                let all = drawn.get_or_insert_with(|| draws(&place.position(tensor, domain::TERNARY), first, x.len()));
                stochastic(group, clip, &all[start..], &mut report)
            }
            Rule::Threshold(threshold) => above_threshold(group, threshold),
        };
        scales[number] = (scale >> 16) as u16;
        for (i, t) in trits.into_iter().enumerate() {
            set_level(words, 2, start + i, t);
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
