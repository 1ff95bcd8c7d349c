//! What an accumulator is made from: its tensors and its choices.

use crate::error::{Error, Result};
use crate::numerics::constants::ELEMENTS_MAX;
use crate::op::BlockSize;
use crate::op::accumulate::{ADAPTIVE_BITS, EXACT_BITS, bits_among, headroom_in_range};

/// A tensor of the model: its name and shape, and how its sum is held. Its place in the list is its number, which keys
/// its draws.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The name.
    pub name: String,
    /// The shape; the product is the number of elements.
    pub shape: Vec<usize>,
    /// How its sum is held; none for [`Config::format`].
    pub format: Option<Format>,
}

impl Spec {
    /// A named shape.
    ///
    /// # Examples
    ///
    /// ```
    /// use trigrad::accumulator::Spec;
    /// assert_eq!(Spec::new("layer.weight", [64, 128]).shape, [64, 128]);
    /// ```
    #[must_use]
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Spec { name: name.into(), shape: shape.into(), format: None }
    }

    /// The same, held in a format of its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use trigrad::accumulator::{Format, Spec};
    /// assert_eq!(Spec::new("layer.bias", [128]).format(Format::F32).format, Some(Format::F32));
    /// ```
    #[must_use]
    pub fn format(self, format: Format) -> Self {
        Spec { format: Some(format), ..self }
    }

    /// The number of elements.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] above 2^37 elements, wrapped with the name.
    pub fn elements(&self) -> Result<usize> {
        let product = self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        match product {
            Some(n) if n <= ELEMENTS_MAX && usize::try_from(n).is_ok() => Ok(n as usize),
            n => Err(Error::Limit { what: "elements in a tensor", got: n.unwrap_or(u64::MAX), limit: ELEMENTS_MAX }
                .in_tensor(&*self.name)),
        }
    }
}

/// How the sum of a window is held. One accumulator holds either adaptive and f32 sums, or exact counts only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    /// Levels under block scales that follow the sum, rounded stochastically: unbiased at any number of
    /// micro-batches, one pass.
    Adaptive {
        /// Bits a level: 2, 4 or 8.
        bits: u32,
    },
    /// Integer counts under block scales fixed for the window: sums merge in any order with the same bits.
    Exact {
        /// Bits a count: 4, 8 or 16 of trits, enough for 7, 127 or 32767 micro-batches in a window; 32 of fine levels,
        /// 2^21 to the scale, enough for 1023: for tensors that are kept wide.
        bits: u32,
        /// Where the scales come from.
        scales: Scales,
    },
    /// Floats of 32 bits: for small tensors beside adaptive ones, such as norms and biases.
    F32,
}

impl Format {
    /// Checks the choices.
    ///
    /// # Errors
    ///
    /// [`Error::BitWidth`], or [`Error::Parameter`] for a headroom that is not finite and above 0.
    pub fn validate(&self) -> Result<()> {
        match *self {
            Format::Adaptive { bits } => bits_among(bits, ADAPTIVE_BITS),
            Format::Exact { bits, scales } => {
                bits_among(bits, EXACT_BITS)?;
                scales.headroom().map_or(Ok(()), headroom_in_range)
            }
            Format::F32 => Ok(()),
        }
    }

    /// Bits an element: of a level, a count or a float.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        match self {
            Format::Adaptive { bits } | Format::Exact { bits, .. } => *bits,
            Format::F32 => 32,
        }
    }

    pub(crate) const fn is_exact(&self) -> bool {
        matches!(self, Format::Exact { .. })
    }
}

impl Default for Format {
    /// Adaptive, 4 bits.
    fn default() -> Self {
        Format::Adaptive { bits: 4 }
    }
}

/// Where the block scales of a window of exact counts come from. What lies above its scale counts as the scale, and
/// is counted as clipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scales {
    /// From the caller, before the first micro-batch ([`super::Accumulator::set_scales`]); kept until set again.
    Given,
    /// From the largest magnitudes of the last window in which the block was seen; a block that never was takes its scale
    /// from the first micro-batch that is not zero there.
    LastWindow {
        /// What the magnitudes are multiplied by; 1.5 leaves room for growth.
        headroom: f32,
    },
    /// In each window from the first micro-batch that is not zero in the block.
    FirstLook {
        /// What the magnitudes are multiplied by; 2 or more leaves room for the micro-batches that follow.
        headroom: f32,
    },
}

