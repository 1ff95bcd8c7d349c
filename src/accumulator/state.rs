//! Everything an accumulator holds, in host memory: what a checkpoint is made of.

use super::accumulate::scale_in_range;
use super::tensor::{Sum, Tensor};
use super::{Accumulator, Format, Scales, Window};
use crate::error::{Error, Result};
use crate::numerics::constants::{GROUP, MICRO_BATCHES_MAX, RANGE_LIMIT, ZERO_LIMIT};
use crate::numerics::float::magnitude;
use crate::numerics::level::{FINE_LEVELS, level_max};
use crate::numerics::pack::{level, words};
use crate::numerics::scale::level_scale;
use crate::op::accumulate::counts_fit;
use crate::op::{Backend, BlockSize, Report, length};

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
#[derive(Clone, Debug, PartialEq)]
pub enum TensorState {
    /// Levels or counts.
    Levels {
        /// Levels or counts.
        levels: Vec<u32>,
        /// bf16 scales.
        scales: Vec<u16>,
        /// bf16 maxima of the window: exact counts only.
        seen: Option<Vec<u16>>,
        /// Whether any scale may be other than 0, being given or found: exact counts only.
        scaled: bool,
    },
    /// Floats.
    F32(Vec<f32>),
}

impl<B: Backend> Accumulator<B> {
    /// The state, in host memory; waits for the device.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]; [`Error::Limit`] for a micro-batch index that was set past its limit, which
    /// [`set_state`](Self::set_state) would refuse; what the device reports.
    pub fn state(&self) -> Result<State> {
        self.usable()?;
        index_in_range(self.window.micro_batch)?;
        let tensor = |t: &Tensor<B>| {
            Ok(match &t.sum {
                Sum::Adaptive { levels, scales } => TensorState::Levels {
                    levels: self.backend.download(B::view(levels))?,
                    scales: self.backend.download(B::view(scales))?,
                    seen: None,
                    scaled: false,
                },
                Sum::Exact { counts, scales, seen, scaled } => TensorState::Levels {
                    levels: self.backend.download(B::view(counts))?,
                    scales: self.backend.download(B::view(scales))?,
                    seen: Some(self.backend.download(B::view(seen))?),
                    scaled: *scaled,
                },
                Sum::F32(sum) => TensorState::F32(self.backend.download(B::view(sum))?),
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
    /// [`Error::Length`] where lengths differ and [`Error::StateFormat`] where formats do; [`Error::Parameter`],
    /// [`Error::Limit`], [`Error::ImpossibleLevel`], [`Error::ImpossibleReport`], [`Error::NoScales`] or
    /// [`Error::InvalidTrits`] for a number, level, scale, sum or report that no accumulator holds: a count is at most what
    /// so many micro-batches come to, which must fit its bits and be counted under scales. What the device reports.
    /// Nothing is then changed.
    pub fn set_state(&mut self, state: &State) -> Result<()> {
        length("tensors", self.tensors.len(), state.tensors.len())?;
        length("reports", self.tensors.len(), state.reports.len())?;
        validate_place(state)?;
        for ((report, tensor), spec) in state.reports.iter().zip(&self.tensors).zip(&self.specs) {
            report.validate(tensor.len).map_err(|e| e.in_tensor(&*spec.name))?;
        }
        let mut new = Vec::with_capacity(self.tensors.len());
        for ((tensor, from), spec) in self.tensors.iter().zip(&state.tensors).zip(&self.specs) {
            let made = self.validate_tensor(tensor, from, state.held).and_then(|()| self.upload_tensor(tensor, from));
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
        self.parts = None;
        Ok(())
    }

    fn validate_tensor(&self, tensor: &Tensor<B>, from: &TensorState, held: u32) -> Result<()> {
        let (n, bits) = (tensor.len, tensor.format.bits());
        match (tensor.format, from) {
            (Format::F32, TensorState::F32(sum)) => valid_floats(n, sum),
            (Format::Adaptive { .. }, TensorState::Levels { levels, scales, seen: None, .. }) => {
                length("levels", words(n, bits), levels.len())?;
                length("scales", self.config.block.blocks(n), scales.len())?;
                scales.iter().try_for_each(|s| level_scale_in_range(*s, bits))?;
                if bits == 2 {
                    valid_planes(levels)?;
                }
                valid_levels(n, bits, self.config.block, levels, scales, held, u64::from(level_max(bits)))
            }
            (Format::Exact { scales: from, .. }, TensorState::Levels { levels, scales, seen: Some(seen), scaled }) => {
                length("counts", words(n, bits), levels.len())?;
                length("scales", self.config.block.blocks(n), scales.len())?;
                length("seen", self.config.block.blocks(n), seen.len())?;
                scales.iter().try_for_each(|s| scale_in_range(*s, bits))?;
                seen.iter().try_for_each(|s| seen_in_range(*s))?;
                counts_fit(bits, u64::from(held))?;
                if !*scaled && (scales.iter().any(|s| *s != 0) || from == Scales::Given && held > 0) {
                    let advice = "the state was changed since it was saved; load another";
                    return Err(Error::NoScales { held, advice });
                }
                let limit = u64::from(held) * if bits == 32 { u64::from(FINE_LEVELS) } else { 1 };
                valid_levels(n, bits, self.config.block, levels, scales, held, limit)
            }
            (format, from) => {
                Err(Error::StateFormat { expected: super::config::format_text(format), got: from.kind().to_owned() })
            }
        }
    }

    fn upload_tensor(&self, tensor: &Tensor<B>, from: &TensorState) -> Result<Tensor<B>> {
        let sum = match from {
            TensorState::F32(sum) => Sum::F32(self.backend.upload(sum)?),
            TensorState::Levels { levels, scales, seen, scaled } => {
                let (levels, scales) = (self.backend.upload(levels)?, self.backend.upload(scales)?);
                match seen {
                    None => Sum::Adaptive { levels, scales },
                    Some(seen) => {
                        let seen = self.backend.upload(seen)?;
                        Sum::Exact { counts: levels, scales, seen, scaled: *scaled }
                    }
                }
            }
        };
        Ok(Tensor { len: tensor.len, format: tensor.format, sum })
    }
}

impl TensorState {
    const fn kind(&self) -> &'static str {
        match self {
            TensorState::Levels { seen: None, .. } => "adaptive",
            TensorState::Levels { seen: Some(_), .. } => "exact",
            TensorState::F32(_) => "f32",
        }
    }
}

/// Checks the place in the run: an index that draws can be made under (or one past the last), and a sum that so many
/// weights can come to.
fn validate_place(state: &State) -> Result<()> {
    index_in_range(state.micro_batch)?;
    let most = f64::from(state.held) * f64::from(f32::MAX);
    // A merged window may have counted more than a u32 holds; its weights are still finite.
    if state.weights.is_finite() && (state.weights.abs() <= most || state.held == u32::MAX) {
        return Ok(());
    }
    let requirement = "finite, and at most what so many micro-batches weigh";
    Err(Error::Parameter { name: "sum of weights", got: state.weights, requirement })
}

/// Checks the index of the next micro-batch: the window is full one past the last.
fn index_in_range(next: u32) -> Result<()> {
    if next <= MICRO_BATCHES_MAX {
        return Ok(());
    }
    let (got, limit) = (u64::from(next), u64::from(MICRO_BATCHES_MAX));
    Err(Error::Limit { what: "micro-batch index", got, limit })
}

/// Checks sums held in f32: finite, within the range, and no subnormal or negative zero, which are held as +0.
fn valid_floats(n: usize, sum: &[f32]) -> Result<()> {
    length("sum", n, sum.len())?;
    let legal = |x: &f32| x.to_bits() == 0 || (1..RANGE_LIMIT).contains(&magnitude(x.to_bits()));
    match sum.iter().find(|x| !legal(x)) {
        Some(x) => {
            let requirement = "0 or a normal float below 2^126";
            Err(Error::Parameter { name: "sum in f32", got: f64::from(*x), requirement })
        }
        None => Ok(()),
    }
}

/// Checks that a bf16 can be the scale of a block of adaptive levels: what some sum within the range comes to.
pub(super) fn level_scale_in_range(scale: u16, bits: u32) -> Result<()> {
    let (s, most) = (u32::from(scale) << 16, level_max(bits));
    if s == 0 || (level_scale(ZERO_LIMIT, most)..=level_scale(RANGE_LIMIT - 1, most)).contains(&s) {
        return Ok(());
    }
    let requirement = "0, or what covers a largest sum from 2^-90 to 2^126";
    Err(Error::Parameter { name: "scale", got: f64::from(f32::from_bits(s)), requirement })
}

/// Checks that a bf16 can be the largest magnitude of a block.
fn seen_in_range(seen: u16) -> Result<()> {
    let s = u32::from(seen) << 16;
    if s == 0 || (ZERO_LIMIT..=RANGE_LIMIT).contains(&s) {
        return Ok(());
    }
    let requirement = "0 or from 2^-90 to 2^126";
    Err(Error::Parameter { name: "largest magnitude seen", got: f64::from(f32::from_bits(s)), requirement })
}

/// Checks that levels are within their limit; of 0 under a scale of 0, and past the end of the tensor.
pub(super) fn valid_levels(
    n: usize,
    bits: u32,
    block: BlockSize,
    levels: &[u32],
    scales: &[u16],
    held: u32,
    limit: u64,
) -> Result<()> {
    for i in 0..levels.len() * 32 / bits as usize {
        let got = i64::from(level(levels, bits, i));
        let zero = i >= n || scales.get(i / block.get() as usize).is_none_or(|s| *s == 0);
        let limit = if zero { 0 } else { limit };
        if got.unsigned_abs() > limit {
            return Err(Error::ImpossibleLevel { element: i as u64, got, limit, held });
        }
    }
    Ok(())
}

/// Checks that no pair of planes has both bits of a level set: it would be read as 0, and be no code for it.
pub(super) fn valid_planes(planes: &[u32]) -> Result<()> {
    let both = || planes.as_chunks::<2>().0.iter().map(|[plus, minus]| plus & minus);
    match both().position(|b| b != 0).zip(both().find(|b| *b != 0)) {
        Some((pair, b)) => Err(Error::InvalidTrits {
            count: both().map(|b| u64::from(b.count_ones())).sum(),
            first: (GROUP * pair) as u64 + u64::from(b.trailing_zeros()),
        }),
        None => Ok(()),
    }
}
