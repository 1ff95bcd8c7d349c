//! The executable specification: every bit this library produces, as plain Rust.
//!
//! Pure functions over integers and IEEE-754 `f32`, with no dependency, no `unsafe` and no state, written to be
//! read rather than to be fast. `NUMERICS.md` tells the same story in prose; the CPU, CUDA and WGSL code is held
//! to these functions bit for bit (determinism level: *cross-backend*).
//!
//! | module | what it defines |
//! |---|---|
//! | [`constants`] | the numbers shared by Rust, CUDA and WGSL |
//! | [`philox`] | the counter-based generator Philox4x32 |
//! | [`draw`] | from a counter to one 23-bit draw for each of 32 elements |
//! | [`float`](mod@float) | magnitudes and conversions between f32, f16 and bf16, as bit operations |
//! | [`scale`] | block scales: bf16, rounded up |
//! | [`trit`] | the stochastic decision and the threshold decision |
//! | [`threshold`] | integer sums, mean magnitudes, least-squares magnitudes, clipping at c sigma |
//! | [`level`] | adaptive accumulation and exact counts |
//! | [`moments`] | the moments of AdamW in 8 bits |
//! | [`pack`] | planes, 2-bit fields, level fields |
//! | [`reduce`] | exact dot products and norms |
//! | [`state`] | a training's state on the device: norm, clipping, skips, loss scale |
//! | [`update`] | SGD and AdamW, bf16 weights rounded stochastically |
//!
//! Every function is total: outside the domain that its documentation names the result means nothing, but nothing
//! panics and no memory outside a slice is touched (`tests/cpu/numerics_total.rs`).
//!
//! # Examples
//!
//! Replaying one element by hand:
//!
//! ```
//! use trigrad::numerics::{draw::{draws, Position}, float::magnitude, scale::round_up_to_bf16, trit::keep};
//! let block = [0.5f32, -1.0, 0.25, 3.0];
//! let max = block.iter().map(|x| magnitude(x.to_bits())).max().unwrap();
//! let scale = round_up_to_bf16(max);
//! let at = Position { seed: 7, step: 1, micro_batch: 0, tensor: 0, domain: 0 };
//! let k = draws(&at, 0); // element group 0: elements 0 to 31
//! let trits: Vec<i8> = block.iter().zip(k).map(|(x, k)| {
//!     let sign = if x.is_sign_negative() { -1 } else { 1 };
//!     sign * i8::from(keep(magnitude(x.to_bits()), scale, k))
//! }).collect();
//! assert_eq!(trits[3], 1); // the block maximum is always kept
//! ```

pub mod constants;
pub mod draw;
pub mod float;
pub mod level;
pub mod moments;
pub mod pack;
pub mod philox;
pub mod reduce;
pub mod scale;
pub mod state;
pub mod threshold;
pub mod trit;
pub mod update;
