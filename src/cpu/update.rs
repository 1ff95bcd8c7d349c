//! Update: weights and moments group by group, the gradient read out into 32 registers' worth and never stored.

use super::Cpu;
use super::split::{TILE, Tile, fold, join, note, run_items};
use crate::error::Result;
use crate::numerics::constants::{GROUP, domain};
use crate::numerics::draw::{Position, draws};
use crate::numerics::float::bf16_to_f32;
use crate::numerics::level::read_out;
use crate::numerics::pack::level;
use crate::numerics::update;
use crate::op::state::{Under, skips};
use crate::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};
use crate::op::{Checked, Launch};
use crate::types::{Element, ElementType, Report};

impl Launch<Sgd> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Sgd, T>) -> Result<()> {
        let (op, items, (state, guards, reports)) = work.into_parts();
        if skipped(guards) || skips(state.0) {
            return Ok(());
        }
        let op = op.under_words(state.0);
        let elements = items.iter().map(|i| i.weights.len()).sum();
        let (terms, nesterov) = (op.terms, op.nesterov);
        let run = |item: &mut SgdItem<'_, Cpu, T>| {
            let shared = Shared::new(&op.source, item.tensor);
            let (gradient, weights, first) = (item.gradient.shorten(), &mut *item.weights, item.first);
            match &mut item.momentum {
                Some(b) => {
                    let work = Work { gradient, weights, state: [&mut **b], first, shared };
                    step(work, &|g, w, [b]| {
                        let (w, b) = update::sgd(&terms, nesterov, g, w, b);
                        (w, [b])
                    })
                }
                None => {
                    let work = Work { gradient, weights, state: [], first, shared };
                    step(work, &|g, w, []| (update::sgd(&terms, nesterov, g, w, 0.0).0, []))
                }
            }
        };
        run_items(items, elements, reports, |i| i.report, run);
        Ok(())
    }
}

impl Launch<AdamW> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdamW, T>) -> Result<()> {
        let (op, items, (state, guards, reports)) = work.into_parts();
        if skipped(guards) || skips(state.0) {
            return Ok(());
        }
        let op = op.under_words(state.0);
        let elements = items.iter().map(|i| i.weights.len()).sum();
        let terms = op.terms;
        let run = |item: &mut AdamWItem<'_, Cpu, T>| {
            let shared = Shared::new(&op.source, item.tensor);
            let state = [&mut *item.first_moment, &mut *item.second_moment];
            let work = Work {
                gradient: item.gradient.shorten(),
                weights: &mut *item.weights,
                state,
                first: item.first,
                shared,
            };
            step(work, &|g, w, [m, v]| {
                let (w, m, v) = update::adamw(&terms, g, w, m, v);
                (w, [m, v])
            })
        };
        run_items(items, elements, reports, |i| i.report, run);
        Ok(())
    }
}

/// Whether any guard counts something: the step is skipped.
pub(super) fn skipped(guards: Option<&Vec<Report>>) -> bool {
    guards.is_some_and(|slots| slots.iter().any(|r| r.non_finite > 0))
}

/// What all blocks of an item share.
#[derive(Clone, Copy)]
pub(super) struct Shared {
    bits: u32,
    block: usize,
    factor: f32,
    pub(super) at: Position,
}

impl Shared {
    pub(super) fn new(source: &Source, tensor: u32) -> Self {
        let at = source.draw.position(tensor, domain::WEIGHT);
        Shared { bits: source.bits, block: source.block.get() as usize, factor: source.factor, at }
    }

    /// The gradient of group `g`, which has `n` elements; what lies past them means nothing.
    #[inline(always)]
    pub(super) fn gradient(&self, gradient: Gradient<'_, Cpu>, g: usize, n: usize) -> [f32; GROUP] {
        match gradient {
            Gradient::Packed { levels, scales } => {
                let words = self.bits as usize;
                levels_of(self, &levels[g * words..(g + 1) * words], scales[g * GROUP / self.block])
            }
            Gradient::Dense(x) => dense(&x[g * GROUP..g * GROUP + n], self.factor),
        }
    }
}

/// A gradient before element `at`, which begins a block, and from there on.
pub(super) fn split_gradient<'a>(
    gradient: Gradient<'a, Cpu>,
    shared: &Shared,
    at: usize,
) -> (Gradient<'a, Cpu>, Gradient<'a, Cpu>) {
    match gradient {
        Gradient::Packed { levels, scales } => {
            let (levels, more) = levels.split_at(at / GROUP * shared.bits as usize);
            let (scales, more_scales) = scales.split_at(at / shared.block);
            (Gradient::Packed { levels, scales }, Gradient::Packed { levels: more, scales: more_scales })
        }
        Gradient::Dense(x) => {
            let (x, more) = x.split_at(at);
            (Gradient::Dense(x), Gradient::Dense(more))
        }
    }
}

