//! Check: counts the elements of `weight g` that are out of range, writing nothing else.

use super::item::item;
use super::{finite, operation, within};
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

item! {
    /// One tensor to check.
    pub struct Item<T> {
        /// The gradient.
        x: read(T),
        /// Index of `x[0]` in the tensor, for the report: any.
        first: first,
        /// The slot of the reports that takes what is found.
        report: report,
    }
}

impl<M: crate::memory::Memory + ?Sized, T: crate::types::Element> Item<'_, M, T> {
    /// Checks the position.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Limit`] where the last index is 2^37 and above.
    pub fn validate(&self, _: &Check) -> Result<()> {
        within(self.first, M::len(&self.x))
    }
}

operation!(Check, "check", Item<T>, Found);
