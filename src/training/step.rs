//! The step: weights follow the window, in place.

use super::moments::Moments;
use super::optimizer::Optimizer;
use super::rule::Terms;
use super::weights::{Weight, one_each};
use super::{Missing, MomentFormat, Outcome, Ready, Training, WeightsMut};
use crate::accumulator::Held;
use crate::error::{Error, Result};
use crate::op::side::StateOn;
use crate::op::update::{AdamW, AdamWItem, Sgd, SgdItem, Source};
use crate::op::update_adamw_8bit::{AdamW8, AdamW8Item};
use crate::op::{Backend, Draw, run};
use half::bf16;

/// A step that has begun.
pub(crate) enum Begun {
    /// The window was dropped.
    Over(Outcome),
    /// Weights are to be updated: [`Training::update`], then [`Training::updated`].
    Update(Plan),
}

/// What every update of a step shares.
pub(crate) struct Plan {
    factor: f32,
    norm: f64,
    clip: f64,
    /// One for each set of numbers.
    terms: Vec<Terms>,
}

/// What the launches of an update share: terms, factor and step, and the state that puts them right, if there is one.
pub(super) struct With<'s, B: Backend> {
    /// One for each set of numbers.
    pub(super) terms: &'s [Terms],
    pub(super) factor: f32,
    pub(super) step: u32,
    pub(super) state: Option<B::View<'s, u32>>,
}

impl<B: Backend> Training<B> {
    /// Updates the weights, one view a tensor in the order of the tensors, with the mean gradient, clipped, free of the
    /// loss scale; then starts the next window. A window with NaN or Inf is dropped instead (except under
    /// [`crate::accumulator::NonFinite::Zero`]): look at the outcome. Waits for the device to see what the window found,
    /// and what the update did.
    ///
    /// # Errors
    ///
    /// [`Error::NothingAccumulated`]; [`Error::AnotherModel`], [`Error::UnknownTensor`] or [`Error::Shape`] for an
    /// optimizer that was made for other tensors; [`Error::Length`] or [`Error::WrongDevice`] within the tensor for
    /// weights that are not its own; [`Error::Parameter`] for a number of the rule that can not be; [`Error::Refused`].
    /// Before anything is written: the window goes on. [`Error::UpdatedInPart`] for a failure of the device after that:
    /// the window is then refused and not applied twice.
    pub fn step(&mut self, optimizer: &mut Optimizer<B>, weights: Vec<WeightsMut<'_, B>>) -> Result<Outcome> {
        self.accepts_weights(&weights)?;
        match self.begin(optimizer)? {
            Begun::Over(outcome) => Ok(outcome),
            Begun::Update(plan) => {
                let all: Vec<usize> = (0..self.specs().len()).collect();
                self.update(optimizer, &plan, &all, weights)?;
                self.updated(optimizer, &plan)
            }
        }
    }

