//! What an accumulator is made from: its tensors and its choices.

use crate::error::{Error, Result};
use crate::numerics::constants::ELEMENTS_MAX;
use crate::op::BlockSize;
use crate::op::accumulate::{ADAPTIVE_BITS, EXACT_BITS, WindowScales, bits_among};

/// A tensor of the model: its name and shape. Its place in the list is its number, which keys its draws.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The name.
    pub name: String,
    /// The shape; the product is the number of elements.
    pub shape: Vec<usize>,
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
        Spec { name: name.into(), shape: shape.into() }
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

/// How the sum of a window is held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    /// Levels under block scales that follow the sum, rounded stochastically: unbiased at any number of
    /// micro-batches, one pass.
    Adaptive {
        /// Bits a level: 2, 4 or 8.
        bits: u32,
    },
    /// Integer counts of trits under block scales fixed for the window: sums merge in any order with the same bits.
    Exact {
        /// Bits a count: 4, 8 or 16, enough for 7, 127 or 32767 micro-batches in a window.
        bits: u32,
        /// Where the scales come from.
        scales: Scales,
    },
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
    /// From the largest magnitudes of the window before. The first window takes a first look.
    LastWindow {
        /// What the magnitudes are multiplied by; 1.5 leaves room for growth.
        headroom: f32,
    },
    /// From the first micro-batch of each window, read once more before it is added.
    FirstLook {
        /// What the magnitudes are multiplied by; 2 or more leaves room for the micro-batches that follow.
        headroom: f32,
    },
}

impl Scales {
    pub(crate) fn headroom(self) -> Option<f32> {
        match self {
            Scales::Given => None,
            Scales::LastWindow { headroom } | Scales::FirstLook { headroom } => Some(headroom),
        }
    }
}

/// What happens to NaN, Inf and magnitudes of 2^126 and above in a gradient. Never silence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NonFinite {
    /// Look first, and refuse the whole micro-batch with an error: one more read and one wait, state untouched.
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
    /// How the sum is held.
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
    /// [`Error::BitWidth`], or [`Error::Parameter`] for a headroom that is not finite and above 0.
    pub fn validate(&self) -> Result<()> {
        match self.format {
            Format::Adaptive { bits } => bits_among(bits, ADAPTIVE_BITS),
            Format::Exact { bits, scales } => {
                bits_among(bits, EXACT_BITS)?;
                scales.headroom().map_or(Ok(()), |headroom| WindowScales { headroom }.validate(0, 0))
            }
        }
    }

    /// Bits a level or count.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        match self.format {
            Format::Adaptive { bits } | Format::Exact { bits, .. } => bits,
        }
    }
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
