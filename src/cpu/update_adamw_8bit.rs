//! AdamW with moments in 8 bits: a block is updated in registers, then its largest second moment is known and it is coded.

use super::Cpu;
use super::split::{TILE, Tile, fold, join, note, run_items};
use super::update::{Shared, skipped, split_gradient, stored};
use crate::error::Result;
use crate::numerics::constants::GROUP;
use crate::numerics::draw::draws;
use crate::numerics::moments::{MOMENT_BLOCK, decode, encode, moment_scale};
use crate::numerics::update::{AdamWTerms, adamw};
use crate::op::state::{Under, skips};
use crate::op::update::Gradient;
use crate::op::update_adamw_8bit::{AdamW8, AdamW8Item};
use crate::op::{Checked, Launch};
use crate::types::{Element, Report};

impl Launch<AdamW8> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdamW8, T>) -> Result<()> {
        let (op, items, (state, guards, reports)) = work.into_parts();
        if skipped(guards) || skips(state.0) {
            return Ok(());
        }
        let op = op.under_words(state.0);
        let elements = items.iter().map(|i| i.weights.len()).sum();
        let run = |item: &mut AdamW8Item<'_, Cpu, T>| {
            let blocks = Blocks {
                gradient: item.gradient.shorten(),
                weights: &mut *item.weights,
                moments: &mut *item.moments,
                moment_scales: &mut *item.moment_scales,
                first: item.first,
                shared: Shared::new(&op.source, item.tensor),
                terms: &op.terms,
            };
            fold(blocks, TILE, &tile, &join)
        };
        run_items(items, elements, reports, |i| i.report, run);
        Ok(())
    }
}

/// Blocks to update.
struct Blocks<'a, T> {
    gradient: Gradient<'a, Cpu>,
    weights: &'a mut [T],
    moments: &'a mut [u16],
    moment_scales: &'a mut [u16],
    first: u64,
    shared: Shared,
    terms: &'a AdamWTerms,
}

impl<T: Element> Tile for Blocks<'_, T> {
    fn elements(&self) -> usize {
        self.weights.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let Blocks { first, shared, terms, .. } = self;
        let (gradient, more_gradient) = split_gradient(self.gradient, &shared, at);
        let (weights, more_weights) = self.weights.split_at_mut(at);
        let (moments, more_moments) = self.moments.split_at_mut(at);
        let (moment_scales, more_scales) = self.moment_scales.split_at_mut(at / MOMENT_BLOCK);
        let more = Blocks {
            gradient: more_gradient,
            weights: more_weights,
            moments: more_moments,
            moment_scales: more_scales,
            first: first + at as u64,
            shared,
            terms,
        };
        (Blocks { gradient, weights, moments, moment_scales, first, shared, terms }, more)
    }
}

fn tile<T: Element>(work: Blocks<'_, T>) -> Report {
    let Blocks { gradient, weights, moments, moment_scales, first, shared, terms } = work;
    let mut report = Report::default();
    let blocks = weights.chunks_mut(MOMENT_BLOCK).zip(moments.chunks_mut(MOMENT_BLOCK)).zip(moment_scales);
    for (number, ((weights, words), scale)) in blocks.enumerate() {
        let at = number * MOMENT_BLOCK;
        // New moments and draws, all of the block before any is coded.
        let (mut m, mut v, mut k) = ([0.0f32; MOMENT_BLOCK], [0.0f32; MOMENT_BLOCK], [0; MOMENT_BLOCK]);
        let mut largest = 0;
        for (half, weights) in weights.chunks_mut(GROUP).enumerate() {
            let group = at / GROUP + half;
            let g = shared.gradient(gradient, group, weights.len());
            let of_group = draws(&shared.at, (first / GROUP as u64) as u32 + group as u32);
            for (j, w) in weights.iter_mut().enumerate() {
                let i = half * GROUP + j;
                k[i] = of_group[j];
                let (old_m, old_v) = decode(words[i], *scale);
                let (new, new_m, new_v) = adamw(terms, g[j], f32::from_bits(w.to_f32_bits()), old_m, old_v);
                let new = stored::<T>(new, k[i]);
                if f32::from_bits(new).is_finite() && new_m.is_finite() && new_v.is_finite() {
                    *w = T::from_f32_bits(new);
                    (m[i], v[i]) = (new_m, new_v);
                } else {
                    note(&mut report, first + (at + i) as u64);
                    (m[i], v[i]) = (old_m, old_v);
                }
                largest = largest.max(v[i].to_bits() & 0x7fff_ffff);
            }
        }
        *scale = moment_scale(largest);
        for (i, word) in words.iter_mut().enumerate() {
            *word = encode(m[i], v[i], *scale, k[i]);
        }
    }
    report
}
