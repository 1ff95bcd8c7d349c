//! Weights of candle variables, mutably, many at once: each is entered through an in-place operation of candle's, one
//! within the other, and the innermost has them all.

use super::apart::{inside, outside};
use super::storage::Shared;
use crate::device::{Device, ViewMut};
use crate::error::{Error, Result};
use crate::training::WeightsMut;
use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor, Var};
use std::cell::RefCell;
use std::collections::HashMap;

/// Variables entered at once: the depth of the nesting, so bounded.
pub(super) const AT_ONCE: usize = 64;

type Inner<'f> = dyn FnMut(Vec<WeightsMut<'_, Device>>) -> Result<()> + Send + 'f;

/// Calls `f` with the elements of contiguous variables, in order. No two may share memory.
pub(super) fn with_weights(vars: &[&Tensor], f: &mut Inner<'_>) -> Result<()> {
    let cpu = vars.first().is_some_and(|v| v.device().is_cpu());
    outside(cpu, || enter(vars, Vec::new(), &mut |weights| inside(cpu, || f(weights))))
}

/// Checks that variables can be entered.
pub(super) fn contiguous<'v>(vars: impl Iterator<Item = (&'v str, &'v Var)>) -> Result<()> {
    for (name, var) in vars {
        if !var.is_contiguous() {
            let (shape, strides) = (var.dims().to_vec(), var.stride().to_vec());
            return Err(Error::NotContiguous { shape, strides }.in_tensor(name));
        }
    }
    Ok(())
}

/// Checks that no two variables are the same memory, under two names: tied weights would be counted and updated twice.
pub(super) fn separate(vars: &[(String, Var)]) -> Result<()> {
    let mut at: HashMap<usize, &str> = HashMap::with_capacity(vars.len());
    for (name, var) in vars {
        let address = std::ptr::from_ref(&*var.storage_and_layout().0).addr();
        if let Some(first) = at.insert(address, name)
            && first != name
        {
            return Err(Error::SharedMemory { tensors: (first.to_owned(), name.clone()) });
        }
    }
    Ok(())
}

fn enter(rest: &[&Tensor], held: Vec<WeightsMut<'_, Device>>, f: &mut Plain<'_>) -> Result<()> {
    let Some((var, rest)) = rest.split_first() else {
        return f(held);
    };
    let op = Enter { rest, state: RefCell::new(Some((held, f))), result: RefCell::new(Ok(())) };
    let entered = var.inplace_op1(&op);
    op.result.into_inner()?;
    Ok(entered?)
}

type Plain<'f> = dyn FnMut(Vec<WeightsMut<'_, Device>>) -> Result<()> + 'f;

/// Views held so far, and what is called when all are.
type State<'h, 'f, 'g> = Option<(Vec<WeightsMut<'h, Device>>, &'f mut Plain<'g>)>;

struct Enter<'r, 'h, 'f, 'g> {
    rest: &'r [&'r Tensor],
    state: RefCell<State<'h, 'f, 'g>>,
    result: RefCell<Result<()>>,
}

impl Enter<'_, '_, '_, '_> {
    fn with(&self, view: Result<WeightsMut<'_, Device>>) {
        let mut state = self.state.borrow_mut();
        let Some((held, f)) = state.as_mut() else { return };
        *self.result.borrow_mut() = view.and_then(|mut view| {
            let mut all: Vec<WeightsMut<'_, Device>> = held.iter_mut().map(WeightsMut::reborrow).collect();
            all.push(view.reborrow());
            enter(self.rest, all, *f)
        });
    }
}

impl InplaceOp1 for Enter<'_, '_, '_, '_> {
    fn name(&self) -> &'static str {
        "weight update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        self.with(match storage {
            CpuStorage::F32(x) => part(x, layout).map(WeightsMut::F32),
            CpuStorage::BF16(x) => part(x, layout).map(WeightsMut::Bf16),
            other => Err(no_weights(candle_core::backend::BackendStorage::dtype(other))),
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut candle_core::CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        use candle_core::DType;
        use candle_core::backend::BackendStorage as _;
        self.with(match storage.dtype() {
            DType::F32 => super::cuda::view_mut(storage, layout).map(ViewMut::Cuda).map(WeightsMut::F32),
            DType::BF16 => super::cuda::view_mut(storage, layout).map(ViewMut::Cuda).map(WeightsMut::Bf16),
            other => Err(no_weights(other)),
        });
        Ok(())
    }
}

fn part<'a, T: Shared>(x: &'a mut [T], layout: &Layout) -> Result<ViewMut<'a, T>> {
    let got = x.len() as u64;
    let part = layout.contiguous_offsets().and_then(|(a, b)| x.get_mut(a..b));
    let expected = layout.shape().elem_count() as u64;
    part.map(ViewMut::from).ok_or(Error::Length { what: "storage of weights", expected, got })
}

/// The error for weights of a type that is not updated in place.
pub(super) fn no_weights(dtype: candle_core::DType) -> Error {
    Error::ElementType { expected: "f32 or bf16 weights", got: dtype.as_str().to_owned() }
}
