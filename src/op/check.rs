//! Check: counts the elements of `weight g` that are out of range, writing nothing else.

use super::{Element, finite, within};
use crate::backend::Memory;
use crate::error::Result;

/// Parameters of check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Check {
    /// What the gradient is multiplied by first.
    pub weight: f32,
}

impl Check {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Parameter`] for a weight that is not finite.
    pub fn validate(&self) -> Result<()> {
        finite("weight", self.weight)
    }
}

/// One tensor to check.
pub struct Item<'a, M: Memory + ?Sized, T: Element> {
    /// The gradient.
    pub x: M::View<'a, T>,
    /// Index of `x[0]` in the tensor, for the report: any.
    pub first: u64,
    /// The slot of the reports that takes what is found.
    pub report: usize,
}

impl<M: Memory + ?Sized, T: Element> Item<'_, M, T> {
    /// Checks the position.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Limit`] where the last index is 2^37 and above.
    pub fn validate(&self) -> Result<()> {
        within(self.first, M::len(&self.x))
    }
}
