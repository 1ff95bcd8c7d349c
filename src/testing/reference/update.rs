//! Weight updates, element by element.

use super::draws;
use crate::numerics::constants::domain;
use crate::numerics::float::bf16_to_f32;
use crate::numerics::level::read_out;
use crate::numerics::pack::level;
use crate::numerics::update::{adamw, sgd, to_bf16};
use crate::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};
use crate::op::{Element, ElementType};
use crate::testing::Reference;
use crate::testing::values::raw;

/// One tensor by SGD.
pub(super) fn by_sgd<T: Element>(op: &Sgd, item: &mut SgdItem<'_, Reference, T>) {
    let draws = draws(&op.source.draw.position(item.tensor, domain::WEIGHT), item.first, item.weights.len());
    for (i, weight) in item.weights.iter_mut().enumerate() {
        let g = gradient(&op.source, &item.gradient, i);
        let old = item.momentum.as_ref().map_or(0.0, |b| b[i]);
        let (w, b) = sgd(&op.terms, op.nesterov, g, f32::from_bits(weight.to_f32_bits()), old);
        *weight = rounded(w, draws[i]);
        if let Some(momentum) = &mut item.momentum {
            momentum[i] = b;
        }
    }
}

/// One tensor by AdamW.
pub(super) fn by_adamw<T: Element>(op: &AdamW, item: &mut AdamWItem<'_, Reference, T>) {
    let draws = draws(&op.source.draw.position(item.tensor, domain::WEIGHT), item.first, item.weights.len());
    for (i, weight) in item.weights.iter_mut().enumerate() {
        let g = gradient(&op.source, &item.gradient, i);
        let (m, v) = (&mut item.first_moment[i], &mut item.second_moment[i]);
        let w;
        (w, *m, *v) = adamw(&op.terms, g, f32::from_bits(weight.to_f32_bits()), *m, *v);
        *weight = rounded(w, draws[i]);
    }
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
