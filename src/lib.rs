//! Gradients in a few bits: quantized, packed and accumulated where they lie (CPU, CUDA, wgpu), and from there straight
//! into the weight update. Same input, seed and step give the same bits on every backend.
//!
//! # Which type to take
//!
//! | you have | take |
//! |---|---|
//! | a candle model | `candle::ModelGradients` with a `candle::FusedOptimizer` |
//! | a candle training loop that should change by one line | `candle::Accumulated`, behind candle's own `Optimizer` trait |
//! | buffers of your own, and weights to train | [`training::Training`] with a [`training::Optimizer`], on any [`Backend`] |
//! | buffers of your own, and only a sum to hold | [`accumulator::Accumulator`] |
//! | one operation | the methods of [`Backend`], on [`cpu::Cpu`], `cuda::Cuda`, `webgpu::Wgpu` or [`device::Device`] |
//! | a program written for vsa-optim-rs | the names at the root and in `ternary` |

pub mod accumulator;
#[cfg(feature = "candle")]
pub mod candle;
pub mod checkpoint;
pub mod cpu;
#[cfg(feature = "cuda-kernels")]
pub mod cuda;
pub mod device;
pub mod error;
pub mod memory;
pub mod numerics;
pub mod op;
#[cfg(feature = "candle")]
#[deprecated(since = "0.2.0", note = "its types are in `trigrad::training` and `trigrad::candle`")]
pub mod optimizer;
#[cfg(feature = "candle")]
pub mod ternary;
#[cfg(feature = "testing")]
pub mod testing;
pub mod training;
pub mod types;
#[cfg(feature = "wgpu")]
pub mod webgpu;

pub use error::{Error, Result};
pub use memory::Memory;
pub use op::Backend;

#[cfg(feature = "candle")]
pub use ternary::{
    OptimError, PackedTritVec, TernaryConfig, TernaryGradientAccumulator, TernaryOptimizerWrapper, Trit,
};

#[cfg(feature = "candle")]
#[doc = include_str!("../docs/guide.md")]
pub mod guide {}

/// Where [`Memory`] and [`Backend`] were in version 0.1.0.
#[deprecated(since = "0.2.0", note = "they are at the root of the crate: `trigrad::{Backend, Memory}`")]
pub mod backend {
    pub use crate::memory::Memory;
    pub use crate::op::Backend;
}

/// Where programs written for `vsa-optim-rs` look for [`TernaryConfig`].
#[cfg(feature = "candle")]
pub mod config {
    pub use crate::ternary::TernaryConfig;
}

/// The README's examples, compiled and run.
#[cfg(all(doctest, feature = "candle"))]
#[doc = include_str!("../README.md")]
struct Readme;
