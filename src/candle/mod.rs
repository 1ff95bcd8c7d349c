//! candle tensors in and out. An adapter: tensors become views where they lie, and everything else is done by
//! [`crate::device`], [`crate::accumulator`] and [`crate::training`].
//!
//! Tensors of f32, f16 and bf16 are read in place, on the CPU and on candle's CUDA device, there on candle's own stream;
//! one that is not contiguous is copied to be so first, where it lies. Results are tensors on the same device. What
//! users of `vsa-optim-rs` know is in [`crate::ternary`].
//!
//! # Examples
//!
//! A gradient at 2 bits an element, and back:
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use trigrad::candle::quantize;
//! use trigrad::op::{Draw, quantize::Quantize};
//!
//! let gradient = Tensor::randn(0f32, 1.0, (64, 64), &Device::Cpu)?;
//! let packed = quantize(&gradient, &Quantize::stochastic(Draw::new(7, 0)))?;
//! assert_eq!(packed.bytes_held(), 64 * 64 / 4 + 64 * 64 / 64 * 2);
//! let unbiased = packed.dequantize(DType::F32)?;
//! assert_eq!(unbiased.dims(), [64, 64]);
//! # Ok::<(), trigrad::Error>(())
//! ```

mod accumulated;
mod accumulator;
mod apart;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod fused;
mod in_place;
mod layout;
mod model;
mod parts;
pub mod release;
mod segments;
pub(crate) mod storage;
mod tensor;
#[cfg(feature = "wgpu")]
mod wgpu;

pub use accumulated::{Accumulated, AccumulatedConfig};
pub use accumulator::{GradientAccumulator, Gradients};
pub use fused::FusedOptimizer;
pub use model::ModelGradients;
pub use segments::Activations;
pub use storage::device;
pub use tensor::{TernaryTensor, quantize, quantize_all};

/// Tensors by their places.
type Tensors = std::collections::BTreeMap<usize, candle_core::Tensor>;
