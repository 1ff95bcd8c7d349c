//! A micro-batch in parts: each gradient is added as soon as it is there, and can then be freed.

use super::{Accumulator, Floats, Format, Id, NonFinite};
use crate::error::{Error, Result};
use crate::op::Backend;

/// What to do about a part where no micro-batch is open.
const NOT_OPEN: &str = "begin one with `begin_micro_batch`; it ends with `finish_micro_batch`";
const TWICE: &str = "if it is used more than once, add what comes after the first with `add_part_again`";

/// A micro-batch that is open.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    weight: f32,
    /// The index that it draws under.
    index: u32,
    /// How often a gradient came, one a tensor.
    came: Vec<u32>,
}

impl Parts {
    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    /// Why a call has to wait that needs whole micro-batches.
    pub(super) fn open(&self) -> Error {
        Error::MicroBatchOpen { came: self.came.iter().filter(|n| **n > 0).count(), tensors: self.came.len() }
    }

    fn missing(&self) -> Vec<usize> {
        (0..self.came.len()).filter(|i| self.came[*i] == 0).collect()
    }
}

/// Gradients of some tensors, with their places, in order.
pub(crate) type Part<'g, B> = Vec<(usize, Floats<'g, B>)>;

impl<B: Backend> Accumulator<B> {
    /// Opens a micro-batch of this weight, whose gradients come in parts: [`add_part`](Self::add_part) as they are there,
    /// then [`finish_micro_batch`](Self::finish_micro_batch). The bits are those of
    /// [`accumulate`](Self::accumulate), whatever the parts and their order. Until it is finished the window can not be
    /// read, saved or merged; [`reset`](Self::reset) drops it.
    ///
    /// # Errors
    ///
    /// [`Error::MicroBatchOpen`] where one is open already; [`Error::Conflict`] under [`NonFinite::Reject`], which promises
    /// to look at the whole micro-batch before anything is written; for the weight, the counts and the index as for
    /// [`accumulate`](Self::accumulate); [`Error::Refused`].
    ///
    /// # Examples
    ///
    /// ```
    /// use trigrad::accumulator::{Accumulator, Config, Spec};
    /// use trigrad::cpu::Cpu;
    ///
    /// let tensors = [Spec::new("first", [64]), Spec::new("last", [64])];
    /// let mut sum = Accumulator::new(Cpu::default(), &tensors, Config::default())?;
    /// sum.begin_micro_batch(1.0)?;
    /// for name in ["last", "first"] {
    ///     let gradient = vec![0.5f32; 64]; // one at a time, as a backward pass makes them
    ///     sum.add_part(&[(name, gradient[..].into())])?;
    /// }
    /// assert!(sum.finish_micro_batch()?.is_empty(), "every tensor had a gradient");
    /// assert_eq!(sum.count(), 1);
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn begin_micro_batch(&mut self, weight: f32) -> Result<()> {
        self.usable()?;
        self.validate(weight)?;
        if self.config.non_finite == NonFinite::Reject {
            return Err(Error::Conflict {
                what: "NonFinite::Reject",
                with: "micro-batches in parts",
                advice: "what was added cannot be taken back when a later part has NaN: take NonFinite::Defer, which marks \
                         the window, or NonFinite::Zero",
            });
        }
        self.parts = Some(Parts { weight, index: self.window.micro_batch, came: vec![0; self.specs.len()] });
        Ok(())
    }

