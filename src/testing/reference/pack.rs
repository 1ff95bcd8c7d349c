//! Packing and conversions, element by element.

use super::{Reference, note};
use crate::error::Result;
use crate::numerics::pack::{set_level, trit};
use crate::op::pack::{FieldsToPlanes, JoinPlanes, Pack, PlanesToFields, SplitPlanes, Unpack};
use crate::op::{Checked, Element, Launch};

impl Launch<Pack> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Pack, T>) -> Result<()> {
        let (_, items, reports) = work.into_parts();
        for item in items {
            item.words.fill(0);
            for (i, &t) in item.trits.iter().enumerate() {
                if (-1..=1).contains(&t) {
                    set_level(item.words, 2, i, i32::from(t));
                } else {
                    note(&mut reports[item.report], i as u64);
                }
            }
        }
        Ok(())
    }
}

impl Launch<Unpack> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Unpack, T>) -> Result<()> {
        let (_, items, reports) = work.into_parts();
        for item in items {
            for (i, out) in item.trits.iter_mut().enumerate() {
                *out = trit(item.words, i).unwrap_or_else(|| {
                    note(&mut reports[item.report], i as u64);
                    0
                });
            }
        }
        Ok(())
    }
}

impl Launch<SplitPlanes> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, SplitPlanes, T>) -> Result<()> {
        let (_, items, ()) = work.into_parts();
        for item in items {
            for (g, pair) in item.words.chunks(2).enumerate() {
                (item.plus[g], item.minus[g]) = (pair[0], pair[1]);
            }
        }
        Ok(())
    }
}

impl Launch<JoinPlanes> for Reference {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, JoinPlanes, T>) -> Result<()> {
        let (_, items, ()) = work.into_parts();
        for item in items {
            for (g, pair) in item.words.chunks_mut(2).enumerate() {
                pair.copy_from_slice(&[item.plus[g], item.minus[g]]);
            }
        }
        Ok(())
    }
}

impl Launch<PlanesToFields> for Reference {
    /// Bit by bit; an invalid pair stays invalid.
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, PlanesToFields, T>) -> Result<()> {
        let (_, items, ()) = work.into_parts();
        for item in items {
            item.fields.fill(0);
            for i in 0..item.words.len() * 16 {
                let (pair, bit) = (i / 32 * 2, i % 32);
                let code = (item.words[pair] >> bit & 1) | (item.words[pair + 1] >> bit & 1) << 1;
                item.fields[i / 16] |= code << (2 * (i % 16));
            }
        }
        Ok(())
    }
}

impl Launch<FieldsToPlanes> for Reference {
    /// Bit by bit; field 3 stays invalid.
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, FieldsToPlanes, T>) -> Result<()> {
        let (_, items, ()) = work.into_parts();
        for item in items {
            item.words.fill(0);
            for i in 0..item.fields.len() * 16 {
                let (pair, bit) = (i / 32 * 2, i % 32);
                let code = item.fields[i / 16] >> (2 * (i % 16)) & 3;
                item.words[pair] |= (code & 1) << bit;
                item.words[pair + 1] |= (code >> 1) << bit;
            }
        }
        Ok(())
    }
}
