//! The one place that knows where candle keeps its elements.

use crate::accumulator::Floats;
use crate::device::{Buffer, Device, View};
use crate::error::{Error, Result};
use bytemuck::Pod;
use candle_core::{CpuStorage, DType, Layout, Storage, Tensor, WithDType};

/// The device of this crate that shares a candle device's memory.
///
/// # Errors
///
/// [`Error::NoDevice`] where the feature for it is not compiled in.
pub fn device(device: &candle_core::Device) -> Result<Device> {
    let missing = |backend| Err(Error::NoDevice { backend, reason: format!("built without the feature `{backend}`") });
    match device {
        candle_core::Device::Cpu => Ok(Device::default()),
        candle_core::Device::Cuda(_) => missing("cuda"),
        candle_core::Device::Metal(_) => missing("metal"),
    }
}

/// Calls `f` with the elements of tensors where they lie.
pub(crate) fn with_views<R>(tensors: &[&Tensor], f: impl FnOnce(&[Floats<'_, Device>]) -> Result<R>) -> Result<R> {
    tensors.iter().try_for_each(|t| float(t.dtype()))?;
    let tensors: Vec<Tensor> = tensors.iter().map(|t| t.contiguous()).collect::<candle_core::Result<_>>()?;
    let held: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let views: Vec<_> = held.iter().map(|(storage, layout)| view(storage, layout)).collect::<Result<_>>()?;
    f(&views)
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
        other => {
            float(other.dtype())?;
            let got = format!("{:?}", other.device().location());
            Err(Error::WrongDevice { expected: "a device this build has a backend for".to_owned(), got })
        }
    }
}

fn part<'a, T: Pod + Send + Sync>(x: &'a [T], layout: &Layout) -> Result<View<'a, T>> {
    let part = layout.contiguous_offsets().and_then(|(start, end)| x.get(start..end));
    let got = x.len() as u64;
    part.map(View::from).ok_or(Error::Length { what: "storage", expected: layout.shape().elem_count() as u64, got })
}

/// A tensor of a buffer, without a copy.
pub(crate) fn tensor<T: WithDType + Pod + Send + Sync>(
    buffer: Buffer<T>,
    shape: &[usize],
    device: &candle_core::Device,
) -> Result<Tensor> {
    match buffer {
        Buffer::Cpu(x) => Ok(Tensor::from_vec(x, shape, device)?),
        #[cfg(feature = "wgpu")]
        Buffer::Wgpu(_) => {
            let (expected, got) = ("a device that candle has too".to_owned(), "wgpu".to_owned());
            Err(Error::WrongDevice { expected, got })
        }
    }
}