    pub(super) fn accepts_weights(&self, weights: &[WeightsMut<'_, B>]) -> Result<()> {
        one_each("the weights", self.specs().len(), weights.len())?;
        for (weights, spec) in weights.iter().zip(self.specs()) {
            let accepted = weights.accepted(self.backend(), spec.elements()?);
            accepted.map_err(|e| e.in_tensor(&*spec.name))?;
        }
        Ok(())
    }

    /// Everything that can be known to be wrong, before anything is written; a window that is to be dropped is.
    pub(crate) fn begin(&mut self, optimizer: &mut Optimizer<B>) -> Result<Begun> {
        self.usable()?;
        optimizer.made_for(self.specs())?;
        let terms = optimizer.terms()?;
        terms.iter().try_for_each(|terms| self.validate(terms, 1.0))?;
        match self.ready()? {
            skip @ Ready::Skip { .. } => self.finish(skip).map(Begun::Over),
            Ready::Step { factor, norm, clip } => {
                terms.iter().try_for_each(|terms| self.validate(terms, factor))?;
                self.backend().clear_reports(&mut optimizer.found)?;
                Ok(Begun::Update(Plan { factor, norm, clip, terms }))
            }
        }
    }

    pub(super) fn validate(&self, terms: &Terms, factor: f32) -> Result<()> {
        let source = self.source(self.options.config.bits(), factor, self.window());
        match *terms {
            Terms::Sgd(terms, nesterov) => Sgd { source, terms, nesterov }.validate(),
            Terms::AdamW(terms) => AdamW { source, terms }.validate(),
        }
    }

    fn source(&self, bits: u32, factor: f32, step: u32) -> Source {
        let config = &self.options.config;
        Source { bits, block: config.block, factor, draw: Draw::new(config.seed, step) }
    }

    /// Whether a tensor takes part in the step.
    pub(crate) fn takes_part(&self, i: usize) -> bool {
        self.options.missing != Missing::Leave || self.reached.get(i).copied().unwrap_or(true)
    }

    /// Updates some tensors, by their places in ascending order.
    pub(crate) fn update(
        &mut self,
        optimizer: &mut Optimizer<B>,
        plan: &Plan,
        places: &[usize],
        weights: Vec<WeightsMut<'_, B>>,
    ) -> Result<()> {
        self.being_written();
        let with = With { terms: &plan.terms, factor: plan.factor, step: self.window(), state: None };
        let updated = self.update_places(optimizer, &with, places, weights);
        let in_part = |e: Error| match e {
            e @ Error::UpdatedInPart { .. } => e,
            e => Error::UpdatedInPart { source: Box::new(e) },
        };
        if let Err(e) = &updated {
            self.refused = Some(e.to_string());
        }
        // It stays refused until the last of the tensors is updated.
        updated.map_err(in_part)
    }

    /// Queues the updates of some tensors.
    pub(super) fn update_places(
        &self,
        optimizer: &mut Optimizer<B>,
        with: &With<'_, B>,
        places: &[usize],
        weights: Vec<WeightsMut<'_, B>>,
    ) -> Result<()> {
        let mut work = Vec::with_capacity(places.len());
        let mut given = places.iter().zip(weights).peekable();
        for (i, moments) in optimizer.moments.iter_mut().enumerate() {
            if let Some((_, weights)) = given.next_if(|(place, _)| **place == i)
                && self.takes_part(i)
            {
                let set = optimizer.sets.of_tensor.get(i).copied().unwrap_or_default();
                work.push(Work { tensor: i, set, held: self.sums.held(i)?, weights, moments });
            }
        }
        // One launch for the tensors that share numbers, width, kind of moments and type of weights.
        let mut kinds: Vec<_> = work.iter().map(Work::kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            if kind.narrow {
                self.launch::<bf16>(&mut optimizer.found, with, kind, &mut work)?;
            } else {
                self.launch::<f32>(&mut optimizer.found, with, kind, &mut work)?;
            }
        }
        Ok(())
    }

    /// Updates the tensors of a kind.
    fn launch<T: Weight>(
        &self,
        found: &mut B::Reports,
        with: &With<'_, B>,
        kind: Kind,
        work: &mut [Work<'_, '_, '_, B>],
    ) -> Result<()> {
        let source = self.source(kind.bits.unwrap_or_else(|| self.options.config.bits()), with.factor, with.step);
        let state = StateOn(with.state.map(B::shorten));
        let work = work.iter_mut().filter(|w| w.kind() == kind);
        match with.terms.get(kind.set).copied() {
            None => Ok(()), // there is one for each set
            Some(Terms::Sgd(terms, nesterov)) => {
                let mut items: Vec<_> = work.filter_map(|w| w.sgd::<T>()).collect();
                run::<_, _, T>(self.backend(), &Sgd { source, terms, nesterov }, &mut items, (state, None, found))
            }
            Some(Terms::AdamW(terms)) if kind.bytes => {
                let mut items: Vec<_> = work.filter_map(|w| w.adamw_8bit::<T>()).collect();
                run::<_, _, T>(self.backend(), &AdamW8 { source, terms }, &mut items, (state, None, found))
            }
            Some(Terms::AdamW(terms)) => {
                let mut items: Vec<_> = work.filter_map(|w| w.adamw::<T>()).collect();
                run::<_, _, T>(self.backend(), &AdamW { source, terms }, &mut items, (state, None, found))
            }
        }
    }

    /// After all tensors were updated: what the update found, and the next window.
    pub(crate) fn updated(&mut self, optimizer: &mut Optimizer<B>, plan: &Plan) -> Result<Outcome> {
        let found = match self.backend().read_reports(&optimizer.found) {
            Ok(found) => found,
            Err(e) => {
                self.refused = Some(e.to_string());
                return Err(Error::UpdatedInPart { source: Box::new(e) });
            }
        };
        self.refused = None;
        optimizer.updates = optimizer.updates.saturating_add(1);
        optimizer.follow();
        let kept = found.iter().zip(self.specs()).filter(|(r, _)| r.non_finite > 0);
        let kept = kept.map(|(r, spec)| (spec.name.clone(), r.non_finite)).collect();
        // The weights are updated: a window that can not be cleared is not one to step with again.
        let ended = self.ended(Outcome::Updated { norm: plan.norm, clip: plan.clip, kept });
        ended.map_err(|e| Error::UpdatedInPart { source: Box::new(e) })
    }
}

/// What tensors share that are updated by one launch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    /// The set of numbers.
    set: usize,
    /// The width of levels and counts; none for a sum in f32.
    bits: Option<u32>,
    /// Whether moments are in 8 bits.
    bytes: bool,
    /// Whether weights are bf16.
    narrow: bool,
}

/// One tensor of an update.
struct Work<'h, 'w, 'm, B: Backend> {
    tensor: usize,
    set: usize,
    held: Held<'h, B>,
    weights: WeightsMut<'w, B>,
    moments: &'m mut Moments<B>,
}

