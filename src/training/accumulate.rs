//! One micro-batch in: checked as a whole, then added as a whole.

use super::{Missing, Training};
use crate::accumulator::{Floats, Id};
use crate::error::{Error, Result};
use crate::op::Backend;

/// Names of missing tensors that an error lists.
const LISTED: usize = 8;

/// What to do about a tensor without a gradient.
pub(crate) const WAYS: &str = "was it part of the loss, and has every layer on the way a backward pass? If it is to have \
                               none: Missing::Zero counts it as zero, Missing::Leave leaves it as it is, and \
                               Options::leave_out takes it out of the training";

impl<B: Backend> Training<B> {
    /// Adds `weight` times the gradients of one micro-batch, by name or by place, in any order: each tensor once, and
    /// every one, unless [`Missing`] says otherwise. Gradients are those of the loss times
    /// [`loss_scale`](Self::loss_scale). A weight of 0 adds nothing, whatever the gradients are.
    ///
    /// On a device this queues work and returns, except under [`crate::accumulator::NonFinite::Reject`].
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`], [`Error::DuplicateTensor`], [`Error::NoGradient`]; [`Error::Length`] or
    /// [`Error::WrongDevice`] within the tensor; [`Error::Parameter`] for a weight that is not finite; [`Error::WindowFull`]
    /// for one more than [`super::Options::micro_batches`]; [`Error::Limit`]
    /// where exact counts are full or the micro-batch index is at its limit; [`Error::NonFinite`] under
    /// [`crate::accumulator::NonFinite::Reject`]. The state is then as it was. After a failure of the device, or a
    /// panic, in the middle of a call the window is refused until reset ([`Error::Refused`]).
    pub fn accumulate<'i, I: Into<Id<'i>> + Copy>(
        &mut self,
        gradients: &[(I, Floats<'_, B>)],
        weight: f32,
    ) -> Result<()> {
        self.usable()?;
        self.room()?;
        let given = self.sums.accepted_some(gradients, weight)?;
        self.none_missing(&given)?;
        if let Some(mut feedback) = self.feedback.take() {
            self.being_written();
            let added = feedback.add(&mut self.sums, &given, weight);
            self.feedback = Some(feedback);
            self.refuse_on_error(added)?;
        } else {
            self.sums.add_some(&given, weight)?;
        }
        for (reached, given) in self.reached.iter_mut().zip(&given) {
            *reached |= given.is_some();
        }
        Ok(())
    }

    fn none_missing(&self, given: &[Option<Floats<'_, B>>]) -> Result<()> {
        let missing: Vec<usize> = (0..given.len()).filter(|i| given[*i].is_none()).collect();
        self.may_miss(&missing)
    }

    /// Whether tensors at these places may be without a gradient.
    pub(super) fn may_miss(&self, missing: &[usize]) -> Result<()> {
        if self.options.missing != Missing::Error {
            return Ok(());
        }
        let missing = || missing.iter().map(|i| self.specs()[*i].name.as_str());
        let count = missing().count();
        if count == 0 {
            return Ok(());
        }
        let mut tensor = missing().take(LISTED).collect::<Vec<_>>().join("`, `");
        if count > LISTED {
            tensor = format!("{tensor}` and {} more, the last `{}", count - LISTED, missing().last().unwrap_or(""));
        }
        Err(Error::NoGradient { tensor, ways: WAYS })
    }
}
