//! Reductions, element by element.

use crate::numerics::float::bf16_to_f32;
use crate::numerics::pack::{level, trit};
use crate::numerics::reduce::ExactSum;
use crate::op::reduce::{Dot, SquaredNorm};

/// Nonzero trits; an invalid pair counts as zero.
pub(super) fn count_nonzero(words: &[u32]) -> u64 {
    (0..words.len() * 16).map(|i| u64::from(trit(words, i).unwrap_or(0) != 0)).sum()
}

/// The dot product of two packed tensors.
pub(super) fn dot(op: &Dot, (words_a, scales_a): (&[u32], &[u16]), (words_b, scales_b): (&[u32], &[u16])) -> f64 {
    let size = op.grouping.size(op.n);
    let mut sum = ExactSum::default();
    for i in 0..op.n {
        let product = i64::from(level(words_a, 2, i)) * i64::from(level(words_b, 2, i));
        sum.add_product(product, bf16_to_f32(scales_a[i / size]), bf16_to_f32(scales_b[i / size]));
    }
    sum.to_f64()
}

/// The squared norm of trits, levels or counts.
pub(super) fn squared_norm(op: &SquaredNorm, levels: &[u32], scales: &[u16]) -> f64 {
    let size = op.grouping.size(op.n);
    let mut sum = ExactSum::default();
    for i in 0..op.n {
        let l = i64::from(level(levels, op.bits, i));
        let s = bf16_to_f32(scales[i / size]);
        sum.add_product(l * l, s, s);
    }
    sum.to_f64()
}
