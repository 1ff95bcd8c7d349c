//! Micro-batches in which tensors may be missing, and what else a training asks of its sums.

use super::state::{level_scale_in_range, valid_levels, valid_planes};
use super::{Accumulator, Floats, Id, NonFinite};
use crate::error::Result;
use crate::numerics::level::level_max;
use crate::numerics::pack::words;
use crate::op::{Backend, BlockSize, length};

impl<B: Backend> Accumulator<B> {
    /// Everything that can be wrong with a micro-batch of some of the tensors; its gradients in the order of the tensors.
    /// Nothing is written.
    pub(crate) fn accepted_some<'g, 'i, I: Into<Id<'i>> + Copy>(
        &mut self,
        gradients: &[(I, Floats<'g, B>)],
        weight: f32,
    ) -> Result<Vec<Option<Floats<'g, B>>>> {
        self.usable()?;
        let placed = self.placed(gradients)?;
        self.validate(weight)?;
        if self.config.non_finite == NonFinite::Reject {
            let given: Vec<(usize, Floats<'g, B>)> =
                placed.iter().enumerate().filter_map(|(i, g)| Some((i, (*g)?))).collect();
            self.reject(&given, weight)?;
        }
        Ok(placed)
    }

    /// Adds what was [`accepted_some`](Self::accepted_some): a call of the backend for each run of tensors that are there.
    pub(crate) fn add_some(&mut self, gradients: &[Option<Floats<'_, B>>], weight: f32) -> Result<()> {
        self.write(|this| {
            let mut start = 0;
            for run in gradients.chunk_by(|a, b| a.is_some() == b.is_some()) {
                let given: Vec<Floats<'_, B>> = run.iter().copied().flatten().collect();
                if !given.is_empty() {
                    this.add(start, &given, weight)?;
                }
                start += run.len();
            }
            Ok(())
        })?;
        self.advance(weight);
        Ok(())
    }

    /// The squared norm of all tensors, whatever the window found.
    pub(crate) fn squared_norm_marked(&self) -> Result<f64> {
        let sums = self.queued_norms(|_| 0, 1)?;
        Ok(self.read_norms(&sums)?.first().copied().unwrap_or_default())
    }

    /// Draws under another seed from now on.
    pub(crate) const fn set_seed(&mut self, seed: u64) {
        self.config.seed = seed;
    }

    /// Refuses the window until it is reset.
    pub(crate) fn refuse(&mut self, reason: &str) {
        self.window.refused = Some(reason.to_owned());
    }
}

/// Checks adaptive levels that were not made here.
pub(crate) fn valid_adaptive(n: usize, bits: u32, block: BlockSize, levels: &[u32], scales: &[u16]) -> Result<()> {
    length("levels", words(n, bits), levels.len())?;
    length("scales", block.blocks(n), scales.len())?;
    scales.iter().try_for_each(|s| level_scale_in_range(*s, bits))?;
    if bits == 2 {
        valid_planes(levels)?;
    }
    valid_levels(n, bits, block, levels, scales, 0, u64::from(level_max(bits)))
}
