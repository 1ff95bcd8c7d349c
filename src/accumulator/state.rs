//! Everything an accumulator holds, in host memory: what a checkpoint is made of.

use super::accumulate::scale_in_range;
use super::{Accumulator, Format, Window};
use crate::op::Backend;
use crate::error::{Error, Result};
use crate::numerics::constants::GROUP;
use crate::numerics::level::level_max;
use crate::numerics::pack::{level, words};
use crate::op::accumulate::counts_fit;
use crate::op::{Report, length};

/// The whole state of an accumulator, in host memory. The configuration is not part of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The optimizer step.
    pub step: u32,
    /// The index that the next micro-batch draws under.
    pub micro_batch: u32,
    /// Micro-batches in the window.
    pub held: u32,
    /// The sum of their weights.
    pub weights: f64,
    /// One a tensor, in order.
    pub tensors: Vec<TensorState>,
    /// What the window found, one a tensor.
    pub reports: Vec<Report>,
}

/// What is held of one tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorState {
    /// Levels or counts.
    pub levels: Vec<u32>,
    /// bf16 scales.
    pub scales: Vec<u16>,
    /// bf16 maxima of the window: exact counts only.
    pub seen: Option<Vec<u16>>,
    /// Whether the scales of this window are fixed: exact counts only.
    pub scaled: bool,
}

impl<B: Backend> Accumulator<B> {
    /// The state, in host memory; waits for the device.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], or what the device reports.
    pub fn state(&self) -> Result<State> {
        self.usable()?;
        let tensor = |t: &super::Tensor<B>| {
            Ok(TensorState {
                levels: self.backend.download(B::view(&t.levels))?,
                scales: self.backend.download(B::view(&t.scales))?,
                seen: t.seen.as_ref().map(|s| self.backend.download(B::view(s))).transpose()?,
                scaled: t.scaled,
            })
        };
        Ok(State {
            step: self.window.step,
            micro_batch: self.window.micro_batch,
            held: self.window.held,
            weights: self.window.weights,
            tensors: self.tensors.iter().map(tensor).collect::<Result<_>>()?,
            reports: self.reports()?,
        })
    }

    /// Takes over a state, of an accumulator of the same tensors and configuration on any backend.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] where lengths differ; [`Error::Parameter`], [`Error::Limit`] or [`Error::InvalidTrits`] for a
    /// level, scale, count or report that no accumulator holds: a count is at most the number of micro-batches held,
    /// which must fit its bits and be counted under scales. What the device reports. Nothing is then changed.
    pub fn set_state(&mut self, state: &State) -> Result<()> {
        length("tensors", self.tensors.len(), state.tensors.len())?;
        length("reports", self.tensors.len(), state.reports.len())?;
        if !state.weights.is_finite() {
            return Err(Error::Parameter { name: "sum of weights", got: state.weights, requirement: "finite" });
        }
        let limit = self.level_limit(state.held)?;
        for ((report, tensor), spec) in state.reports.iter().zip(&self.tensors).zip(&self.specs) {
            report.validate(tensor.len).map_err(|e| e.in_tensor(&*spec.name))?;
        }
        let mut new = Vec::with_capacity(self.tensors.len());
        for ((tensor, from), spec) in self.tensors.iter().zip(&state.tensors).zip(&self.specs) {
            let made = self
                .validate_tensor(tensor, from, state.held, limit)
                .and_then(|()| self.upload_tensor(tensor.len, from));
            new.push(made.map_err(|e| e.in_tensor(&*spec.name))?);
        }
        let reports = self.backend.reports(self.tensors.len())?;
        self.tensors = new;
        self.reports = reports;
        self.merged.clone_from(&state.reports);
        self.window = Window {
            step: state.step,
            micro_batch: state.micro_batch,
            held: state.held,
            weights: state.weights,
            refused: None,
        };
        Ok(())
    }

    /// The largest level or count there can be with so many micro-batches held.
    fn level_limit(&self, held: u32) -> Result<u32> {
        match self.config.format {
            Format::Adaptive { bits } => Ok(level_max(bits)),
            Format::Exact { bits, .. } => counts_fit(bits, u64::from(held)).map(|()| held),
        }
    }

    fn validate_tensor(&self, tensor: &super::Tensor<B>, from: &TensorState, held: u32, limit: u32) -> Result<()> {
        let (bits, n) = (self.config.bits(), tensor.len);
        let blocks = self.config.block.blocks(n);
        length("levels", words(n, bits), from.levels.len())?;
        length("scales", blocks, from.scales.len())?;
        let seen = if tensor.seen.is_some() { blocks } else { 0 };
        length("seen", seen, from.seen.as_ref().map_or(0, Vec::len))?;
        from.scales.iter().chain(from.seen.iter().flatten()).try_for_each(|s| scale_in_range(*s))?;
        if tensor.seen.is_some() && held > 0 && !from.scaled {
            return Err(Error::Limit { what: "micro-batches counted before scales", got: u64::from(held), limit: 0 });
        }
        if bits == 2 {
            valid_planes(&from.levels)?;
        }
        for i in 0..from.levels.len() * 32 / bits as usize {
            let got = level(&from.levels, bits, i).unsigned_abs();
            let limit = if i < n { limit } else { 0 };
            if got > limit {
                return Err(Error::Limit { what: "level", got: u64::from(got), limit: u64::from(limit) });
            }
        }
        Ok(())
    }

    fn upload_tensor(&self, len: usize, from: &TensorState) -> Result<super::Tensor<B>> {
        Ok(super::Tensor {
            len,
            levels: self.backend.upload(&from.levels)?,
            scales: self.backend.upload(&from.scales)?,
            seen: from.seen.as_ref().map(|s| self.backend.upload(s)).transpose()?,
            scaled: from.scaled,
        })
    }
}

/// Checks that no pair of planes has both bits of a level set: it would be read as 0, and be no code for it.
fn valid_planes(planes: &[u32]) -> Result<()> {
    let both = || planes.as_chunks::<2>().0.iter().map(|[plus, minus]| plus & minus);
    match both().position(|b| b != 0).zip(both().find(|b| *b != 0)) {
        Some((pair, b)) => Err(Error::InvalidTrits {
            count: both().map(|b| u64::from(b.count_ones())).sum(),
            first: (GROUP * pair) as u64 + u64::from(b.trailing_zeros()),
        }),
        None => Ok(()),
    }
}
