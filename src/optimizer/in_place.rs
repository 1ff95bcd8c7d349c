//! Weights of candle variables, mutably, many at once: each is entered through an in-place operation of candle's, one
//! within the other, and the innermost has them all.

use crate::candle::storage::Shared;
use crate::device::{Device, ViewMut};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::op::Element;
use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor, Var};
use half::bf16;
use std::cell::RefCell;

/// Variables entered at once: the depth of the nesting, so bounded.
pub(super) const AT_ONCE: usize = 64;

/// A type of weights that is updated in place.
pub(super) trait Weight: Element + Shared {
    fn slice(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! weight {
    ($($type:ty => $variant:ident),*) => {$(
        impl Weight for $type {
            fn slice(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    CpuStorage::$variant(x) => Some(x),
                    _ => None,
                }
            }
        }
    )*};
}
weight!(f32 => F32, bf16 => BF16);

type Inner<'f, T> = dyn FnMut(Vec<ViewMut<'_, T>>) -> Result<()> + 'f;

/// Calls `f` with the elements of contiguous variables, in order. No two may share memory.
pub(super) fn with_weights<T: Weight>(vars: &[&Tensor], f: &mut Inner<'_, T>) -> Result<()> {
    distinct(vars)?;
    enter(vars, Vec::new(), f)
}

/// Checks that all of them can be entered, before the first is.
pub(super) fn separate(vars: &[Var]) -> Result<()> {
    let vars: Vec<&Tensor> = vars.iter().map(Var::as_tensor).collect();
    match vars.iter().find(|v| !v.is_contiguous()) {
        Some(var) => Err(Error::Length { what: CONTIGUOUS, expected: var.elem_count() as u64, got: 0 }),
        None => distinct(&vars),
    }
}

const CONTIGUOUS: &str = "contiguous weights";

fn distinct(vars: &[&Tensor]) -> Result<()> {
    let mut at: Vec<usize> = vars.iter().map(|v| std::ptr::from_ref(&*v.storage_and_layout().0).addr()).collect();
    at.sort_unstable();
    match at.windows(2).filter(|w| w[0] == w[1]).count() {
        0 => Ok(()),
        shared => Err(Error::Limit { what: "variables that share memory", got: shared as u64, limit: 0 }),
    }
}

fn enter<T: Weight>(rest: &[&Tensor], held: Vec<ViewMut<'_, T>>, f: &mut Inner<'_, T>) -> Result<()> {
    let Some((var, rest)) = rest.split_first() else {
        return f(held);
    };
    let op = Enter { rest, state: RefCell::new(Some((held, f))), result: RefCell::new(Ok(())) };
    let entered = var.inplace_op1(&op);
    op.result.into_inner()?;
    Ok(entered?)
}

/// Views held so far, and what is called when all are.
type State<'h, 'f, 'g, T> = Option<(Vec<ViewMut<'h, T>>, &'f mut Inner<'g, T>)>;

struct Enter<'r, 'h, 'f, 'g, T: Weight> {
    rest: &'r [&'r Tensor],
    state: RefCell<State<'h, 'f, 'g, T>>,
    result: RefCell<Result<()>>,
}

impl<T: Weight> Enter<'_, '_, '_, '_, T> {
    fn with(&self, view: Option<ViewMut<'_, T>>, expected: usize) {
        let mut state = self.state.borrow_mut();
        let result = match (state.as_mut(), view) {
            (Some((held, f)), Some(view)) => {
                let mut all: Vec<ViewMut<'_, T>> = held.iter_mut().map(|v| Device::reborrow(v)).collect();
                let mut view = view;
                all.push(Device::reborrow(&mut view));
                enter(self.rest, all, *f)
            }
            _ => Err(Error::Length { what: CONTIGUOUS, expected: expected as u64, got: 0 }),
        };
        *self.result.borrow_mut() = result;
    }
}

impl<T: Weight> InplaceOp1 for Enter<'_, '_, '_, '_, T> {
    fn name(&self) -> &'static str {
        "weight update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let part = T::slice(storage).zip(layout.contiguous_offsets()).and_then(|(x, (a, b))| x.get_mut(a..b));
        self.with(part.map(ViewMut::from), layout.shape().elem_count());
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut candle_core::CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let part = crate::candle::cuda::view_mut::<T>(storage, layout).ok();
        self.with(part.map(ViewMut::Cuda), layout.shape().elem_count());
        Ok(())
    }
}
