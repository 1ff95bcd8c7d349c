//! A micro-batch in parts: see [`crate::accumulator`].

use super::Training;
use crate::accumulator::{Floats, Id};
use crate::error::{Error, Result};
use crate::op::Backend;

impl<B: Backend> Training<B> {
    /// Opens a micro-batch of this weight, whose gradients come in parts: [`add_part`](Self::add_part), then
    /// [`finish_micro_batch`](Self::finish_micro_batch). The bits are those of [`accumulate`](Self::accumulate), whatever
    /// the parts and their order. Until then there is no step, read-out or checkpoint; [`reset`](Self::reset) drops it.
    ///
    /// # Errors
    ///
    /// [`Error::WindowFull`] for one more than [`super::Options::micro_batches`]; otherwise as for
    /// [`Accumulator::begin_micro_batch`](crate::accumulator::Accumulator::begin_micro_batch).
    pub fn begin_micro_batch(&mut self, weight: f32) -> Result<()> {
        self.usable()?;
        self.room()?;
        self.sums.begin_micro_batch(weight)
    }

    /// Whether a micro-batch is open, of which parts come one by one.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.sums.is_open()
    }

    /// Adds gradients of the micro-batch that is open: of any tensors, by name or by place, each once in a micro-batch.
    ///
    /// # Errors
    ///
    /// As for [`Accumulator::add_part`](crate::accumulator::Accumulator::add_part).
    pub fn add_part<'i, I: Into<Id<'i>> + Copy>(&mut self, gradients: &[(I, Floats<'_, B>)]) -> Result<()> {
        self.part(gradients, false)
    }

    /// The same for tensors that the model uses more than once, as tied weights.
    ///
    /// # Errors
    ///
    /// As for [`Accumulator::add_part_again`](crate::accumulator::Accumulator::add_part_again); [`Error::Conflict`]
    /// beside error feedback, which carries one rounding a micro-batch.
    pub fn add_part_again<'i, I: Into<Id<'i>> + Copy>(&mut self, gradients: &[(I, Floats<'_, B>)]) -> Result<()> {
        if self.feedback.is_some() {
            return Err(Error::Conflict {
                what: "a second gradient of a tensor in a micro-batch",
                with: "error feedback (residual_bits)",
                advice: "add the gradients of all uses up first, or leave residual_bits None",
            });
        }
        self.part(gradients, true)
    }

    /// Ends the micro-batch: it counts as one, with its weight.
    ///
    /// # Errors
    ///
    /// [`Error::NoGradient`] with the tensors that no part came for, unless [`super::Missing`] says otherwise: the
    /// micro-batch is then still open. [`Error::NoMicroBatch`] where none is open; [`Error::Refused`].
    pub fn finish_micro_batch(&mut self) -> Result<()> {
        self.may_miss(&self.missing()?)?;
        self.sums.finish_micro_batch().map(drop)
    }

    /// Gives the open micro-batch up, for the backward pass that was to fill it failed. If a part was added, the window
    /// is refused until reset; weights and moments are as they were. Without an open micro-batch nothing happens.
    pub fn abandon_micro_batch(&mut self) {
        self.sums.abandon_micro_batch();
    }

    /// The same, with what happened.
    #[cfg(feature = "candle")]
    pub(crate) fn give_up(&mut self, why: &Error) {
        self.sums.give_up(why);
    }

    /// The places of the tensors that no part of the open micro-batch came for.
    ///
    /// # Errors
    ///
    /// [`Error::NoMicroBatch`] or [`Error::Refused`].
    pub fn missing(&self) -> Result<Vec<usize>> {
        self.not_refused()?;
        self.sums.missing()
    }

    fn part<'i, I: Into<Id<'i>> + Copy>(&mut self, gradients: &[(I, Floats<'_, B>)], again: bool) -> Result<()> {
        self.not_refused()?;
        let part = self.sums.accepted_part(gradients, again)?;
        if let Some(mut feedback) = self.feedback.take() {
            let weight = self.sums.part_weight();
            self.being_written();
            let added = weight.and_then(|weight| feedback.add_part(&mut self.sums, &part, weight));
            self.feedback = Some(feedback);
            self.refuse_on_error(added)?;
            self.sums.note_part(&part);
        } else {
            self.sums.add_accepted_part(&part)?;
        }
        part.iter().for_each(|(i, _)| self.reached[*i] = true);
        Ok(())
    }
}
