//! What gives floats or only looks at them, element by element.

use super::{Reference, counts, in_range};
use crate::error::Result;
use crate::numerics::float::bf16_to_f32;
use crate::numerics::level::{read_out, saturate, weighted};
use crate::numerics::pack::{level, trit};
use crate::op::check::Check;
use crate::op::dequantize::Dequantize;
use crate::op::read_out::{ReadOut, ReadOutF32};
use crate::op::{Checked, Element, ElementType, Launch};
use crate::testing::values::raw;

impl Launch<Dequantize> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Dequantize, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        for item in items {
            let size = op.grouping.size(item.out.len());
            for (i, out) in item.out.iter_mut().enumerate() {
                let s = bf16_to_f32(item.scales[i / size]);
                *out = T::from_f32_bits_saturating(match trit(item.words, i) {
                    Some(1) => s,
                    Some(-1) => s ^ 0x8000_0000,
                    _ => 0,
                });
            }
        }
        Ok(())
    }
}

impl Launch<ReadOut> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, ReadOut, T>) -> Result<()> {
        let (op, items, guards) = work.into_parts();
        let size = op.block.get() as usize;
        for item in items {
            if counts(guards, item.guard) {
                refuse(item.out);
                continue;
            }
            for (i, out) in item.out.iter_mut().enumerate() {
                let v = read_out(level(item.levels, op.bits, i), bf16_to_f32(item.scales[i / size]), op.factor);
                *out = T::from_f32_bits_saturating(v.to_bits());
            }
        }
        Ok(())
    }
}

impl Launch<ReadOutF32> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, ReadOutF32, T>) -> Result<()> {
        let (op, items, guards) = work.into_parts();
        for item in items {
            if counts(guards, item.guard) {
                refuse(item.out);
                continue;
            }
            for (sum, out) in item.sum.iter().zip(item.out.iter_mut()) {
                *out = T::from_f32_bits_saturating(saturate(sum * op.factor).to_bits());
            }
        }
        Ok(())
    }
}

/// The output of a guarded read-out of a window that was marked.
fn refuse<T: Element>(out: &mut [T]) {
    out.fill(match T::TYPE {
        ElementType::F32 => raw(0x7fff_ffff),
        ElementType::F16 | ElementType::Bf16 => raw(0x7fff),
    });
}

impl Launch<Check> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Check, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        for item in items {
            for (x, index) in item.x.iter().zip(item.first..) {
                in_range(weighted(x.to_f32_bits(), op.weight.to_bits()), index, &mut reports[item.report]);
            }
        }
        Ok(())
    }
}
