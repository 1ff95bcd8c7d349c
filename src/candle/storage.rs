//! The one place that knows where candle keeps its elements.

use super::apart::{inside, outside};
use super::layout::not_contiguous;
use crate::accumulator::Floats;
use crate::device::{Buffer, Device, View};
use crate::error::{Error, Result};
use bytemuck::Pod;
#[cfg(feature = "cuda")]
use candle_core::cuda::CudaDType;
use candle_core::{CpuStorage, DType, Layout, Storage, Tensor, WithDType};

/// An element type that candle's tensors and this crate's buffers share.
#[cfg(not(feature = "cuda"))]
pub(crate) trait Shared: WithDType + Pod + Send + Sync {}
#[cfg(not(feature = "cuda"))]
impl<T: WithDType + Pod + Send + Sync> Shared for T {}

/// An element type that candle's tensors and this crate's buffers share, on the card too.
#[cfg(feature = "cuda")]
pub(crate) trait Shared: WithDType + CudaDType + Pod + Send + Sync {}
#[cfg(feature = "cuda")]
impl<T: WithDType + CudaDType + Pod + Send + Sync> Shared for T {}

/// The device of this crate that shares a candle device's memory: on CUDA its context, and its stream or the one that
/// stands for it, so that the work of both comes in the order in which it was called for.
///
/// # Errors
///
/// [`Error::NoDevice`] where the feature for it is not compiled in, or for a card below compute capability 7.5.
///
/// # Examples
///
/// ```
/// use trigrad::Memory;
/// let device = trigrad::candle::device(&candle_core::Device::Cpu)?;
/// assert!(device.name().starts_with("cpu"));
/// # Ok::<(), trigrad::Error>(())
/// ```
pub fn device(device: &candle_core::Device) -> Result<Device> {
    let missing = |backend| Err(Error::NoDevice { backend, reason: format!("built without the feature `{backend}`") });
    match device {
        candle_core::Device::Cpu => Ok(Device::default()),
        #[cfg(feature = "cuda")]
        candle_core::Device::Cuda(device) => Ok(super::cuda::backend(device)?.into()),
        #[cfg(not(feature = "cuda"))]
        candle_core::Device::Cuda(_) => missing("cuda"),
        #[cfg(feature = "metal")]
        candle_core::Device::Metal(_) => Err(Error::NoDevice {
            backend: "metal",
            reason: "Metal tensors come through `GradientAccumulator::from_varmap_on_wgpu`".to_owned(),
        }),
        #[cfg(not(feature = "metal"))]
        candle_core::Device::Metal(_) => missing("metal"),
    }
}

/// Calls `f` with the elements of tensors where they lie.
pub(crate) fn with_views<R: Send>(
    tensors: &[&Tensor],
    f: impl FnOnce(&[Floats<'_, Device>]) -> Result<R> + Send,
) -> Result<R> {
    tensors.iter().try_for_each(|t| float(t.dtype()))?;
    let tensors: Vec<Tensor> = tensors.iter().map(|t| t.contiguous()).collect::<candle_core::Result<_>>()?;
    let cpu = tensors.first().is_some_and(|t| t.device().is_cpu());
    outside(cpu, || {
        let held: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
        let views: Vec<_> = held.iter().map(|(storage, layout)| view(storage, layout)).collect::<Result<_>>()?;
        inside(cpu, || f(&views))
    })
}

/// Whether elements of a type can be read.
pub(crate) fn float(dtype: DType) -> Result<()> {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => Ok(()),
        other => Err(Error::ElementType { expected: "f32, f16 or bf16", got: other.as_str().to_owned() }),
    }
}

/// The elements of a contiguous tensor.
fn view<'a>(storage: &'a Storage, layout: &Layout) -> Result<Floats<'a, Device>> {
    match storage {
        Storage::Cpu(CpuStorage::F32(x)) => part(x, layout).map(Floats::F32),
        Storage::Cpu(CpuStorage::F16(x)) => part(x, layout).map(Floats::F16),
        Storage::Cpu(CpuStorage::BF16(x)) => part(x, layout).map(Floats::Bf16),
        #[cfg(feature = "cuda")]
        Storage::Cuda(x) => match storage.dtype() {
            DType::F16 => super::cuda::view(x, layout).map(View::Cuda).map(Floats::F16),
            DType::BF16 => super::cuda::view(x, layout).map(View::Cuda).map(Floats::Bf16),
            _ => super::cuda::view(x, layout).map(View::Cuda).map(Floats::F32),
        },
        other => {
            float(other.dtype())?;
            let got = format!("{:?}", other.device().location());
            Err(Error::WrongDevice { expected: "a device this build has a backend for".to_owned(), got })
        }
    }
}

fn part<'a, T: Pod + Send + Sync>(x: &'a [T], layout: &Layout) -> Result<View<'a, T>> {
    let part = layout.contiguous_offsets().and_then(|(start, end)| x.get(start..end));
    part.map(View::from).ok_or_else(|| not_contiguous(layout))
}

/// A tensor of a buffer, without a copy.
pub(crate) fn tensor<T: Shared>(buffer: Buffer<T>, shape: &[usize], device: &candle_core::Device) -> Result<Tensor> {
    match buffer {
        Buffer::Cpu(x) => Ok(Tensor::from_vec(x, shape, device)?),
        #[cfg(feature = "cuda")]
        Buffer::Cuda(x) => super::cuda::tensor(x, shape, device),
        #[cfg(all(feature = "cuda-kernels", not(feature = "cuda")))]
        Buffer::Cuda(_) => Err(without_candle("cuda")),
        #[cfg(feature = "wgpu")]
        Buffer::Wgpu(_) => Err(without_candle("wgpu")),
    }
}

/// A buffer where this build of candle has no tensors.
#[cfg(any(feature = "wgpu", all(feature = "cuda-kernels", not(feature = "cuda"))))]
fn without_candle(got: &str) -> Error {
    Error::WrongDevice { expected: "a device that candle has too".to_owned(), got: got.to_owned() }
}
