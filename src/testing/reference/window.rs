//! Windows of exact counts, block by block and count by count.

use super::{Reference, in_range, note};
use crate::error::Result;
use crate::numerics::float::{bf16_to_f32, magnitude};
use crate::numerics::level::weighted;
use crate::numerics::pack::{field, set_field};
use crate::numerics::scale::{count_scale, stochastic_scale};
use crate::op::window::{CompareScales, Look, Merge, WindowScales};
use crate::op::{Checked, Element, Launch};

impl Launch<Look> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Look, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        let size = op.block.get() as usize;
        for item in items {
            for (i, x) in item.x.iter().enumerate() {
                let product = weighted(x.to_f32_bits(), op.weight.to_bits());
                let p = in_range(product, i as u64, &mut reports[item.report]);
                // Rounding up keeps the order of magnitudes, so the maximum of the rounded is the rounded maximum.
                let seen = &mut item.seen[i / size];
                *seen = (*seen).max((stochastic_scale(magnitude(p)) >> 16) as u16);
            }
        }
        Ok(())
    }
}

impl Launch<WindowScales> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, WindowScales, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        for item in items {
            for (seen, scale) in item.seen.iter().zip(item.scales.iter_mut()) {
                if *seen != 0 {
                    *scale = (count_scale(op.bits, bf16_to_f32(*seen), magnitude(op.headroom.to_bits())) >> 16) as u16;
                }
            }
        }
        Ok(())
    }
}

impl Launch<CompareScales> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, CompareScales, T>) -> Result<()> {
        let (_, items, reports) = work.into_parts();
        for item in items {
            for (block, (a, b)) in (0..).zip(item.a.iter().zip(item.b)) {
                if a != b {
                    note(&mut reports[item.report], block);
                }
            }
        }
        Ok(())
    }
}

impl Launch<Merge> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Merge, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        for item in items {
            for i in 0..item.from.len() * 32 / op.bits as usize {
                let sum = field(item.into, op.bits, i).wrapping_add(field(item.from, op.bits, i));
                set_field(item.into, op.bits, i, sum);
            }
            for (seen, from) in item.seen.iter_mut().zip(item.seen_from) {
                *seen = (*seen).max(*from);
            }
        }
        Ok(())
    }
}