/// A new weight as it would be stored, as f32 bits: f32 as it is, bf16 by the draw.
#[inline(always)]
pub(super) fn stored<T: Element>(w: f32, k: u32) -> u32 {
    if T::TYPE == ElementType::Bf16 { bf16_to_f32(update::to_bf16(w.to_bits(), k)) } else { w.to_bits() }
}

/// Blocks to update, with `S` buffers of state beside the weights.
struct Work<'a, T, const S: usize> {
    gradient: Gradient<'a, Cpu>,
    weights: &'a mut [T],
    state: [&'a mut [f32]; S],
    first: u64,
    shared: Shared,
}

impl<T: Element, const S: usize> Tile for Work<'_, T, S> {
    fn elements(&self) -> usize {
        self.weights.len()
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (shared, first) = (self.shared, self.first);
        let (gradient, more_gradient) = split_gradient(self.gradient, &shared, at);
        let (weights, more_weights) = self.weights.split_at_mut(at);
        let (mut more_state, mut i) = (std::array::from_fn(|_| Default::default()), 0);
        let state = self.state.map(|s| {
            let (s, more) = s.split_at_mut(at);
            more_state[i] = more;
            i += 1;
            s
        });
        (
            Work { gradient, weights, state, first, shared },
            Work {
                gradient: more_gradient,
                weights: more_weights,
                state: more_state,
                first: first + at as u64,
                shared,
            },
        )
    }
}

/// A rule from gradient, weight and state to weight and state.
trait Step<const S: usize>: Fn(f32, f32, [f32; S]) -> (f32, [f32; S]) + Sync {}
impl<const S: usize, F: Fn(f32, f32, [f32; S]) -> (f32, [f32; S]) + Sync> Step<S> for F {}

fn step<T: Element, const S: usize>(work: Work<'_, T, S>, rule: &impl Step<S>) -> Report {
    fold(work, TILE, &|w| tile(w, rule), &join)
}

fn tile<T: Element, const S: usize>(work: Work<'_, T, S>, rule: &impl Step<S>) -> Report {
    let mut report = Report::default();
    let Work { gradient, weights, mut state, first, shared } = work;
    for (g, weights) in weights.chunks_mut(GROUP).enumerate() {
        let gradient = shared.gradient(gradient, g, weights.len());
        let mut state = state.each_mut().map(|s| &mut s[g * GROUP..g * GROUP + weights.len()]);
        let draws = (T::TYPE == ElementType::Bf16).then(|| draws(&shared.at, (first / GROUP as u64) as u32 + g as u32));
        for (i, (w, g_i)) in weights.iter_mut().zip(gradient).enumerate() {
            let old = std::array::from_fn(|j| state[j][i]);
            let (new, next) = rule(g_i, f32::from_bits(w.to_f32_bits()), old);
            let bits = stored::<T>(new, draws.map_or(0, |k| k[i]));
            if !f32::from_bits(bits).is_finite() || next.iter().any(|s| !s.is_finite()) {
                note(&mut report, first + (g * GROUP + i) as u64);
                continue;
            }
            *w = T::from_f32_bits(bits);
            for (s, next) in state.iter_mut().zip(next) {
                s[i] = next;
            }
        }
    }
    report
}

/// The gradient of a group; elements past the end read as whatever fields past the end hold, and are not used.
#[inline(always)]
fn levels_of(shared: &Shared, levels: &[u32], scale: u16) -> [f32; GROUP] {
    let s = bf16_to_f32(scale);
    let value = |l: i32| read_out(l, s, shared.factor);
    match shared.bits {
        4 => std::array::from_fn(|i| value((levels[i / 8] << (28 - 4 * (i % 8))) as i32 >> 28)),
        8 => std::array::from_fn(|i| value((levels[i / 4] << (24 - 8 * (i % 4))) as i32 >> 24)),
        bits => std::array::from_fn(|i| value(level(levels, bits, i))),
    }
}

#[inline(always)]
fn dense(x: &[f32], factor: f32) -> [f32; GROUP] {
    let mut g = [0.0; GROUP];
    for (g, x) in g.iter_mut().zip(x) {
        *g = x * factor;
    }
    g
}
