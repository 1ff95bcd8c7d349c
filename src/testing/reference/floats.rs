//! What gives floats or only looks at them, element by element.

use super::in_range;
use crate::numerics::float::bf16_to_f32;
use crate::numerics::level::{read_out as read_level, weighted};
use crate::numerics::pack::{level, trit};
use crate::op::check::Check;
use crate::op::read_out::ReadOut;
use crate::op::{Element, ElementType, Grouping, Report};
use crate::testing::values::raw;

/// Planes and scales to floats.
pub(super) fn dequantize<T: Element>(grouping: Grouping, words: &[u32], scales: &[u16], out: &mut [T]) {
    let size = grouping.size(out.len());
    for (i, out) in out.iter_mut().enumerate() {
        let s = bf16_to_f32(scales[i / size]);
        *out = T::from_f32_bits(match trit(words, i) {
            Some(1) => s,
            Some(-1) => s ^ 0x8000_0000,
            _ => 0,
        });
    }
}

/// Levels or counts to floats.
pub(super) fn read_out<T: Element>(op: &ReadOut, levels: &[u32], scales: &[u16], out: &mut [T]) {
    let size = op.block.get() as usize;
    for (i, out) in out.iter_mut().enumerate() {
        let v = read_level(level(levels, op.bits, i), bf16_to_f32(scales[i / size]), op.factor);
        *out = T::from_f32_bits(v.to_bits());
    }
}

/// The output of a guarded read-out of a window that was marked.
pub(super) fn refuse<T: Element>(out: &mut [T]) {
    out.fill(match T::TYPE {
        ElementType::F32 => raw(0x7fff_ffff),
        ElementType::F16 | ElementType::Bf16 => raw(0x7fff),
    });
}

/// Elements out of range.
pub(super) fn check<T: Element>(op: &Check, first: u64, x: &[T]) -> Report {
    let mut report = Report::default();
    for (x, index) in x.iter().zip(first..) {
        in_range(weighted(x.to_f32_bits(), op.weight.to_bits()), index, &mut report);
    }
    report
}
