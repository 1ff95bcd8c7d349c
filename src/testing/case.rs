//! One case: an operation with its parameters and a list of tensors, ready to run on any backend.

use super::arena::{Field, Place};
use super::failure::{Difference, Failure};
use crate::error::Result;
use crate::op::Backend;
use crate::op::Report;

/// An operation with parameters and inputs, shared by the conformance suite, the fault tests and benches.
pub trait Case {
    /// The case's buffers on a backend.
    type Bound<B: Backend>;

    /// The operation, named as in [`Backend`].
    fn operation(&self) -> &'static str;

    /// Element type and parameters, for messages.
    fn parameters(&self) -> String;

    /// Elements in all tensors.
    fn elements(&self) -> u64;

    /// Bytes that one call must read and write at least.
    fn bytes(&self) -> u64;

    /// Calls in a row, each on the state that the one before left.
    fn steps(&self) -> usize {
        1
    }

    /// Whether an argument is wrong on purpose: the call must be refused.
    fn must_fail(&self) -> bool {
        false
    }

    /// Makes and fills the buffers.
    ///
    /// # Errors
    ///
    /// What the backend's memory reports.
    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Self::Bound<B>>;

    /// Makes the call of a step, with one list or with a list for each tensor, last tensor first.
    ///
    /// # Errors
    ///
    /// What the operation reports.
    fn call<B: Backend>(&self, backend: &B, bound: &mut Self::Bound<B>, step: usize, singly: bool) -> Result<()>;

    /// Reads outputs and reports back, and sees that inputs and everything around the outputs are as they were.
    ///
    /// # Errors
    ///
    /// [`Difference::Outside`], or [`Difference::Memory`] where reading failed.
    fn collect<B: Backend>(&self, backend: &B, bound: &Self::Bound<B>) -> Result<Found, Difference>;

    /// The inputs behind an element, for messages.
    fn inputs(&self, tensor: usize, element: usize, step: usize) -> String;
}

/// What a run left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The outputs.
    pub fields: Vec<Field>,
    /// The reports.
    pub reports: Vec<Report>,
}

/// Takes cases one by one.
pub trait Visit {
    /// Takes a case.
    ///
    /// # Errors
    ///
    /// Ends the walk.
    fn visit<C: Case>(&mut self, case: &C) -> Result<(), Box<Failure>>;
}

/// Calls `f` with the whole list, or with one item at a time, the last first.
pub(super) fn by<I>(items: &mut [I], singly: bool, mut f: impl FnMut(&mut [I]) -> Result<()>) -> Result<()> {
    if singly { items.chunks_mut(1).rev().try_for_each(f) } else { f(items) }
}
