//! Ternary gradients: quantize, pack at 2 bits an element and accumulate where they lie.

pub mod accumulator;
pub mod backend;
#[cfg(feature = "candle")]
pub mod candle;
pub mod checkpoint;
pub mod cpu;
#[cfg(feature = "cuda-kernels")]
pub mod cuda;
pub mod device;
pub mod error;
pub mod numerics;
pub mod op;
#[cfg(feature = "candle")]
pub mod optimizer;
#[cfg(feature = "candle")]
pub mod ternary;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "wgpu")]
pub mod webgpu;

pub use error::{Error, Result};

#[cfg(feature = "candle")]
pub use ternary::{
    OptimError, PackedTritVec, TernaryConfig, TernaryGradientAccumulator, TernaryOptimizerWrapper, Trit,
};

#[cfg(feature = "candle")]
#[doc = include_str!("../docs/guide.md")]
pub mod guide {}

/// Where programs written for `vsa-optim-rs` look for [`TernaryConfig`].
#[cfg(feature = "candle")]
pub mod config {
    pub use crate::ternary::TernaryConfig;
}

/// The README's examples, compiled and run.
#[cfg(all(doctest, feature = "candle"))]
#[doc = include_str!("../README.md")]
struct Readme;
