//! What users of `vsa-optim-rs` know as its ternary module, under the same names and signatures, with corrected
//! meaning. The native API is [`crate::accumulator`] and [`crate::candle`]: fewer words, explicit seeds, any device.
//!
//! What differs from the original, on purpose:
//!
//! | | there | here |
//! |---|---|---|
//! | stochastic rounding | unseeded | seeded: [`set_seed`], [`TernaryGradientAccumulator::with_seed`] |
//! | magnitude after a threshold | the largest, overshooting | the least-squares one: the mean of what is kept |
//! | scales of an accumulator | one a tensor, averaged | one for each block of 64 elements |
//! | `ternary_threshold` | absolute | times the mean magnitude of the block |
//! | accumulating | f32 inside; mean scale times summed trits | packed; the sum of scale times trit, unbiased |
//! | `memory_savings` | a formula | from the bytes held |
//! | `calculate_memory_savings` of no parameters | NaN or -Inf | 0 |
//! | NaN and Inf | pass through | refused, with the tensor, the count and the first index |
//! | a sum of 2^126 and above | goes on to Inf | can not be read out until it is dropped |
//! | unknown, missing or reshaped tensors | ignored, or an error with part of it added | refused, the state as it was |
//! | gradients of f64 and integers | converted | refused |
//! | an all-zero f16 gradient | an f16 tensor that breaks the sum | f32 zeros, like every other |
//! | 0 accumulation steps, a name given twice | a division by zero, the last one taken | refused at once |
//! | `reset_state`, `load_state` | keep what was accumulated under another count | drop it |
//! | [`OptimError`] | an enum of its own | another name for [`Error`](crate::Error), whose variants it has (below) |
//! | [`PackedTritVec`], [`Trit`] | those of `trit-vsa` | of this crate, with what gradients need (below) |
//!
//! A program that matches on variants of `OptimError` names them anew: `InvalidConfig` is
//! [`Parameter`](crate::Error::Parameter), `ShapeMismatch` is [`Shape`](crate::Error::Shape) within
//! [`InTensor`](crate::Error::InTensor), `DimensionMismatch` is [`Length`](crate::Error::Length), `Tensor` is
//! [`Candle`](crate::Error::Candle). `EmptyInput`, `Compression`, `Prediction` and `Ternary` have no counterpart.
//!
//! Of `trit-vsa`'s vector there are `new`, `from_trits`, `len`, `is_empty`, `get`, `set`, `count_nonzero`, `dot` and
//! `to_i8_vec`. `get` and `set` do not panic past the end, and `dot` returns `Result<i64>`. The two planes are
//! interleaved in one list of words ([`PackedTritVec::words`], [`PackedTritVec::from_words`]) in place of `plus_plane`,
//! `minus_plane`, `from_planes` and `num_words`. There is no `from_i8_slice`, `to_trits` ([`PackedTritVec::iter`]
//! instead), `count_positive`, `count_negative`, `sparsity`, `sum`, `negate`, `negated`, `add_clamped`, nor serde. Of its
//! trit there are `value`, `from_value` (not const), `Neg`, `Display`, `Default`, `From<Trit> for i8` and serde; there
//! is no `is_zero`, `is_positive`, `is_negative`, `to_bits`, `from_bits`, `add_with_carry`, `bind`, `unbind`, `Add`,
//! `Mul`, `TryFrom<i32>` or `From<Trit> for i32`.
//!
//! # Seeds
//!
//! Draws are numbered, not taken from a generator. A process has one seed (0 until [`set_seed`]) and one count of
//! stochastic calls. The `n`-th call of [`ternary_quantize_stochastic`] or [`ternary_quantize_stochastic_packed`]
//! after [`set_seed`] draws at step `n mod 2^32`, micro-batch `n / 2^32` of that seed, so successive calls get
//! different draws, and setting the seed again replays them. Where several threads make such calls, which call is the
//! `n`-th is up to them; [`crate::candle::quantize`] takes the place of its draws as an argument and does not depend
//! on it. An accumulator has a seed of its own: that of `with_seed`, or the process's seed plus `n` times
//! `0x9e3779b97f4a7c15` (modulo 2^64) for the `n`-th made after [`set_seed`], counted from 0. So no two round in step, and
//! a program that makes them in the same order repeats. It keeps its own counts of steps and micro-batches.
//!
//! # Examples
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use std::collections::HashMap;
//! use trigrad::{TernaryConfig, TernaryGradientAccumulator};
//!
//! let shapes = vec![("layer.weight".to_string(), vec![64, 128])];
//! let mut sum = TernaryGradientAccumulator::new(&shapes, TernaryConfig::default(), &Device::Cpu)?;
//! for _ in 0..8 {
//!     let gradient = Tensor::randn(0f32, 1.0, (64, 128), &Device::Cpu)?;
//!     sum.accumulate(&HashMap::from([("layer.weight".to_string(), gradient)]))?;
//! }
//! assert!(sum.ready_for_update() && sum.memory_savings() > 0.9);
//! let mean = sum.get_accumulated()?;
//! # Ok::<(), trigrad::Error>(())
//! ```