    /// Whether a micro-batch is open, of which parts come one by one.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.parts.is_some()
    }

    /// An error while a micro-batch is open.
    pub(super) fn whole(&self) -> Result<()> {
        self.parts.as_ref().map_or(Ok(()), |parts| Err(parts.open()))
    }

    /// Adds gradients of the micro-batch that is open: of any tensors, by name or by place, each once in a micro-batch.
    /// They can be freed when this returns, as far as the device's order of work allows.
    ///
    /// # Errors
    ///
    /// [`Error::NoMicroBatch`] where none is open; [`Error::PartTwice`] for a tensor that had its gradient;
    /// [`Error::UnknownTensor`], [`Error::DuplicateTensor`]; [`Error::Length`] or [`Error::WrongDevice`] within the tensor.
    /// The micro-batch is then as it was, and still open. What the device reports while it writes: the window is then
    /// refused until reset.
    pub fn add_part<'i, I: Into<Id<'i>> + Copy>(&mut self, gradients: &[(I, Floats<'_, B>)]) -> Result<()> {
        let part = self.accepted_part(gradients, false)?;
        self.add_accepted_part(&part)
    }

    /// The same for tensors that the model uses more than once, as tied weights: gradients of the same tensor add up, and
    /// are rounded with draws of their own, in the order in which they come: that order is part of what the bits depend
    /// on.
    ///
    /// The gradient that comes as number `k` (from 0) of tensor `i` of `n` draws as that of tensor number `i + k n`.
    ///
    /// # Errors
    ///
    /// As for [`add_part`](Self::add_part), without [`Error::PartTwice`]; [`Error::Format`] within a tensor of exact
    /// counts, which hold one gradient a micro-batch; [`Error::Limit`] for more uses than can be numbered.
    pub fn add_part_again<'i, I: Into<Id<'i>> + Copy>(&mut self, gradients: &[(I, Floats<'_, B>)]) -> Result<()> {
        let part = self.accepted_part(gradients, true)?;
        self.add_accepted_part(&part)
    }

    /// The places of the tensors that no part of the open micro-batch came for.
    ///
    /// # Errors
    ///
    /// [`Error::NoMicroBatch`] or [`Error::Refused`].
    pub fn missing(&self) -> Result<Vec<usize>> {
        self.opened().map(Parts::missing)
    }

    /// Ends the micro-batch: it counts as one, with its weight. Gives the places of the tensors that no part came for;
    /// their gradient was 0.
    ///
    /// # Errors
    ///
    /// [`Error::NoMicroBatch`] where none is open, or [`Error::Refused`].
    pub fn finish_micro_batch(&mut self) -> Result<Vec<usize>> {
        let (missing, weight, index) = {
            let parts = self.opened()?;
            (parts.missing(), parts.weight, parts.index)
        };
        self.parts = None;
        let next = self.window.micro_batch;
        self.advance(weight);
        if next != index {
            self.window.micro_batch = next; // set meanwhile, for the next one
        }
        Ok(missing)
    }

    /// Gives the open micro-batch up, for the backward pass that was to fill it failed. If a part was added, the window
    /// is refused until reset: what is in it can not be taken out. Without an open micro-batch nothing happens.
    pub fn abandon_micro_batch(&mut self) {
        self.give_up(&"its backward pass did not end");
    }

    /// The same, with what happened.
    pub(crate) fn give_up(&mut self, why: &impl std::fmt::Display) {
        let Some(parts) = self.parts.take() else { return };
        let (came, of) = (parts.came.iter().filter(|n| **n > 0).count(), parts.came.len());
        if came > 0 && self.window.refused.is_none() {
            let reason =
                format!("a micro-batch was given up after gradients for {came} of {of} tensors were added: {why}");
            self.window.refused = Some(reason);
        }
    }

    /// Everything that can be wrong with a part; nothing is written.
    pub(crate) fn accepted_part<'g, 'i, I: Into<Id<'i>> + Copy>(
        &self,
        gradients: &[(I, Floats<'g, B>)],
        again: bool,
    ) -> Result<Part<'g, B>> {
        let parts = self.opened()?;
        let placed = self.placed(gradients)?.into_iter().enumerate();
        let part: Part<'g, B> = placed.filter_map(|(i, g)| Some((i, g?))).collect();
        for &(i, _) in &part {
            if parts.came[i] == 0 {
                continue;
            }
            if !again {
                return Err(Error::PartTwice { tensor: self.specs[i].name.clone(), advice: TWICE });
            }
            self.again(i, parts.came[i]).map_err(|e| e.in_tensor(&*self.specs[i].name))?;
        }
        Ok(part)
    }

    /// Adds what was [`accepted_part`](Self::accepted_part): a call of the backend for each run of neighbours.
    pub(crate) fn add_accepted_part(&mut self, part: &[(usize, Floats<'_, B>)]) -> Result<()> {
        let (weight, came) = {
            let parts = self.opened()?;
            (parts.weight, parts.came.clone())
        };
        let tensors = came.len() as u32;
        self.write(|this| {
            for run in part.chunk_by(|(a, _), (b, _)| a + 1 == *b && came[*a] == came[*b]) {
                let Some(&(start, _)) = run.first() else { continue };
                let gradients: Vec<Floats<'_, B>> = run.iter().map(|(_, g)| *g).collect();
                this.add_drawn(start, &gradients, weight, came[start] * tensors)?;
            }
            Ok(())
        })?;
        self.note_part(part);
        Ok(())
    }

    /// Takes down that gradients came, for whoever adds them one by one ([`Accumulator::add_one`]).
    pub(crate) fn note_part(&mut self, part: &[(usize, Floats<'_, B>)]) {
        if let Some(parts) = &mut self.parts {
            part.iter().for_each(|(i, _)| parts.came[*i] += 1);
        }
    }

    /// The weight of the open micro-batch.
    pub(crate) fn part_weight(&self) -> Result<f32> {
        self.opened().map(|parts| parts.weight)
    }

    fn opened(&self) -> Result<&Parts> {
        self.not_refused()?;
        self.parts.as_ref().ok_or(Error::NoMicroBatch { advice: NOT_OPEN })
    }

    /// Whether a tensor can take another gradient in a micro-batch, after so many.
    fn again(&self, i: usize, came: u32) -> Result<()> {
        if let Format::Exact { .. } = self.tensors[i].format {
            let advice = "they hold one gradient a micro-batch: add the gradients of all uses up first, or hold the tensor \
                          in adaptive levels or f32";
            return Err(Error::Format { operation: "a second gradient in a micro-batch", format: "exact", advice });
        }
        let limit = u64::from(u32::MAX) / self.specs.len() as u64;
        let got = u64::from(came) + 1;
        if got < limit {
            Ok(())
        } else {
            Err(Error::Limit { what: "gradients of a tensor in a micro-batch", got, limit })
        }
    }
}
