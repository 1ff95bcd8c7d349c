//! Tensors on candle's CUDA device: views of its own allocations, on its own stream.

use super::layout::not_contiguous;
use crate::cuda::{Buffer, Cuda, View, ViewMut};
use crate::error::Result;
use crate::memory::Memory;
use bytemuck::Pod;
use candle_core::cuda::CudaDType;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Layout, Storage, Tensor};

/// The backend on candle's stream, in its context: what it allocates candle may free, and nothing needs an event. For
/// the per-thread stream of candle's default device the null stream stands, which the driver orders with it on every
/// thread.
pub(crate) fn backend(device: &CudaDevice) -> Result<Cuda> {
    Cuda::with_stream(device.cuda_stream())
}

/// The elements of a contiguous tensor.
pub(crate) fn view<'a, T: CudaDType + Pod + Send + Sync>(
    storage: &'a CudaStorage,
    layout: &Layout,
) -> Result<View<'a, T>> {
    let slice = storage.as_cuda_slice::<T>()?;
    let part = layout.contiguous_offsets().and_then(|(start, end)| View::from(slice).get(start..end));
    part.ok_or_else(|| not_contiguous(layout))
}

/// The same, to be written.
pub(crate) fn view_mut<'a, T: CudaDType + Pod + Send + Sync>(
    storage: &'a mut CudaStorage,
    layout: &Layout,
) -> Result<ViewMut<'a, T>> {
    let slice = storage.as_cuda_slice_mut::<T>()?;
    let part = layout.contiguous_offsets().and_then(|(start, end)| ViewMut::from(slice).get_mut(start..end));
    part.ok_or_else(|| not_contiguous(layout))
}

/// A tensor that owns a buffer.
pub(crate) fn tensor<T: CudaDType + Pod + Send + Sync>(
    buffer: Buffer<T>,
    shape: &[usize],
    device: &candle_core::Device,
) -> Result<Tensor> {
    crate::op::length("buffer", shape.iter().product(), Cuda::len(&Cuda::view(&buffer)))?;
    let storage = CudaStorage::wrap_cuda_slice(buffer.into_native(), device.as_cuda_device()?.clone());
    Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
}
