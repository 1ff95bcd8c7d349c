//! Cases of adaptive accumulation: several micro-batches in a row.

use super::state;
use super::{Given, blocks, levels, list, place, scales, shapes, slots, tiles, type_name};
use crate::error::Result;
use crate::numerics::pack::words;
use crate::numerics::state::State;
use crate::op::Element;
use crate::op::accumulate::{ADAPTIVE_BITS, Adaptive, AdaptiveItem};
use crate::op::{Backend, run};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::{Pattern, Rng};

/// Accumulates micro-batches of a list, one after the other.
#[derive(Clone, Debug)]
pub struct AccumulateAdaptive<T> {
    /// The parameters and the gradients of each micro-batch; lengths are the same in all.
    pub batches: Vec<(Adaptive, Vec<Given<T>>)>,
    /// Levels and scales at the start, of each tensor.
    pub start: Vec<(Vec<u32>, Vec<u16>)>,
    /// How many report slots there are.
    pub slots: usize,
    /// The state that the call follows, if it does.
    pub state: Option<State>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of an [`AccumulateAdaptive`].
pub struct Bound<B: Backend, T: Element> {
    x: Vec<Held<B, T>>,
    levels: Held<B, u32>,
    scales: Held<B, u16>,
    state: Option<Held<B, u32>>,
    reports: B::Reports,
}

impl<T: Element> AccumulateAdaptive<T> {
    /// Micro-batches from zero.
    #[must_use]
    pub fn new(batches: Vec<(Adaptive, Vec<Given<T>>)>) -> Self {
        let zeros = |(op, given): &(Adaptive, Vec<Given<T>>)| {
            let state = |t: &Given<T>| (vec![0; words(t.x.len(), op.bits)], vec![0; op.block.blocks(t.x.len())]);
            given.iter().map(state).collect::<Vec<_>>()
        };
        let start = batches.first().map(zeros).unwrap_or_default();
        AccumulateAdaptive { batches, slots: slots(start.len()), start, state: None, spoil: None }
    }
}

impl<T: Element> Case for AccumulateAdaptive<T> {
    type Bound<B: Backend> = Bound<B, T>;

    fn operation(&self) -> &'static str {
        "accumulate_adaptive"
    }

    fn parameters(&self) -> String {
        let ops: Vec<&Adaptive> = self.batches.iter().map(|b| &b.0).collect();
        format!("{} {ops:?}, state {:?}", type_name::<T>(), self.state)
    }

    fn elements(&self) -> u64 {
        self.batches.first().map_or(0, |b| b.1.iter().map(|t| t.x.len() as u64).sum())
    }

    fn bytes(&self) -> u64 {
        let state: usize = self.start.iter().map(|(levels, scales)| 2 * (levels.len() * 4 + scales.len() * 2)).sum();
        self.elements() * size_of::<T>() as u64 + state as u64
    }

    fn steps(&self) -> usize {
        self.batches.len()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B, T>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        let x = |(_, given): &(Adaptive, Vec<Given<T>>)| binder.hold("x", given.iter().map(|t| t.x.clone()));
        Ok(Bound {
            x: self.batches.iter().map(x).collect::<Result<_>>()?,
            levels: binder.hold("levels", self.start.iter().map(|s| s.0.clone()))?,
            scales: binder.hold("scales", self.start.iter().map(|s| s.1.clone()))?,
            state: state::hold(&binder, self.state)?,
            reports: backend.reports(self.slots)?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B, T>, step: usize, singly: bool) -> Result<()> {
        let (op, given) = &self.batches[step];
        let sums = bound.levels.views_mut()?.into_iter().zip(bound.scales.views_mut()?);
        let mut items: Vec<AdaptiveItem<'_, B, T>> = given
            .iter()
            .zip(bound.x[step].views()?)
            .zip(sums)
            .map(|((t, x), (levels, scales))| AdaptiveItem {
                tensor: t.tensor,
                first: t.first,
                x,
                levels,
                scales,
                report: t.slot,
            })
            .collect();
        let (state, reports) = (bound.state.as_ref(), &mut bound.reports);
        by(&mut items, singly, |items| run::<_, _, T>(backend, op, items, (state::beside(state)?, &mut *reports)))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B, T>) -> Result<Found, Difference> {
        bound.x.iter().try_for_each(|x| x.unchanged(backend))?;
        state::unchanged(backend, bound.state.as_ref())?;
        let (bits, block) = self.batches.first().map_or((2, 32), |b| (b.0.bits, b.0.block.get() as usize));
        Ok(Found {
            fields: vec![
                bound.scales.read(backend, Layout::Groups(block))?,
                bound.levels.read(backend, Layout::Packed(bits))?,
            ],
            reports: backend.read_reports(&bound.reports)?,
        })
    }

    fn inputs(&self, tensor: usize, element: usize, step: usize) -> String {
        self.batches[step].1[tensor].show(element)
    }
}

/// Weights of the micro-batches: plain, skipped, negative, a mean, a loss scale.
pub(super) const WEIGHTS: [f32; 6] = [1.0, 1.0 / 3.0, -2.5, 0.0, 1.0 / 65_536.0, 1e-40];

/// Walks over the cases.
pub(super) fn each<T: Element>(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 4);
    let mut number = T::TYPE as usize;
    for &bits in ADAPTIVE_BITS {
        for block in blocks() {
            number += 1;
            for shapes in shapes(options, block.get() as usize, number) {
                let draw = place(&mut rng);
                let mut given = list::<T>(&mut rng, &shapes, u64::from(block.get()));
                let steps = if options.is_full() { 2 * WEIGHTS.len() } else { 4 };
                let batch = |step: usize| {
                    let weight = if step == 0 { 1.0 } else { WEIGHTS[(step + number) % WEIGHTS.len()] };
                    let draw = draw.micro_batch((draw.micro_batch + step as u32) % (1 << 24));
                    // The patterns move on by one each time, so that every block meets several.
                    for (i, t) in given.iter_mut().enumerate() {
                        let at = Pattern::ALL.iter().position(|p| *p == shapes[i].1).unwrap_or(0);
                        t.x = Pattern::cycle(at + step).values(&mut rng, t.x.len());
                    }
                    (Adaptive { bits, block, draw, weight }, given.clone())
                };
                let mut case = AccumulateAdaptive::new((0..steps).map(batch).collect());
                for (i, (l, s)) in case.start.iter_mut().enumerate().filter(|(i, _)| i % 3 == 2) {
                    *l = levels(&mut rng, bits, shapes[i].0);
                    *s = scales(&mut rng, s.len(), 0x7a00);
                }
                visit.visit(&case)?;
                if options.is_full() || number.is_multiple_of(4) {
                    case.state = Some(state::any(&mut rng));
                    visit.visit(&case)?;
                }
            }
            let mut given = tiles::<T>(options, &mut rng, u64::from(block.get()));
            if !given.is_empty() {
                let draw = place(&mut rng);
                let first = (Adaptive { bits, block, draw, weight: 1.0 }, given.clone());
                for t in &mut given {
                    t.x = Pattern::Normal.values(&mut rng, t.x.len());
                }
                let weight = WEIGHTS[number % WEIGHTS.len()];
                visit.visit(&AccumulateAdaptive::new(vec![first, (Adaptive { bits, block, draw, weight }, given)]))?;
            }
        }
    }
    Ok(())
}