mod accumulator;
mod config;
mod optimizer;
mod packed;

pub use crate::error::OptimError;
pub use accumulator::TernaryGradientAccumulator;
pub use config::TernaryConfig;
pub use optimizer::{OptimizerStats, TernaryOptimizerWrapper};
pub use packed::{PackedTritVec, Trit};

use crate::candle::{TernaryTensor, quantize};
use crate::error::Result;
use crate::op::quantize::{Quantize, Threshold};
use crate::op::{Draw, Grouping};
use candle_core::{DType, Tensor};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The process's seed, and what was made of it.
struct Seed {
    seed: u64,
    /// Stochastic calls.
    calls: u64,
    /// Accumulators made.
    objects: u64,
}

static SEED: Mutex<Seed> = Mutex::new(Seed { seed: 0, calls: 0, objects: 0 });

fn seed() -> MutexGuard<'static, Seed> {
    SEED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the seed of the stochastic functions of this module, and of accumulators made from now on; the counts of
/// calls and of accumulators start again at 0. Every accumulator has a seed of its own, by its place in the order in
/// which they are made, unless it is given one ([`TernaryGradientAccumulator::with_seed`]).
///
/// # Examples
///
/// ```
/// use candle_core::{Device, Tensor};
/// use trigrad::ternary::{set_seed, ternary_quantize_stochastic_packed};
/// let x = Tensor::randn(0f32, 1.0, 1000, &Device::Cpu)?;
/// set_seed(7);
/// let (first, _) = ternary_quantize_stochastic_packed(&x, None)?;
/// let (second, _) = ternary_quantize_stochastic_packed(&x, None)?;
/// set_seed(7);
/// let (again, _) = ternary_quantize_stochastic_packed(&x, None)?;
/// assert!(first == again && first != second);
/// # Ok::<(), trigrad::Error>(())
/// ```
pub fn set_seed(new: u64) {
    *seed() = Seed { seed: new, calls: 0, objects: 0 };
}

/// The seed of the next object: the process's own for the first, another for each one after it.
fn next_object() -> u64 {
    let mut state = seed();
    let object = state.objects;
    state.objects = object.wrapping_add(1);
    state.seed.wrapping_add(object.wrapping_mul(0x9e37_79b9_7f4a_7c15)) // 2^64 over the golden ratio
}

/// Where the next stochastic call draws.
fn next_draw() -> Draw {
    let mut state = seed();
    let (seed, call) = (state.seed, state.calls);
    state.calls = call.wrapping_add(1);
    Draw::new(seed, call as u32).micro_batch((call >> 32) as u32 & 0x00ff_ffff)
}