impl Scales {
    pub(crate) const fn headroom(self) -> Option<f32> {
        match self {
            Scales::Given => None,
            Scales::LastWindow { headroom } | Scales::FirstLook { headroom } => Some(headroom),
        }
    }
}

/// What happens where a gradient times its weight is NaN, Inf or of 2^126 and above, or a sum would become so. Never
/// silence. A weight of 0 makes 0 of anything, under every policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NonFinite {
    /// Look first, and refuse the whole micro-batch with an error: one more read and one wait, state untouched. A sum
    /// that leaves the range although the gradient does not marks the window, as under `Defer`.
    Reject,
    /// Go on without waiting and mark the window: every read-out is an error until reset. What loss scaling needs.
    #[default]
    Defer,
    /// Such elements add nothing, and are counted ([`super::Accumulator::reports`]).
    Zero,
}

/// The choices of an accumulator. `Config::default()` is 4 bits adaptive in blocks of 64, seed 0, non-finite elements
/// deferred.
///
/// # Examples
///
/// ```
/// use trigrad::accumulator::{Config, Format, NonFinite, Scales};
/// let small = Config { format: Format::Adaptive { bits: 2 }, seed: 7, ..Config::default() };
/// let merges = Config {
///     format: Format::Exact { bits: 8, scales: Scales::FirstLook { headroom: 2.0 } },
///     non_finite: NonFinite::Reject,
///     ..Config::default()
/// };
/// assert_eq!(small.block, merges.block);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Config {
    /// How the sum is held of tensors that name no format of their own ([`Spec::format`]).
    pub format: Format,
    /// Elements that share a scale.
    pub block: BlockSize,
    /// The seed of every draw. A draw depends on the seed, the step, the index of the micro-batch, the tensor's place in
    /// the list and the element's place in the tensor, and on nothing else: two accumulators of the same seed draw the
    /// same numbers for the same tensor of the same micro-batch, so that the errors of their roundings do not average
    /// out. Workers that share a step take indices of their own from one numbering
    /// ([`super::Accumulator::set_micro_batch`]), which also makes the sum the same however the work is split;
    /// accumulators of other models or other sums take another seed.
    pub seed: u64,
    /// What happens to NaN and Inf.
    pub non_finite: NonFinite,
}

impl Config {
    /// Checks the choices.
    ///
    /// # Errors
    ///
    /// What [`Format::validate`] says.
    pub fn validate(&self) -> Result<()> {
        self.format.validate()
    }

    /// Bits an element in the format of tensors that name none of their own.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        self.format.bits()
    }

    /// The format of a tensor: its own, or this one.
    #[must_use]
    pub fn format_of(&self, spec: &Spec) -> Format {
        spec.format.unwrap_or(self.format)
    }
}

/// A format as a checkpoint and messages write it.
pub(crate) fn format_text(format: Format) -> String {
    match format {
        Format::Adaptive { bits } => format!("adaptive {bits}"),
        Format::Exact { bits, scales } => match scales {
            Scales::Given => format!("exact {bits} given"),
            Scales::LastWindow { headroom } => format!("exact {bits} last window {headroom:?}"),
            Scales::FirstLook { headroom } => format!("exact {bits} first look {headroom:?}"),
        },
        Format::F32 => "f32".to_owned(),
    }
}

/// The formats of a list of tensors, each once, in the order in which they first appear.
pub(super) fn formats(specs: &[Spec], config: &Config) -> Result<Vec<Format>> {
    let mut formats: Vec<Format> = Vec::new();
    for spec in specs {
        let format = config.format_of(spec);
        format.validate().map_err(|e| e.in_tensor(&*spec.name))?;
        if formats.first().is_some_and(|first| first.is_exact() != format.is_exact()) {
            let conflict = Error::Conflict {
                what: "exact counts",
                with: "adaptive or f32 sums in one accumulator",
                advice: "hold what is to be kept wide in `Format::Exact { bits: 32, .. }`, or no tensor in exact counts",
            };
            return Err(conflict.in_tensor(&*spec.name));
        }
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    Ok(formats)
}

/// What a read-out gives.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Reduce {
    /// The weighted sum over the micro-batches of the window.
    Sum,
    /// The weighted sum over the sum of the weights.
    #[default]
    Mean,
    /// The weighted sum times this factor: undoes a loss scale, for instance.
    Times(f32),
}
