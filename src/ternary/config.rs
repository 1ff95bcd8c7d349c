//! The configuration of the ternary accumulator.

use serde::{Deserialize, Serialize};

/// Choices of a [`super::TernaryGradientAccumulator`].
///
/// # Examples
///
/// ```
/// use trigrad::TernaryConfig;
/// let config = TernaryConfig::default().with_accumulation_steps(4).with_stochastic_rounding(true);
/// assert_eq!(config.accumulation_steps, 4);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TernaryConfig {
    /// Micro-batches before an update, at least 1.
    pub accumulation_steps: usize,
    /// Threshold relative to the mean magnitude of each block; used without stochastic rounding only.
    pub ternary_threshold: f32,
    /// Kept so that programs and files that name it still work. No scale is learned: each comes from the data.
    pub scale_learning_rate: f32,
    /// Stochastic rounding, unbiased, which uses no threshold; or the threshold.
    pub use_stochastic_rounding: bool,
}

impl Default for TernaryConfig {
    /// 8 micro-batches, threshold 0.5, scale learning rate 0.01, stochastic rounding.
    fn default() -> Self {
        TernaryConfig {
            accumulation_steps: 8,
            ternary_threshold: 0.5,
            scale_learning_rate: 0.01,
            use_stochastic_rounding: true,
        }
    }
}

impl TernaryConfig {
    /// Sets the micro-batches before an update.
    #[must_use]
    pub const fn with_accumulation_steps(mut self, steps: usize) -> Self {
        self.accumulation_steps = steps;
        self
    }

    /// Sets stochastic rounding, or the threshold.
    #[must_use]
    pub const fn with_stochastic_rounding(mut self, stochastic: bool) -> Self {
        self.use_stochastic_rounding = stochastic;
        self
    }

    /// Sets the threshold, relative to the mean magnitude.
    #[must_use]
    pub const fn with_threshold(mut self, threshold: f32) -> Self {
        self.ternary_threshold = threshold;
        self
    }
}