impl<B: Backend> Work<'_, '_, '_, B> {
    fn kind(&self) -> Kind {
        let bits = match self.held {
            Held::Levels { bits, .. } => Some(bits),
            Held::F32(_) => None,
        };
        let bytes = self.moments.format() == MomentFormat::Bits8;
        Kind { set: self.set, bits, bytes, narrow: matches!(self.weights, WeightsMut::Bf16(_)) }
    }

    fn sgd<T: Weight>(&mut self) -> Option<SgdItem<'_, B, T>> {
        let Moments::Wide(buffers) = &mut *self.moments else { return None };
        Some(SgdItem {
            tensor: self.tensor as u32,
            first: 0,
            gradient: self.held.gradient().shorten(),
            weights: T::of::<B>(&mut self.weights)?,
            momentum: buffers.first_mut().map(B::view_mut),
            report: self.tensor,
        })
    }

    fn adamw<T: Weight>(&mut self) -> Option<AdamWItem<'_, B, T>> {
        let Moments::Wide(buffers) = &mut *self.moments else { return None };
        let [one, two] = &mut buffers[..] else { return None };
        Some(AdamWItem {
            tensor: self.tensor as u32,
            first: 0,
            gradient: self.held.gradient().shorten(),
            weights: T::of::<B>(&mut self.weights)?,
            first_moment: B::view_mut(one),
            second_moment: B::view_mut(two),
            report: self.tensor,
        })
    }

    fn adamw_8bit<T: Weight>(&mut self) -> Option<AdamW8Item<'_, B, T>> {
        let Moments::Bytes { words, scales } = &mut *self.moments else { return None };
        Some(AdamW8Item {
            tensor: self.tensor as u32,
            first: 0,
            gradient: self.held.gradient().shorten(),
            weights: T::of::<B>(&mut self.weights)?,
            moments: B::view_mut(words),
            moment_scales: B::view_mut(scales),
            report: self.tensor,
        })
    }
}
