//! The optimizer wrapper of the seed API.

use super::{TernaryConfig, TernaryGradientAccumulator};
use crate::error::Result;
use candle_core::{Device, Tensor};
use std::collections::HashMap;

/// Counts micro-batches, and says when the accumulated gradients are due.
///
/// # Examples
///
/// ```
/// use candle_core::{Device, Tensor};
/// use std::collections::HashMap;
/// use trigrad::{TernaryConfig, TernaryOptimizerWrapper};
///
/// let config = TernaryConfig::default().with_accumulation_steps(2);
/// let mut wrapper = TernaryOptimizerWrapper::new(&[("w".to_string(), vec![4])], config, &Device::Cpu)?;
/// let gradients = HashMap::from([("w".to_string(), Tensor::ones(4, candle_core::DType::F32, &Device::Cpu)?)]);
/// assert!(!wrapper.step(&gradients)?);
/// assert!(wrapper.step(&gradients)?);
/// assert_eq!(wrapper.get_gradients_for_update()?["w"].to_vec1::<f32>()?, [1.0; 4]);
/// assert_eq!(wrapper.update_count(), 1);
/// # Ok::<(), trigrad::Error>(())
/// ```
pub struct TernaryOptimizerWrapper {
    config: TernaryConfig,
    accumulator: TernaryGradientAccumulator,
    step_count: usize,
    update_count: usize,
    /// Whether what is held belongs to a count that was thrown away.
    stale: bool,
}

impl TernaryOptimizerWrapper {
    /// A wrapper with an empty accumulator.
    ///
    /// # Errors
    ///
    /// As for [`TernaryGradientAccumulator::new`].
    pub fn new(param_shapes: &[(String, Vec<usize>)], config: TernaryConfig, device: &Device) -> Result<Self> {
        let accumulator = TernaryGradientAccumulator::new(param_shapes, config.clone(), device)?;
        Ok(TernaryOptimizerWrapper { config, accumulator, step_count: 0, update_count: 0, stale: false })
    }

    /// Adds the gradients of one micro-batch; whether an update is due, which is so at every multiple of
    /// `accumulation_steps`.
    ///
    /// # Errors
    ///
    /// As for [`TernaryGradientAccumulator::accumulate`]; the counts are then as they were.
    pub fn step(&mut self, gradients: &HashMap<String, Tensor>) -> Result<bool> {
        self.freshen()?;
        self.accumulator.accumulate(gradients)?;
        self.step_count = self.step_count.wrapping_add(1);
        Ok(self.step_count.is_multiple_of(self.config.accumulation_steps))
    }

    /// The mean of the gradients since the last update; empties the accumulator and counts an update.
    ///
    /// # Errors
    ///
    /// As for [`TernaryGradientAccumulator::get_accumulated`]; nothing is then emptied or counted. In particular, where
    /// a sum came to 2^126 and above, this fails however often it is called, and [`step`](Self::step) goes on adding to
    /// what can not be read. `wrapper.load_state(wrapper.step_count(), wrapper.update_count())` drops it and keeps the
    /// counts; [`reset_state`](Self::reset_state) drops it and counts from 0.
    pub fn get_gradients_for_update(&mut self) -> Result<HashMap<String, Tensor>> {
        self.freshen()?;
        let gradients = self.accumulator.get_accumulated()?;
        self.accumulator.reset()?;
        self.update_count = self.update_count.wrapping_add(1);
        Ok(gradients)
    }

    /// Counts and savings.
    #[must_use]
    pub fn get_stats(&self) -> OptimizerStats {
        OptimizerStats {
            step_count: self.step_count,
            update_count: self.update_count,
            memory_savings: self.accumulator.memory_savings(),
            accumulation_steps: self.config.accumulation_steps,
        }
    }

    /// Micro-batches counted.
    #[must_use]
    pub const fn step_count(&self) -> usize {
        self.step_count
    }

    /// Updates counted.
    #[must_use]
    pub const fn update_count(&self) -> usize {
        self.update_count
    }

    /// Counts from 0 again, and drops what was accumulated, so that the next update is of whole cycles.
    pub const fn reset_state(&mut self) {
        self.load_state(0, 0);
    }

    /// Counts from a checkpoint on, and drops what was accumulated: a checkpoint of counts holds no gradients.
    pub const fn load_state(&mut self, step_count: usize, update_count: usize) {
        self.step_count = step_count;
        self.update_count = update_count;
        self.stale = true;
    }

    fn freshen(&mut self) -> Result<()> {
        if self.stale && self.accumulator.count() > 0 {
            self.accumulator.reset()?;
        }
        self.stale = false;
        Ok(())
    }
}

/// Where an optimizer stands.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerStats {
    /// Micro-batches counted.
    pub step_count: usize,
    /// Updates counted.
    pub update_count: usize,
    /// The share of memory saved against f32, from the bytes held.
    pub memory_savings: f32,
    /// Micro-batches before an update.
    pub accumulation_steps: usize,
}

impl std::fmt::Display for OptimizerStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let saved = self.memory_savings * 100.0;
        write!(f, "Steps: {} | Updates: {} | Memory saved: {saved:.1}%", self.step_count, self.update_count)
    }
}
