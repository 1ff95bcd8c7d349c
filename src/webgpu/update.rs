//! Update: weights follow their gradients in place, in operations that are IEEE 754's on every adapter.

use super::Wgpu;
use super::accumulate::{bits, words_of};
use super::launch::Batch;
use super::memory::Raw;
use super::quantize::{draw, element, scales_of};
use super::reports::Reports;
use super::shaders::{self, Params};
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::numerics::update::{AdamWTerms, SgdTerms};
use crate::op::Element;
use crate::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};

/// One tensor: its gradient, what is written, and the rule.
struct Step<'a, 'g> {
    gradient: Gradient<'g, Wgpu>,
    weights: Raw<'a>,
    /// The first and second moment; the weights again where there is none, which no variant then touches.
    moments: [Raw<'a>; 2],
    first: u64,
    tensor: u32,
    params: Params,
    sgd: bool,
}

pub(super) fn sgd<T: Element>(
    gpu: &Wgpu,
    op: &Sgd,
    items: &mut [SgdItem<'_, Wgpu, T>],
    guards: Option<&Reports>,
) -> Result<()> {
    op.validate()?;
    items.iter().try_for_each(|item| item.validate(op))?;
    let SgdTerms { learning_rate, momentum, weight_decay } = op.terms;
    let params = Params {
        term0: learning_rate.to_bits(),
        term1: momentum.to_bits(),
        term2: weight_decay.to_bits(),
        mode: u32::from(op.nesterov),
        ..Params::default()
    };
    let steps = items.iter().map(|item| {
        let weights = item.weights.raw;
        let moment = item.momentum.as_ref().map_or(weights, |b| b.raw);
        let (first, tensor, gradient) = (item.first, item.tensor, item.gradient.shorten());
        Step { gradient, weights, moments: [moment, moment], first, tensor, params, sgd: true }
    });
    run::<T>(gpu, &op.source, steps, guards, "update_sgd")
}

pub(super) fn adamw<T: Element>(
    gpu: &Wgpu,
    op: &AdamW,
    items: &mut [AdamWItem<'_, Wgpu, T>],
    guards: Option<&Reports>,
) -> Result<()> {
    op.validate()?;
    items.iter().try_for_each(|item| item.validate(op))?;
    let AdamWTerms { learning_rate, beta1, rest1, beta2, rest2, correct1, correct2, eps, keep } = op.terms;
    let params = Params {
        term0: learning_rate.to_bits(),
        term1: beta1.to_bits(),
        term2: rest1.to_bits(),
        term3: beta2.to_bits(),
        term4: rest2.to_bits(),
        term5: correct1.to_bits(),
        term6: correct2.to_bits(),
        term7: eps.to_bits(),
        term8: keep.to_bits(),
        ..Params::default()
    };
    let steps = items.iter().map(|item| Step {
        gradient: item.gradient.shorten(),
        weights: item.weights.raw,
        moments: [item.first_moment.raw, item.second_moment.raw],
        first: item.first,
        tensor: item.tensor,
        params,
        sgd: false,
    });
    run::<T>(gpu, &op.source, steps, guards, "update_adamw")
}

fn run<'a, 'g, T: Element>(
    gpu: &Wgpu,
    source: &Source,
    steps: impl Iterator<Item = Step<'a, 'g>>,
    guards: Option<&Reports>,
    call: &'static str,
) -> Result<()> {
    let size = size_of::<T>() as u64;
    let mut batch = Batch::new(gpu);
    for step in steps {
        for window in gpu.windows((step.weights.bytes / size) as usize, 4) {
            let weights = step.weights.part(window.start * size, window.len * size);
            let moments = step.moments.map(|m| {
                if m.bytes == 4 * step.weights.bytes / size {
                    m.part(4 * window.start, 4 * window.len)
                } else {
                    weights
                }
            });
            let mut params = Params {
                n: window.len as u32,
                out: weights.skip(size),
                seen: moments[0].skip(4),
                other: moments[1].skip(4),
                weight: source.factor.to_bits(),
                shift: source.block.get().ilog2() - 5,
                group: ((step.first + window.start) / 32) as u32,
                slots: guards.map_or(0, |g| g.slots() as u32),
                ..step.params
            };
            draw(&mut params, &source.draw, step.tensor, domain::WEIGHT);
            let (levels, scales, kind) = match &step.gradient {
                Gradient::Packed { levels, scales } => {
                    let scales = scales_of(scales.raw, source.block, window.start, window.len);
                    params.scales = scales.skip(2);
                    (words_of(levels.raw, source.bits, window), scales, bits(source.bits))
                }
                Gradient::Dense(x) => {
                    let x = x.raw.part(4 * window.start, 4 * window.len);
                    (x, x, "DENSE")
                }
            };
            params.words = levels.skip(4);
            let mut flags = vec![element::<T>(), kind];
            flags.extend(step.sgd.then_some("SGD"));
            flags.extend(gpu.inner.abilities.int64.then_some("INT64"));
            gpu.soft(&mut flags);
            let threads = (weights.offset % 4 + weights.bytes).div_ceil(4);
            // Without guards any buffer does: it is not read.
            let guard = guards.map_or(scales, Reports::raw);
            let bindings = [levels, scales, weights, moments[0], moments[1], guard];
            batch.dispatch(&shaders::UPDATE, flags, &bindings, params, threads)?;
        }
    }
    batch.run(call).map(drop)
}