/// Quantizes to trits by stochastic rounding under one scale: `(t, s)` with `t` in {-1, 0, 1}, f32, in the shape of
/// `x`, and `E[s t] = x`. `s` is the largest magnitude rounded up to bf16.
///
/// Stochastic rounding uses no threshold: the second argument is accepted and has no effect. Each call draws anew
/// ([the rule](self#seeds)).
///
/// # Errors
///
/// [`crate::Error::ElementType`] unless `x` is f32, f16 or bf16; [`crate::Error::NonFinite`] for NaN, Inf or 2^126
/// and above.
///
/// # Examples
///
/// ```
/// use candle_core::{Device, Tensor};
/// use trigrad::ternary::ternary_quantize_stochastic;
/// let x = Tensor::new(&[0.5f32, -2.0, 0.0], &Device::Cpu)?;
/// let (t, scale) = ternary_quantize_stochastic(&x, None)?;
/// assert_eq!(scale, 2.0);
/// assert_eq!(t.to_vec1::<f32>()?[1..], [-1.0, 0.0]);
/// # Ok::<(), trigrad::Error>(())
/// ```
pub fn ternary_quantize_stochastic(x: &Tensor, threshold: Option<f32>) -> Result<(Tensor, f32)> {
    let _ = threshold;
    trits_and_scale(&stochastic(x)?)
}

/// Quantizes to trits by a threshold under one scale: `(t, s)` with `t = sign(x)` where `|x|` is above the threshold
/// and 0 elsewhere, f32, in the shape of `x`. `s` is the mean of the magnitudes that were kept, which is the
/// least-squares choice, rounded to bf16.
///
/// The threshold given is absolute; `None` is the mean magnitude.
///
/// # Errors
///
/// As for [`ternary_quantize_stochastic`]; [`crate::Error::Parameter`] for a threshold that is negative or not finite.
///
/// # Examples
///
/// ```
/// use candle_core::{Device, Tensor};
/// use trigrad::ternary::ternary_quantize_deterministic;
/// let x = Tensor::new(&[0.25f32, -2.0, 1.0, 0.0], &Device::Cpu)?;
/// let (t, scale) = ternary_quantize_deterministic(&x, Some(0.5))?;
/// assert_eq!((t.to_vec1::<f32>()?, scale), (vec![0.0, -1.0, 1.0, 0.0], 1.5));
/// # Ok::<(), trigrad::Error>(())
/// ```
pub fn ternary_quantize_deterministic(x: &Tensor, threshold: Option<f32>) -> Result<(Tensor, f32)> {
    let rule = threshold.map_or(Threshold::MEAN_MAGNITUDE, Threshold::Given);
    trits_and_scale(&quantize(x, &Quantize::threshold(rule).grouping(Grouping::Tensor))?)
}

/// The same as [`ternary_quantize_stochastic`], packed at 2 bits an element.
///
/// # Errors
///
/// As for [`ternary_quantize_stochastic`].
pub fn ternary_quantize_stochastic_packed(x: &Tensor, threshold: Option<f32>) -> Result<(PackedTritVec, f32)> {
    let _ = threshold;
    let packed = stochastic(x)?;
    Ok((PackedTritVec::from_words(packed.words_to_vec()?, packed.elem_count())?, scale(&packed)?))
}

fn stochastic(x: &Tensor) -> Result<TernaryTensor> {
    quantize(x, &Quantize::stochastic(next_draw()).grouping(Grouping::Tensor))
}

fn trits_and_scale(packed: &TernaryTensor) -> Result<(Tensor, f32)> {
    Ok((packed.trits(DType::F32)?, scale(packed)?))
}

/// The one scale; 0 for a tensor without elements.
fn scale(packed: &TernaryTensor) -> Result<f32> {
    Ok(packed.scales_to_vec()?.first().map_or(0.0, |s| s.to_f32()))
}

/// The share of memory that trits save against f32: `1 - (2 params + 32 tensors) / (32 params)`, for 2 bits an
/// element and one f32 scale a tensor. 0 where there are no parameters; never NaN.
///
/// What an accumulator really holds is [`TernaryGradientAccumulator::memory_savings`].
///
/// # Examples
///
/// ```
/// use trigrad::ternary::calculate_memory_savings;
/// assert_eq!(calculate_memory_savings(1 << 20, 0), 0.9375);
/// assert_eq!(calculate_memory_savings(0, 0), 0.0);
/// ```
#[must_use]
pub fn calculate_memory_savings(param_count: usize, num_tensors: usize) -> f32 {
    if param_count == 0 {
        return 0.0;
    }
    let full = param_count as f64 * 32.0;
    (1.0 - (param_count as f64 * 2.0 + num_tensors as f64 * 32.0) / full) as f32
}
