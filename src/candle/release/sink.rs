//! Where gradients go as they leave the backward pass: the training, lent to the layers while one runs.

use crate::accumulator::Spec;
use crate::candle::storage::with_views;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::training::{Options, Training};
use candle_core::{Tensor, TensorId, Var};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a layer says that is used outside of a micro-batch.
const OUTSIDE: &str = "a release layer hands its gradient over, and there is nobody to take it: run the backward pass with \
                       `ModelGradients::backward(&release, &loss, weight)`, with the release that the layers were made with";
const TWICE: &str =
    "if the model uses it more than once, say so with `Release::repeated` before the first backward pass";

/// Connects release layers with the training: made first, given to each layer and to
/// [`ModelGradients::backward`](crate::candle::ModelGradients::backward). A clone is the same connection. Each model has
/// its own.
#[derive(Clone, Default)]
pub struct Release(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The training, while a backward pass runs.
    training: Option<Training<Device>>,
    /// The places of its variables.
    places: HashMap<TensorId, usize>,
    /// Variables that are used more than once.
    repeated: HashSet<TensorId>,
    /// The first error in a layer: candle's own error type would hide it.
    failed: Option<Error>,
}

impl std::fmt::Debug for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Release").field("in_backward", &self.state().training.is_some()).finish()
    }
}

impl Release {
    /// A connection for the layers of one model.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that a variable is used more than once in a forward pass, as tied weights are: each use hands over a
    /// gradient of its own, which are added up in the order of the backward pass, each with draws of its own. Without it
    /// the second one is an error. Not for exact counts, and not beside error feedback.
    pub fn repeated(&self, weight: &Tensor) {
        self.state().repeated.insert(weight.id());
    }

    /// Takes the gradient of a variable, if the training has it; `gradient` is called only then.
    pub(super) fn hand_over(
        &self,
        id: TensorId,
        gradient: impl FnOnce() -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<()> {
        let place = {
            let state = self.state();
            if state.training.is_none() {
                return Err(candle_core::Error::wrap(Error::NoMicroBatch { advice: OUTSIDE }));
            }
            state.places.get(&id).copied()
        };
        // A variable that was left out, or that is of another model.
        let Some(place) = place else { return Ok(()) };
        let gradient = gradient()?.detach();
        self.add(id, place, &gradient).map_err(|e| {
            let hidden = candle_core::Error::msg(&e);
            self.state().failed.get_or_insert(e);
            hidden
        })
    }

    fn add(&self, id: TensorId, place: usize, gradient: &Tensor) -> Result<()> {
        let state = &mut *self.state();
        let Some(training) = &mut state.training else { return Err(Error::NoMicroBatch { advice: OUTSIDE }) };
        let repeated = state.repeated.contains(&id);
        with_views(&[gradient], |views| {
            let part: Vec<_> = views.iter().map(|view| (place, *view)).collect();
            if repeated { training.add_part_again(&part) } else { training.add_part(&part) }
        })
        .map_err(Self::say_so)
    }

    pub(in crate::candle) fn is_repeated(&self, weight: &Tensor) -> bool {
        self.state().repeated.contains(&weight.id())
    }

    /// An error with what to do about it here.
    pub(in crate::candle) fn say_so(e: Error) -> Error {
        match e {
            Error::PartTwice { tensor, .. } => Error::PartTwice { tensor, advice: TWICE },
            e => e,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A training that the layers have while a backward pass runs; it comes back when this is dropped.
pub(in crate::candle) struct Lent<'a> {
    home: &'a mut Training<Device>,
    release: &'a Release,
}

impl<'a> Lent<'a> {
    /// Lends a training to the layers of a model of these variables.
    pub(in crate::candle) fn new(home: &'a mut Training<Device>, release: &'a Release, vars: &[Var]) -> Result<Self> {
        // What stands in its place meanwhile; nobody sees it, since `home` is borrowed.
        let instead = Training::new(Device::default(), &[Spec::new("lent", [1])], Options::default())?;
        let mut state = release.state();
        if state.training.is_some() {
            return Err(Error::MicroBatchOpen { came: 0, tensors: vars.len() });
        }
        state.places = vars.iter().enumerate().map(|(i, var)| (var.id(), i)).collect();
        state.failed = None;
        state.training = Some(std::mem::replace(home, instead));
        drop(state);
        Ok(Lent { home, release })
    }

    /// The first error in a layer, or else the given one.
    pub(in crate::candle) fn cause(&self, e: candle_core::Error) -> Error {
        self.release.state().failed.take().unwrap_or_else(|| e.into())
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(training) = self.release.state().training.take() {
            *self.home = training;
        }
    }
}
