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
            self.inner.abandon_micro_batch();
            return Err(e);
        }
        self.finish_micro_batch()
    }

    /// A backward pass within the micro-batch that is open: one of several, where the loss is made of parts.
    ///
    /// # Errors
    ///
    /// As for [`backward`](Self::backward); the micro-batch is still open.
    pub fn backward_part(&mut self, release: &Release, loss: &Tensor) -> Result<()> {
        self.has_variables()?;
        self.inner.sums().missing()?; // an error unless a micro-batch is open
        let scale = self.inner.loss_scale();
        let loss = if scale == 1.0 { loss.clone() } else { loss.affine(scale, 0.0)? };
        let rest = {
            let lent = Lent::new(&mut self.inner, release, &self.vars)?;
            loss.backward().map_err(|e| lent.cause(e))?
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
    /// to tensors, of the loss times the loss scale.
    ///
    /// # Errors
    ///
    /// As for [`Training::add_part`](crate::training::Training::add_part), and for tensors as for
    /// [`accumulate`](Self::accumulate).
    pub fn add_part<G: Gradients + ?Sized>(&mut self, gradients: &G) -> Result<()> {
        let inner = &mut self.inner;
        let given = in_order_at(inner, &self.home, gradients.given(&self.vars))?;
        if given.is_empty() { Ok(()) } else { with_places(&given, |list| inner.add_part(list)) }
    }

    /// Ends the micro-batch: it counts as one, with its weight.
    ///
    /// # Errors
    ///
    /// As for [`Training::finish_micro_batch`](crate::training::Training::finish_micro_batch).
    pub fn finish_micro_batch(&mut self) -> Result<()> {
        self.inner.finish_micro_batch()
    }
}
