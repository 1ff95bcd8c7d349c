//! A result that was computed outside of candle's graph, put into it with a backward pass of its own.
//!
//! The forward pass runs candle's own operations on detached tensors, so its bits are candle's. The result's elements
//! are then moved, not copied, into the output of a custom operation.

use crate::error::Error;
use candle_core::{CpuStorage, CustomOp2, InplaceOp1, Layout, Shape, Tensor};
use std::sync::{Mutex, PoisonError};

/// Takes the input, the weight and the gradient of the result; gives the gradient of the input, if it has one.
pub(super) type Backward = dyn Fn(&Tensor, &Tensor, &Tensor) -> candle_core::Result<Option<Tensor>> + Send + Sync;

/// Puts `result` into the graph as a function of `input` and `weight`. It must be new: nothing else may hold its
/// elements.
pub(super) fn graft(
    name: &'static str,
    input: &Tensor,
    weight: &Tensor,
    result: &Tensor,
    backward: Box<Backward>,
) -> candle_core::Result<Tensor> {
    // The elements are taken from the start of what holds them.
    let whole = result.is_contiguous() && result.layout().start_offset() == 0;
    let result = if whole { result.clone() } else { result.force_contiguous()? };
    let take = Take(Mutex::new(Taken::Nothing));
    result.inplace_op1(&take)?;
    let op = Grafted { name, shape: result.shape().clone(), taken: take.0, backward };
    input.apply_op2(weight, op)
}

/// The elements of a result.
enum Taken {
    Nothing,
    Cpu(CpuStorage),
    #[cfg(feature = "cuda")]
    Cuda(candle_core::CudaStorage),
}

/// Takes a tensor's elements out of it.
struct Take(Mutex<Taken>);

impl Take {
    fn keep(&self, taken: Taken) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = taken;
    }
}

impl InplaceOp1 for Take {
    fn name(&self) -> &'static str {
        "taking a result"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        self.keep(Taken::Cpu(std::mem::replace(storage, CpuStorage::U8(Vec::new()))));
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut candle_core::CudaStorage, _: &Layout) -> candle_core::Result<()> {
        let device = storage.device.clone();
        let nothing = candle_core::CudaStorage::wrap_cuda_slice(device.alloc_zeros::<u8>(1)?, device);
        self.keep(Taken::Cuda(std::mem::replace(storage, nothing)));
        Ok(())
    }
}

struct Grafted {
    name: &'static str,
    shape: Shape,
    taken: Mutex<Taken>,
    backward: Box<Backward>,
}

impl Grafted {
    fn taken(&self) -> Taken {
        std::mem::replace(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner), Taken::Nothing)
    }

    /// The error for a result that is on another device than its input.
    fn elsewhere(&self) -> candle_core::Error {
        candle_core::Error::wrap(Error::WrongDevice {
            expected: "input and result of a release layer on one device".to_owned(),
            got: format!("{} on another", self.name),
        })
    }
}

impl CustomOp2 for Grafted {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        match self.taken() {
            Taken::Cpu(storage) => Ok((storage, self.shape.clone())),
            _ => Err(self.elsewhere()),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        match self.taken() {
            Taken::Cuda(storage) => Ok((storage, self.shape.clone())),
            _ => Err(self.elsewhere()),
        }
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        // Detached: what is computed from tracked tensors would drag the whole graph along.
        let found = (self.backward)(input, &weight.detach(), gradient)?;
        Ok((found, None))
    }
}
