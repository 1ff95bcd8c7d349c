//! Cases of the state of a training, and states for the operations that follow one.

use super::{place, slots};
use crate::error::Result;
use crate::memory::Memory;
use crate::numerics::reduce::{ExactSum, SUM_WORDS};
use crate::numerics::state::State;
use crate::op::Backend;
use crate::op::side::StateOn;
use crate::op::state::{
    AdvanceMicroBatch, AdvanceMicroBatchItem, AdvanceStep, AdvanceStepItem, Decide, DecideItem, corrections,
};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::Rng;

/// The buffer of a state that a call follows, if it does.
pub(super) fn hold<M: Memory>(binder: &Binder<'_, M>, state: Option<State>) -> Result<Option<Held<M, u32>>> {
    state.map(|state| binder.hold("state", [state.words().to_vec()])).transpose()
}

/// The state held, beside a call.
pub(super) fn beside<M: Memory>(held: Option<&Held<M, u32>>) -> Result<StateOn<'_, M>> {
    Ok(StateOn(match held {
        Some(held) => held.views()?.first().copied(),
        None => None,
    }))
}

/// Fails where the state held changed.
pub(super) fn unchanged<M: Memory>(memory: &M, held: Option<&Held<M, u32>>) -> Result<(), Difference> {
    held.map_or(Ok(()), |held| held.unchanged(memory))
}

/// A state from anywhere in a run. An update that follows it is not skipped.
pub(super) fn any(rng: &mut Rng) -> State {
    let (here, window) = (place(rng), rng.below(100) as u32);
    State {
        step: here.step,
        micro_batch: here.micro_batch,
        updates: window,
        rate: rng.pick(&[1.0, 0.1, 3e-4, 0.0]),
        weights: rng.pick(&[1.0, 7.5]),
        factor: rng.pick(&[1.0, -0.125, 1.0 / 3.0, 1e-6]),
        correct1: rng.pick(&[1.0, 10.0, 1.25]),
        correct2: rng.pick(&[1.0, 1000.0, 1.001]),
        ..State::new(0.0, 1024.0)
    }
}

/// What is done to states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// A micro-batch is counted.
    MicroBatch(AdvanceMicroBatch),
    /// A window is decided.
    Decide(Decide),
    /// A window ends.
    Step(AdvanceStep),
}

/// Changes a list of states, several times in a row.
#[derive(Clone, Debug)]
pub struct ChangeStates {
    /// How.
    pub change: Change,
    /// Each state, the sum that decides its window, and the corrections.
    pub states: Vec<(State, [u32; SUM_WORDS], Vec<f32>)>,
    /// Whether each slot of the reports counts something; empty for no reports.
    pub found: Vec<bool>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of a [`ChangeStates`].
pub struct Bound<B: Backend> {
    states: Held<B, u32>,
    sums: Held<B, u32>,
    corrections: Held<B, f32>,
    found: Option<B::Reports>,
}

impl Case for ChangeStates {
    type Bound<B: Backend> = Bound<B>;

    fn operation(&self) -> &'static str {
        match self.change {
            Change::MicroBatch(_) => "advance_micro_batch",
            Change::Decide(_) => "decide",
            Change::Step(_) => "advance_step",
        }
    }

    fn parameters(&self) -> String {
        format!("{:?}, found {:?}", self.change, self.found)
    }

    fn elements(&self) -> u64 {
        self.states.len() as u64
    }

    fn bytes(&self) -> u64 {
        2 * size_of::<State>() as u64 * self.elements()
    }

