//! The run-time choice of a backend: one enum over the backends that were compiled in, itself a backend. It matches,
//! unwraps and calls, and has no logic of its own; a buffer, view or report of another device is
//! [`crate::Error::WrongDevice`].
//!
//! # Examples
//!
//! ```
//! use trigrad::backend::Memory;
//! use trigrad::device::Device;
//! let device = Device::from(trigrad::cpu::Cpu::default());
//! let buffer = device.upload(&[1.0f32, 2.0])?;
//! assert_eq!(device.download(Device::view(&buffer))?, [1.0, 2.0]);
//! # Ok::<(), trigrad::Error>(())
//! ```

mod arm;
mod memory;
mod operations;

use crate::cpu::Cpu;
#[cfg(feature = "cuda-kernels")]
use crate::cuda::Cuda;
use crate::memory::Memory;
#[cfg(feature = "wgpu")]
use crate::webgpu::Wgpu;
use bytemuck::Pod;

/// A device chosen at run time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Device {
    /// The CPU.
    Cpu(Cpu),
    /// An NVIDIA card.
    #[cfg(feature = "cuda-kernels")]
    Cuda(Cuda),
    /// Any GPU, through wgpu.
    #[cfg(feature = "wgpu")]
    Wgpu(Wgpu),
}

/// An owned buffer on a [`Device`].
#[non_exhaustive]
pub enum Buffer<T: Pod + Send + Sync> {
    /// In CPU memory.
    Cpu(<Cpu as Memory>::Buffer<T>),
    /// On an NVIDIA card.
    #[cfg(feature = "cuda-kernels")]
    Cuda(<Cuda as Memory>::Buffer<T>),
    /// In a wgpu buffer.
    #[cfg(feature = "wgpu")]
    Wgpu(<Wgpu as Memory>::Buffer<T>),
}

/// A borrowed buffer on a [`Device`].
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum View<'a, T: Pod + Send + Sync> {
    /// In CPU memory.
    Cpu(<Cpu as Memory>::View<'a, T>),
    /// On an NVIDIA card.
    #[cfg(feature = "cuda-kernels")]
    Cuda(<Cuda as Memory>::View<'a, T>),
    /// In a wgpu buffer.
    #[cfg(feature = "wgpu")]
    Wgpu(<Wgpu as Memory>::View<'a, T>),
}

/// A mutably borrowed buffer on a [`Device`].
#[non_exhaustive]
pub enum ViewMut<'a, T: Pod + Send + Sync> {
    /// In CPU memory.
    Cpu(<Cpu as Memory>::ViewMut<'a, T>),
    /// On an NVIDIA card.
    #[cfg(feature = "cuda-kernels")]
    Cuda(<Cuda as Memory>::ViewMut<'a, T>),
    /// In a wgpu buffer.
    #[cfg(feature = "wgpu")]
    Wgpu(<Wgpu as Memory>::ViewMut<'a, T>),
}

/// Reports on a [`Device`].
#[non_exhaustive]
pub enum Reports {
    /// In CPU memory.
    Cpu(<Cpu as Memory>::Reports),
    /// On an NVIDIA card.
    #[cfg(feature = "cuda-kernels")]
    Cuda(<Cuda as Memory>::Reports),
    /// In a wgpu buffer.
    #[cfg(feature = "wgpu")]
    Wgpu(<Wgpu as Memory>::Reports),
}

#[cfg(feature = "wgpu")]
impl Device {
    /// The fastest GPU that wgpu finds here, or the one that `TRIGRAD_WGPU_ADAPTER` names; its `name` says which.
    ///
    /// # Errors
    ///
    /// [`crate::Error::NoDevice`] where there is none; it lists the adapters there are.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use trigrad::{backend::Memory, device::Device};
    /// println!("{}", Device::wgpu()?.name()); // wgpu: NVIDIA H200 (Vulkan)
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn wgpu() -> crate::Result<Self> {
        Wgpu::new().map(Device::Wgpu)
    }
}

impl Default for Device {
    /// The CPU.
    fn default() -> Self {
        Device::Cpu(Cpu::default())
    }
}

impl<'a, T: Pod + Send + Sync> From<&'a [T]> for View<'a, T> {
    fn from(slice: &'a [T]) -> Self {
        View::Cpu(slice)
    }
}

impl<'a, T: Pod + Send + Sync> From<&'a mut [T]> for ViewMut<'a, T> {
    fn from(slice: &'a mut [T]) -> Self {
        ViewMut::Cpu(slice)
    }
}
