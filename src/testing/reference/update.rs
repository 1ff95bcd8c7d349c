//! Weight updates, element by element.

use super::{Reference, draws, note};
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::numerics::float::bf16_to_f32;
use crate::numerics::level::read_out;
use crate::numerics::moments::{MOMENT_BLOCK, decode, encode, moment_scale};
use crate::numerics::pack::level;
use crate::numerics::update::{adamw, sgd, to_bf16};
use crate::op::state::{Under, skips};
use crate::op::update::{AdamW, Gradient, Sgd, Source};
use crate::op::update_adamw_8bit::AdamW8;
use crate::op::{Checked, Element, ElementType, Launch, Report};
use crate::testing::values::raw;

impl Launch<Sgd> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Sgd, T>) -> Result<()> {
        let (op, items, (state, guards, reports)) = work.into_parts();
        if stopped(guards) || skips(state.0) {
            return Ok(());
        }
        let op = op.under_words(state.0);
        for item in items {
            let draws = draws(&op.source.draw.position(item.tensor, domain::WEIGHT), item.first, item.weights.len());
            for (i, weight) in item.weights.iter_mut().enumerate() {
                let g = gradient(&op.source, &item.gradient, i);
                let old = item.momentum.as_ref().map_or(0.0, |b| b[i]);
                let (w, b) = sgd(&op.terms, op.nesterov, g, f32::from_bits(weight.to_f32_bits()), old);
                let new = rounded::<T>(w, draws[i]);
                if !finite(new) || !b.is_finite() {
                    note(&mut reports[item.report], item.first + i as u64);
                    continue;
                }
                *weight = new;
                if let Some(momentum) = &mut item.momentum {
                    momentum[i] = b;
                }
            }
        }
        Ok(())
    }
}

impl Launch<AdamW> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdamW, T>) -> Result<()> {
        let (op, items, (state, guards, reports)) = work.into_parts();
        if stopped(guards) || skips(state.0) {
            return Ok(());
        }
        let op = op.under_words(state.0);
        for item in items {
            let draws = draws(&op.source.draw.position(item.tensor, domain::WEIGHT), item.first, item.weights.len());
            for (i, weight) in item.weights.iter_mut().enumerate() {
                let g = gradient(&op.source, &item.gradient, i);
                let (old_m, old_v) = (item.first_moment[i], item.second_moment[i]);
                let (w, m, v) = adamw(&op.terms, g, f32::from_bits(weight.to_f32_bits()), old_m, old_v);
                let new = rounded::<T>(w, draws[i]);
                if !finite(new) || !m.is_finite() || !v.is_finite() {
                    note(&mut reports[item.report], item.first + i as u64);
                    continue;
                }
                *weight = new;
                (item.first_moment[i], item.second_moment[i]) = (m, v);
            }
        }
        Ok(())
    }
}

impl Launch<AdamW8> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdamW8, T>) -> Result<()> {
        let (op, items, (state, guards, reports)) = work.into_parts();
        if stopped(guards) || skips(state.0) {
            return Ok(());
        }
        let op = op.under_words(state.0);
        for item in items {
            let draws = draws(&op.source.draw.position(item.tensor, domain::WEIGHT), item.first, item.weights.len());
            let old = |i: usize| decode(item.moments[i], item.moment_scales[i / MOMENT_BLOCK]);
            let mut new: Vec<(f32, f32)> = (0..item.weights.len()).map(old).collect();
            for (i, weight) in item.weights.iter_mut().enumerate() {
                let g = gradient(&op.source, &item.gradient, i);
                let (w, m, v) = adamw(&op.terms, g, f32::from_bits(weight.to_f32_bits()), new[i].0, new[i].1);
                let rounded = rounded::<T>(w, draws[i]);
                if finite(rounded) && m.is_finite() && v.is_finite() {
                    (*weight, new[i]) = (rounded, (m, v));
                } else {
                    note(&mut reports[item.report], item.first + i as u64);
                }
            }
            for (block, scale) in item.moment_scales.iter_mut().enumerate() {
                let all = new.iter().skip(block * MOMENT_BLOCK).take(MOMENT_BLOCK);
                *scale = moment_scale(all.map(|(_, v)| v.abs().to_bits()).max().unwrap_or(0));
            }
            for (i, (m, v)) in new.into_iter().enumerate() {
                item.moments[i] = encode(m, v, item.moment_scales[i / MOMENT_BLOCK], draws[i]);
            }
        }
        Ok(())
    }
}

/// Whether any guard counts something: the step is skipped.
fn stopped(guards: Option<&Vec<Report>>) -> bool {
    guards.is_some_and(|guards| guards.iter().any(|g| g.non_finite > 0))
}

fn finite<T: Element>(x: T) -> bool {
    f32::from_bits(x.to_f32_bits()).is_finite()
}

fn gradient(source: &Source, gradient: &Gradient<'_, Reference>, i: usize) -> f32 {
    match gradient {
        Gradient::Packed { levels, scales } => {
            let scale = bf16_to_f32(scales[i / source.block.get() as usize]);
            read_out(level(levels, source.bits, i), scale, source.factor)
        }
        Gradient::Dense(x) => x[i] * source.factor,
    }
}

/// f32 as it is, bf16 by the draw.
fn rounded<T: Element>(w: f32, k: u32) -> T {
    match T::TYPE {
        ElementType::F32 => raw(w.to_bits()),
        ElementType::F16 | ElementType::Bf16 => raw(to_bf16(w.to_bits(), k).into()),
    }
}
