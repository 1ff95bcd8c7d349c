//! The choices of a training.

use super::LossScale;
use crate::accumulator::{Config, Format, Spec};
use crate::error::{Error, Result};
use crate::op::accumulate::{ADAPTIVE_BITS, bits_among};

/// Choices of a [`Training`](super::Training).
///
/// # Examples
///
/// ```
/// use trigrad::accumulator::{Config, Format};
/// use trigrad::training::{LossScale, Missing, Options};
/// let options = Options {
///     config: Config { format: Format::Adaptive { bits: 4 }, seed: 7, ..Config::default() },
///     keep_f32: vec!["norm".into(), "embedding".into()],
///     clip_norm: Some(1.0),
///     loss_scale: LossScale::dynamic(65536.0).growth_interval(500),
///     missing: Missing::Leave,
///     ..Options::default()
/// };
/// assert_eq!(options.small, 1024);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Width, block, seed, and what happens to NaN and Inf.
    pub config: Config,
    /// Tensors of fewer elements than this are kept wide: biases and norms, which cost next to nothing. 1024 unless
    /// chosen; 0 holds everything packed. Wide is [`Format::F32`] beside adaptive levels, and counts of 32 bits, whose
    /// sums do not depend on the order either, beside exact counts.
    pub small: usize,
    /// Tensors whose name contains any of these are kept wide. A part that no name contains is an error.
    pub keep_f32: Vec<String>,
    /// How the sums of tensors are held whose name contains the part beside the format: the first part that a name contains
    /// decides, before `small` and `keep_f32`. A part that no name contains is an error.
    pub formats: Vec<(String, Format)>,
    /// Variables whose name contains any of these are no tensors of the training at all: integer buffers, statistics
    /// that the model itself moves, frozen layers. A part that no name contains is an error. For models of variables; whoever
    /// gives names and shapes does not name them to begin with.
    pub leave_out: Vec<String>,
    /// What happens to a tensor that no gradient reached.
    pub missing: Missing,
    /// The global norm of the mean gradient is cut to this.
    pub clip_norm: Option<f64>,
    /// What the loss is multiplied by.
    pub loss_scale: LossScale,
    /// Error feedback: what rounding lost is kept in so many bits (4 or 8) and added to the next micro-batch.
    /// Adaptive formats only. Rounding is unbiased without it; what it buys at 4 bits is less noise. Not for 2 bits: what
    /// rounding to three values loses is as large as the sum, and fed back it adds noise (the guide has the figures).
    pub residual_bits: Option<u32>,
    /// Micro-batches of a window, those of all workers, if they are declared: one more is refused
    /// ([`Error::WindowFull`]), fewer may be stepped with, uneven ones are weighted. That exact counts can hold so many is
    /// then checked at the start. [`Options::window`] also chooses the width by it.
    pub micro_batches: Option<u32>,
    /// On a CUDA device of candle's: whether the device's memory pool keeps what is freed for the next allocation, instead
    /// of giving it back to the system at each wait; `cuda::Cuda::keep_freed_memory` says what that means for others, and
    /// how to undo it. On unless chosen otherwise; means nothing elsewhere.
    pub keep_freed_memory: bool,
}

/// What happens to a tensor for which a micro-batch has no gradient: the statistics of a batch norm, an expert that no
/// token chose, a layer without a backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// An error that names them: in most models it is a mistake.
    #[default]
    Error,
    /// Their gradient is 0: the mean is over all micro-batches, and weight decay and momentum go on.
    Zero,
    /// As [`Missing::Zero`] where another micro-batch of the window has a gradient. A tensor that none of them
    /// reached keeps its weights and moments as they are.
    Leave,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            config: Config::default(),
            small: 1024,
            keep_f32: Vec::new(),
            formats: Vec::new(),
            leave_out: Vec::new(),
            missing: Missing::Error,
            clip_norm: None,
            loss_scale: LossScale::none(),
            residual_bits: None,
            micro_batches: None,
            keep_freed_memory: true,
        }
    }
}

impl Options {
    /// Checks the choices.
    ///
    /// # Errors
    ///
    /// What [`Config::validate`] says; [`Error::BitWidth`] for a residual of other than 4 or 8 bits;
    /// [`Error::Parameter`] for a norm or loss scale that is not finite and above 0, and for a window of no micro-batches;
    /// [`Error::Limit`] for more of them than exact counts can hold; [`Error::Conflict`] for a residual
    /// beside a format that is not adaptive.
    pub fn validate(&self) -> Result<()> {
        self.config.validate()?;
        self.window_fits(self.config.format)?;
        self.loss_scale.validate()?;
        if let Some(norm) = self.clip_norm
            && !(norm.is_finite() && norm > 0.0)
        {
            return Err(Error::Parameter { name: "clip norm", got: norm, requirement: "finite and above 0" });
        }
        let Some(bits) = self.residual_bits else { return Ok(()) };
        bits_among(bits, &ADAPTIVE_BITS[1..])?;
        let with = match self.config.format {
            Format::Adaptive { .. } => return Ok(()),
            Format::Exact { .. } => "exact counts",
            Format::F32 => "sums in f32",
        };
        let advice = "they lose nothing that could be fed back; leave residual_bits None, or use an adaptive format";
        Err(Error::Conflict { what: "error feedback (residual_bits)", with, advice })
    }

    /// The tensors, each with the format it is held in.
    pub(super) fn formats(&self, tensors: &[Spec]) -> Result<Vec<Spec>> {
        let names = || tensors.iter().map(|s| s.name.as_str());
        all_match("keep_f32", &self.keep_f32, names())?;
        for (part, _) in &self.formats {
            all_match("formats", std::slice::from_ref(part), names())?;
        }
        let wide = match self.config.format {
            Format::Adaptive { .. } | Format::F32 => Format::F32,
            Format::Exact { scales, .. } => Format::Exact { bits: 32, scales },
        };
        let of = |spec: &Spec| {
            let keep = spec.elements()? < self.small || contains_any(&spec.name, &self.keep_f32);
            let named = self.formats.iter().find(|(part, _)| spec.name.contains(part.as_str()));
            let format = spec.format.or(named.map(|(_, format)| *format)).or(keep.then_some(wide));
            if let Some(format) = format {
                self.window_fits(format).map_err(|e| e.in_tensor(&*spec.name))?;
            }
            Ok(Spec { format, ..spec.clone() })
        };
        tensors.iter().map(of).collect()
    }
}

/// Whether a name contains any of the parts.
pub(crate) fn contains_any(name: &str, parts: &[String]) -> bool {
    parts.iter().any(|part| name.contains(part.as_str()))
}

/// Checks that every part is contained in some name.
pub(crate) fn all_match<'n>(
    option: &'static str,
    parts: &[String],
    names: impl Iterator<Item = &'n str> + Clone,
) -> Result<()> {
    for part in parts {
        if !names.clone().any(|name| name.contains(part.as_str())) {
            return Err(Error::NothingMatches { option, rule: part.clone(), tensors: names.count() });
        }
    }
    Ok(())
}
