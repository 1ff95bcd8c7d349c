//! Micro-batches of a candle model in parts, and backward passes whose gradients leave as soon as they are there.

use super::ModelGradients;
use super::accumulator::Gradients;
use super::model::{in_order_at, with_places};
use super::release::{Lent, Release};
use crate::error::Result;
use candle_core::Tensor;
use candle_core::backprop::GradStore;

impl ModelGradients {
    /// One micro-batch of this weight: the backward pass from `loss` (which is multiplied by the loss scale here), with the
    /// gradients of release layers added and freed on the way, those of all other variables at its end.
    ///
    /// # Errors
    ///
    /// As for [`accumulate`](Self::accumulate), and [`Error::Conflict`](crate::Error::Conflict) under
    /// [`NonFinite::Reject`](crate::accumulator::NonFinite::Reject), whose promise parts can not keep;
    /// [`Error::PartTwice`](crate::Error::PartTwice) for a weight that is used more than once without
    /// [`Release::repeated`]; [`Error::NoVariable`](crate::Error::NoVariable) for a model of shapes; what candle reports.
    /// If gradients were added before the failure, the window is refused until [`reset`](Self::reset): weights and moments
    /// are as they were. After [`Error::NoGradient`](crate::Error::NoGradient) the micro-batch is still open: add what is
    /// missing and [finish](Self::finish_micro_batch) it, or reset.
    pub fn backward(&mut self, release: &Release, loss: &Tensor, weight: f32) -> Result<()> {
        self.begin_micro_batch(weight)?;
        if let Err(e) = self.backward_part(release, loss) {
            self.inner.give_up(&e);
            return Err(e);
        }
        self.inner.finish_micro_batch()
    }

    /// A backward pass within the micro-batch that is open: one of several, where the loss is made of parts.
    ///
    /// # Errors
    ///
    /// As for [`backward`](Self::backward); the micro-batch is still open.
    pub fn backward_part(&mut self, release: &Release, loss: &Tensor) -> Result<()> {
        self.has_variables()?;
        self.missing()?; // an error unless a micro-batch is open
        let loss = self.scaled_loss(loss)?;
        self.backward_from(release, &loss)
    }

    /// A backward pass from a tensor that is scaled as it has to be.
    pub(super) fn backward_from(&mut self, release: &Release, root: &Tensor) -> Result<()> {
        let rest = {
            let lent = Lent::new(&mut self.inner, release, &self.vars)?;
            root.backward().map_err(|e| lent.cause(e))?
        };
        self.add_rest(release, &rest)
    }

    /// Adds the gradients that a backward pass left: of variables that no release layer handed over, or not for every
    /// use.
    fn add_rest(&mut self, release: &Release, rest: &GradStore) -> Result<()> {
        let inner = &mut self.inner;
        let given = in_order_at(inner, &self.home, rest.given(&self.vars))?;
        let (again, once): (Vec<_>, Vec<_>) = given.into_iter().partition(|(i, _)| release.is_repeated(&self.vars[*i]));
        if !once.is_empty() {
            with_places(&once, |list| inner.add_part(list)).map_err(Release::say_so)?;
        }
        if again.is_empty() { Ok(()) } else { with_places(&again, |list| inner.add_part_again(list)) }
    }

    /// Opens a micro-batch of this weight, whose gradients come in parts; see
    /// [`Training::begin_micro_batch`](crate::training::Training::begin_micro_batch).
    ///
    /// # Errors
    ///
    /// As for [`Training::begin_micro_batch`](crate::training::Training::begin_micro_batch).
    pub fn begin_micro_batch(&mut self, weight: f32) -> Result<()> {
        self.inner.begin_micro_batch(weight)
    }

    /// Adds gradients of the micro-batch that is open, of any of the variables, each once: a `GradStore` or a map of names
    /// to tensors, of the loss times the loss scale. They can be freed when this returns.
    ///
    /// # Errors
    ///
    /// As for [`Training::add_part`](crate::training::Training::add_part), and for tensors as for
    /// [`accumulate`](Self::accumulate).
    ///
    /// # Examples
    ///
    /// A gradient at a time, from wherever it comes:
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use std::collections::HashMap;
    /// use trigrad::{accumulator::Spec, candle::ModelGradients, training::Options};
    ///
    /// let specs = [Spec::new("first", [64]), Spec::new("last", [64])];
    /// let mut gradients = ModelGradients::new(&specs, Options::default(), &Device::Cpu)?;
    /// gradients.begin_micro_batch(1.0)?;
    /// for name in ["last", "first"] {
    ///     let gradient = Tensor::ones(64, DType::F32, &Device::Cpu)?;
    ///     gradients.add_part(&HashMap::from([(name.to_owned(), gradient)]))?;
    /// }
    /// gradients.finish_micro_batch()?;
    /// assert_eq!(gradients.count(), 1);
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn add_part<G: Gradients + ?Sized>(&mut self, gradients: &G) -> Result<()> {
        self.part(gradients, false)
    }

    /// The same for tensors that the model uses more than once, as tied weights.
    ///
    /// # Errors
    ///
    /// As for [`Training::add_part_again`](crate::training::Training::add_part_again), and for tensors as for
    /// [`accumulate`](Self::accumulate).
    pub fn add_part_again<G: Gradients + ?Sized>(&mut self, gradients: &G) -> Result<()> {
        self.part(gradients, true)
    }

    fn part<G: Gradients + ?Sized>(&mut self, gradients: &G, again: bool) -> Result<()> {
        self.missing()?; // an error unless a micro-batch is open
        self.scaled_if(gradients.of_a_backward_pass())?;
        let inner = &mut self.inner;
        let given = in_order_at(inner, &self.home, gradients.given(&self.vars))?;
        if given.is_empty() {
            return Ok(());
        }
        with_places(&given, |list| if again { inner.add_part_again(list) } else { inner.add_part(list) })
    }

    /// Whether a micro-batch is open, of which parts come one by one.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.inner.is_open()
    }

    /// The places of the tensors that no part of the open micro-batch came for.
    ///
    /// # Errors
    ///
    /// [`Error::NoMicroBatch`](crate::Error::NoMicroBatch) or [`Error::Refused`](crate::Error::Refused).
    pub fn missing(&self) -> Result<Vec<usize>> {
        self.inner.missing()
    }

    /// Ends the micro-batch: it counts as one, with its weight.
    ///
    /// # Errors
    ///
    /// As for [`Training::finish_micro_batch`](crate::training::Training::finish_micro_batch).
    pub fn finish_micro_batch(&mut self) -> Result<()> {
        self.inner.finish_micro_batch()?;
        self.gradients_came();
        Ok(())
    }

    /// Gives the open micro-batch up, for the backward pass that was to fill it failed. If a part was added, the window
    /// is refused until [`reset`](Self::reset); weights and moments are as they were. Without an open micro-batch nothing
    /// happens.
    pub fn abandon_micro_batch(&mut self) {
        self.inner.abandon_micro_batch();
    }
}
