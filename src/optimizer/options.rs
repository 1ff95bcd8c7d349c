//! What a model's gradients are held with.

use super::LossScale;
use crate::accumulator::{Config, Format, NonFinite};
use crate::error::{Error, Result};
use crate::numerics::constants::domain;
use crate::op::accumulate::{ADAPTIVE_BITS, bits_among};

/// Choices of [`super::ModelGradients`].
///
/// # Examples
///
/// ```
/// use trigrad::accumulator::{Config, Format};
/// use trigrad::optimizer::{LossScale, Options};
/// let options = Options {
///     config: Config { format: Format::Adaptive { bits: 4 }, seed: 7, ..Config::default() },
///     keep_f32: vec!["norm".into(), "embedding".into()],
///     clip_norm: Some(1.0),
///     loss_scale: LossScale::dynamic(65536.0),
///     ..Options::default()
/// };
/// assert_eq!(options.small, 1024);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Width, block, seed, and what happens to NaN and Inf.
    pub config: Config,
    /// Tensors of fewer elements than this stay in f32: biases and norms, which cost next to nothing. 1024 unless
    /// chosen; 0 holds everything packed.
    pub small: usize,
    /// Tensors whose name contains any of these stay in f32.
    pub keep_f32: Vec<String>,
    /// The global norm of the mean gradient is cut to this.
    pub clip_norm: Option<f64>,
    /// What the loss is multiplied by.
    pub loss_scale: LossScale,
    /// Error feedback: what rounding lost is kept in so many bits (4 or 8) and added to the next micro-batch.
    /// Adaptive formats only. Rounding is unbiased without it; what it buys at 4 bits is less noise. Not for 2 bits: what
    /// rounding to three values loses is as large as the sum, and fed back it adds noise (the guide has the figures).
    pub residual_bits: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            config: Config::default(),
            small: 1024,
            keep_f32: Vec::new(),
            clip_norm: None,
            loss_scale: LossScale::none(),
            residual_bits: None,
        }
    }
}

impl Options {
    /// Checks the choices.
    ///
    /// # Errors
    ///
    /// What [`Config::validate`] says; [`Error::BitWidth`] for a residual of other than 4 or 8 bits;
    /// [`Error::Parameter`] for a norm or loss scale that is not finite and above 0, or a residual beside exact counts.
    pub fn validate(&self) -> Result<()> {
        self.config.validate()?;
        self.loss_scale.validate()?;
        if let Some(norm) = self.clip_norm
            && !(norm.is_finite() && norm > 0.0)
        {
            return Err(Error::Parameter { name: "clip norm", got: norm, requirement: "finite and above 0" });
        }
        if let Some(bits) = self.residual_bits {
            bits_among(bits, &ADAPTIVE_BITS[1..])?;
            if let Format::Exact { .. } = self.config.format {
                let requirement = "none beside exact counts";
                return Err(Error::Parameter { name: "residual bits", got: f64::from(bits), requirement });
            }
        }
        Ok(())
    }

    pub(super) fn keeps_f32(&self, name: &str, elements: usize) -> bool {
        elements < self.small || self.keep_f32.iter().any(|part| name.contains(part.as_str()))
    }

    /// The residual's own seed keeps its draws apart from those of the levels.
    pub(super) fn residual_config(&self) -> Option<Config> {
        let seed = self.config.seed ^ (u64::from(domain::RESIDUAL) << 62);
        self.residual_bits.map(|bits| Config {
            format: Format::Adaptive { bits },
            seed,
            non_finite: NonFinite::Zero,
            ..self.config
        })
    }
}
