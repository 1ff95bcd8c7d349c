//! candle has no wgpu device: a gradient of a CPU tensor is uploaded once a micro-batch, through staging buffers and
//! into buffers that are kept; levels and scales never leave the GPU, and a read-out is downloaded once. A tensor on
//! candle's Metal device comes the same way, by way of the CPU.

use super::storage::with_views;
use crate::accumulator::Floats;
use crate::device::{Device, View};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::webgpu::{Buffer, Wgpu};
use bytemuck::Pod;
use candle_core::Tensor;
use half::{bf16, f16};

/// One gradient on the GPU, of the type it had on the CPU.
enum Uploaded {
    F32(Buffer<f32>),
    F16(Buffer<f16>),
    Bf16(Buffer<bf16>),
}

/// Gradients on the GPU, one buffer for each place in the list of a micro-batch, used again for the next.
#[derive(Default)]
pub(super) struct Uploads {
    held: Vec<Uploaded>,
}

impl Uploads {
    /// Calls `f` with the elements of tensors on the GPU.
    pub(super) fn with<R>(
        &mut self,
        gpu: &Wgpu,
        tensors: &[&Tensor],
        f: impl FnOnce(&[Floats<'_, Device>]) -> Result<R>,
    ) -> Result<R> {
        let mut old = std::mem::take(&mut self.held).into_iter();
        let near = tensors.iter().map(|t| t.to_device(&candle_core::Device::Cpu));
        let near: Vec<Tensor> = near.collect::<candle_core::Result<_>>()?;
        let near: Vec<&Tensor> = near.iter().collect();
        self.held = with_views(&near, |views| views.iter().map(|view| upload(gpu, view, old.next())).collect())?;
        let views: Vec<Floats<'_, Device>> = self.held.iter().map(Uploaded::floats).collect();
        f(&views)
    }
}

impl Uploaded {
    fn floats(&self) -> Floats<'_, Device> {
        match self {
            Uploaded::F32(x) => Floats::F32(View::Wgpu(Wgpu::view(x))),
            Uploaded::F16(x) => Floats::F16(View::Wgpu(Wgpu::view(x))),
            Uploaded::Bf16(x) => Floats::Bf16(View::Wgpu(Wgpu::view(x))),
        }
    }
}

fn upload(gpu: &Wgpu, given: &Floats<'_, Device>, old: Option<Uploaded>) -> Result<Uploaded> {
    match (given, old) {
        (Floats::F32(x), Some(Uploaded::F32(b))) => into(gpu, x, Some(b)).map(Uploaded::F32),
        (Floats::F32(x), _) => into(gpu, x, None).map(Uploaded::F32),
        (Floats::F16(x), Some(Uploaded::F16(b))) => into(gpu, x, Some(b)).map(Uploaded::F16),
        (Floats::F16(x), _) => into(gpu, x, None).map(Uploaded::F16),
        (Floats::Bf16(x), Some(Uploaded::Bf16(b))) => into(gpu, x, Some(b)).map(Uploaded::Bf16),
        (Floats::Bf16(x), _) => into(gpu, x, None).map(Uploaded::Bf16),
    }
}

fn into<T: Pod + Send + Sync>(gpu: &Wgpu, given: &View<'_, T>, old: Option<Buffer<T>>) -> Result<Buffer<T>> {
    let View::Cpu(x) = given else {
        return Err(Error::WrongDevice { expected: "cpu".to_owned(), got: "another candle device".to_owned() });
    };
    let kept = old.filter(|b| Wgpu::len(&Wgpu::view(b)) == x.len());
    let mut buffer = match kept {
        Some(buffer) => buffer,
        None => gpu.zeros(x.len())?,
    };
    gpu.fill(x, &mut buffer)?;
    Ok(buffer)
}