    fn steps(&self) -> usize {
        3
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        let found = if self.found.is_empty() { None } else { Some(super::guards::marked(&binder, &self.found)?) };
        Ok(Bound {
            states: binder.hold("states", self.states.iter().map(|s| s.0.words().to_vec()))?,
            sums: binder.hold("sums", self.states.iter().map(|s| s.1.to_vec()))?,
            corrections: binder.hold("corrections", self.states.iter().map(|s| s.2.clone()))?,
            found,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B>, _: usize, singly: bool) -> Result<()> {
        let states = bound.states.views_mut()?.into_iter();
        match self.change {
            Change::MicroBatch(op) => {
                let mut items: Vec<_> = states.map(|state| AdvanceMicroBatchItem::<B> { state }).collect();
                by(&mut items, singly, |items| backend.advance_micro_batch(&op, items))
            }
            Change::Decide(op) => {
                let (sums, corrections) = (bound.sums.views()?, bound.corrections.views()?);
                let views = states.zip(sums).zip(corrections);
                let mut items: Vec<_> =
                    views.map(|((state, sum), corrections)| DecideItem::<B> { state, sum, corrections }).collect();
                by(&mut items, singly, |items| backend.decide(&op, items, bound.found.as_ref()))
            }
            Change::Step(op) => {
                let mut items: Vec<_> = states.map(|state| AdvanceStepItem::<B> { state }).collect();
                by(&mut items, singly, |items| backend.advance_step(&op, items))
            }
        }
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B>) -> Result<Found, Difference> {
        bound.sums.unchanged(backend)?;
        bound.corrections.unchanged(backend)?;
        let reports = bound.found.as_ref().map_or(Ok(Vec::new()), |found| backend.read_reports(found))?;
        Ok(Found { fields: vec![bound.states.read(backend, Layout::Elements)?], reports })
    }

    fn inputs(&self, tensor: usize, _: usize, _: usize) -> String {
        let (state, sum, corrections) = &self.states[tensor];
        format!("{state:?}, sum {sum:x?}, corrections {corrections:?}")
    }
}

/// Sums of squares of all sizes: of one number, of many, ties of the leading 24 bits, any words, 0 and less.
fn sums(rng: &mut Rng) -> Vec<[u32; SUM_WORDS]> {
    let mut sums = vec![[0; SUM_WORDS], [u32::MAX; SUM_WORDS]];
    for exponent in 1..255 {
        let mut sum = ExactSum::default();
        for _ in 0..rng.below(4) + 1 {
            sum.add_square(exponent << 23 | rng.word() & 0x007f_ffff);
        }
        sums.push(sum.to_words());
    }
    for _ in 0..200 {
        // A tie in the 24 leading bits, and what makes it none.
        let (at, kept) = (rng.below(580) as u32, 1 << 23 | rng.word() & 0x007f_ffff);
        let mut sum = ExactSum::default();
        sum.add_at(i64::from(2 * kept + 1), at);
        if rng.below(3) == 0 {
            sum.add_at(1, rng.below(u64::from(at) + 1) as u32);
        }
        sums.push(sum.to_words());
        // Any words below the sign; lower ones or upper ones zero.
        let mut words = [0; SUM_WORDS];
        let (from, to) = (rng.below(10) as usize, 10 + rng.below(11) as usize);
        words[from..to].iter_mut().for_each(|word| *word = rng.word());
        words[SUM_WORDS - 1] &= 0x7fff_ffff >> rng.below(31);
        sums.push(words);
    }
    sums
}

/// States whose windows are of all kinds.
fn states(rng: &mut Rng) -> Vec<(State, [u32; SUM_WORDS], Vec<f32>)> {
    let table: Vec<f32> = corrections((0.5, 0.9)).unwrap_or_default();
    let scales = [1.0, 1024.0, 16_777_216.0, 1.0 / 65536.0, 3.0, 1e30, 1e-30];
    let mut sums = sums(rng);
    sums.extend(sums.clone());
    let with = |sum: [u32; SUM_WORDS]| {
        let state = State {
            updates: rng.pick(&[0, 1, 7, 100_000, u32::MAX]),
            skips: rng.pick(&[0, 3, u32::MAX]),
            weights: rng.pick(&[1.0, 8.0, -3.0, 0.3, 0.0, -0.0, 1e-40, 1e30, 1e-30, f32::MAX, 1e38]),
            loss_scale: rng.pick(&scales),
            good: rng.pick(&[0, 1, 2, u32::MAX - 1, u32::MAX]),
            skip: rng.pick(&[0, 0, 1, 2, 3]),
            ..any(rng)
        };
        let long = rng.pick(&[0, 2, 4, table.len()]);
        (state, sum, table[..long.min(table.len())].to_vec())
    };
    sums.into_iter().map(with).collect()
}

/// Walks over the cases of one operation.
pub(super) fn each(operation: &str, options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 50);
    let changes: Vec<Change> = match operation {
        "decide" => {
            [None, Some(1.0), Some(1e-3), Some(f32::MAX)].map(|clip_norm| Change::Decide(Decide { clip_norm })).into()
        }
        "advance_micro_batch" => {
            [1.0, 0.1, -2.0, 0.0, 1e-40, f32::MAX].map(|weight| Change::MicroBatch(AdvanceMicroBatch { weight })).into()
        }
        _ => [None, Some(1), Some(2), Some(u32::MAX)]
            .map(|growth_interval| Change::Step(AdvanceStep { growth_interval }))
            .into(),
    };
    for (number, change) in changes.into_iter().enumerate() {
        let states = states(&mut rng);
        let mut case = ChangeStates { change, states, found: Vec::new(), spoil: None };
        visit.visit(&case)?;
        if operation == "decide" {
            case.found = vec![false; slots(700)];
            visit.visit(&case)?;
            case.found[[0, 5, 130, 701][number]] = true;
            case.found[702] = true;
            visit.visit(&case)?;
            // One state alone.
            case.states.truncate(1);
            visit.visit(&case)?;
        }
    }
    Ok(())
}
