//! The state of a training: counted and decided by the specification itself.

use super::Cpu;
use crate::error::Result;
use crate::numerics::state::State;
use crate::op::state::{AdvanceMicroBatch, AdvanceStep, Decide};
use crate::op::{Checked, Element, Launch};

impl Launch<AdvanceMicroBatch> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdvanceMicroBatch, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        for item in items {
            change(item.state, |state| state.advance_micro_batch(op.weight));
        }
        Ok(())
    }
}

impl Launch<Decide> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Decide, T>) -> Result<()> {
        let (op, items, found) = work.into_parts();
        let found = found.and_then(|slots| {
            let slot = slots.iter().position(|report| report.non_finite > 0)?;
            Some((slot as u32, slots[slot].non_finite))
        });
        for item in items {
            let (sum, corrections) = (item.sum, item.corrections);
            change(item.state, |state| state.decide(sum, op.limit(), found, corrections));
        }
        Ok(())
    }
}

impl Launch<AdvanceStep> for Cpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdvanceStep, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        for item in items {
            change(item.state, |state| state.advance_step(op.growth_interval.unwrap_or(0)));
        }
        Ok(())
    }
}

/// Changes the state that these words hold.
fn change(words: &mut [u32], by: impl FnOnce(&mut State)) {
    if let Some(mut state) = State::from_words(words) {
        by(&mut state);
        words.copy_from_slice(state.words());
    }
}
