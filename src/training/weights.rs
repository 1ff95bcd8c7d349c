//! Weights where they lie, to be updated.

use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::op::{Backend, Element, length};
use half::bf16;

/// The weights of one tensor, in place: f32, or bf16 that is rounded stochastically.
pub enum WeightsMut<'a, M: Memory> {
    /// f32.
    F32(M::ViewMut<'a, f32>),
    /// bf16.
    Bf16(M::ViewMut<'a, bf16>),
}

impl<M: Memory> std::fmt::Debug for WeightsMut<'_, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            WeightsMut::F32(_) => "F32",
            WeightsMut::Bf16(_) => "Bf16",
        };
        write!(f, "{kind}({} elements)", self.len())
    }
}

impl<M: Memory> WeightsMut<'_, M> {
    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            WeightsMut::F32(w) => M::len_mut(w),
            WeightsMut::Bf16(w) => M::len_mut(w),
        }
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same for a shorter time.
    #[must_use]
    pub fn reborrow(&mut self) -> WeightsMut<'_, M> {
        match self {
            WeightsMut::F32(w) => WeightsMut::F32(M::reborrow(w)),
            WeightsMut::Bf16(w) => WeightsMut::Bf16(M::reborrow(w)),
        }
    }

    /// Checks length and device.
    pub(super) fn accepted(&self, backend: &M, elements: usize) -> Result<()> {
        length("weights", elements, self.len())?;
        match self {
            WeightsMut::F32(w) => backend.accepts_mut(w),
            WeightsMut::Bf16(w) => backend.accepts_mut(w),
        }
    }

    /// Their type as a checkpoint names it.
    pub(super) const fn dtype(&self) -> &'static str {
        match self {
            WeightsMut::F32(_) => "f32",
            WeightsMut::Bf16(_) => "bf16",
        }
    }
}

impl<'a, M: Memory<ViewMut<'a, f32> = &'a mut [f32]>> From<&'a mut [f32]> for WeightsMut<'a, M> {
    fn from(w: &'a mut [f32]) -> Self {
        WeightsMut::F32(w)
    }
}

impl<'a, M: Memory<ViewMut<'a, bf16> = &'a mut [bf16]>> From<&'a mut [bf16]> for WeightsMut<'a, M> {
    fn from(w: &'a mut [bf16]) -> Self {
        WeightsMut::Bf16(w)
    }
}

/// The types that weights have.
pub(super) trait Weight: Element {
    /// The weights, if they are of this type.
    fn of<'s, B: Backend>(weights: &'s mut WeightsMut<'_, B>) -> Option<B::ViewMut<'s, Self>>;
}

impl Weight for f32 {
    fn of<'s, B: Backend>(weights: &'s mut WeightsMut<'_, B>) -> Option<B::ViewMut<'s, f32>> {
        match weights {
            WeightsMut::F32(w) => Some(B::reborrow(w)),
            WeightsMut::Bf16(_) => None,
        }
    }
}

impl Weight for bf16 {
    fn of<'s, B: Backend>(weights: &'s mut WeightsMut<'_, B>) -> Option<B::ViewMut<'s, bf16>> {
        match weights {
            WeightsMut::Bf16(w) => Some(B::reborrow(w)),
            WeightsMut::F32(_) => None,
        }
    }
}

/// An error for a list of another length than the model's.
pub(super) fn one_each(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::AnotherModel { what, tensor: None, expected: expected as u64, got: got as u64 })
}
