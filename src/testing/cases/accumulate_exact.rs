//! Cases of exact counts: several micro-batches in a row.

use super::accumulate_adaptive::WEIGHTS;
use super::state;
use super::{Given, blocks, count_scales, list, place, scales, shapes, slots, type_name};
use crate::error::Result;
use crate::numerics::float::{magnitude, out_of_range};
use crate::numerics::level::{FINE_LEVELS, micro_batches_max, weighted};
use crate::numerics::pack::{set_field, words};
use crate::numerics::scale::{count_scale, stochastic_scale};
use crate::numerics::state::State;
use crate::op::Element;
use crate::op::accumulate::{EXACT_BITS, Exact, ExactItem};
use crate::op::{Backend, run};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::{Pattern, Rng};

/// Counts micro-batches of a list, one after the other.
#[derive(Clone, Debug)]
pub struct AccumulateExact<T> {
    /// The parameters and the gradients of each micro-batch; lengths are the same in all.
    pub batches: Vec<(Exact, Vec<Given<T>>)>,
    /// The scales of the window at the start, of each tensor.
    pub scales: Vec<Vec<u16>>,
    /// Counts and maxima at the start, of each tensor.
    pub start: Vec<(Vec<u32>, Vec<u16>)>,
    /// How many report slots there are.
    pub slots: usize,
    /// The state that the call follows, if it does.
    pub state: Option<State>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of an [`AccumulateExact`].
pub struct Bound<B: Backend, T: Element> {
    x: Vec<Held<B, T>>,
    counts: Held<B, u32>,
    scales: Held<B, u16>,
    seen: Held<B, u16>,
    state: Option<Held<B, u32>>,
    reports: B::Reports,
}

impl<T: Element> AccumulateExact<T> {
    /// Micro-batches from zero, under the scales of the first of them.
    #[must_use]
    pub fn new(batches: Vec<(Exact, Vec<Given<T>>)>) -> Self {
        let (mut scales, mut start) = (Vec::new(), Vec::new());
        for (op, t) in batches.iter().take(1).flat_map(|(op, given)| given.iter().map(move |t| (op, t))) {
            let size = op.block.get() as usize;
            let m = |x: &T| magnitude(weighted(x.to_f32_bits(), op.weight.to_bits()));
            let max = |x: &[T]| x.iter().map(m).filter(|&m| !out_of_range(m)).max().unwrap_or(0);
            let scale = |x: &[T]| count_scale(op.bits, stochastic_scale(max(x)), 1f32.to_bits());
            scales.push(t.x.chunks(size).map(|x| (scale(x) >> 16) as u16).collect());
            start.push((vec![0; words(t.x.len(), op.bits)], vec![0; op.block.blocks(t.x.len())]));
        }
        AccumulateExact { batches, scales, slots: slots(start.len()), start, state: None, spoil: None }
    }
}

impl<T: Element> Case for AccumulateExact<T> {
    type Bound<B: Backend> = Bound<B, T>;

    fn operation(&self) -> &'static str {
        "accumulate_exact"
    }

    fn parameters(&self) -> String {
        let ops: Vec<&Exact> = self.batches.iter().map(|b| &b.0).collect();
        format!("{} {ops:?}, state {:?}", type_name::<T>(), self.state)
    }

    fn elements(&self) -> u64 {
        self.batches.first().map_or(0, |b| b.1.iter().map(|t| t.x.len() as u64).sum())
    }

    fn bytes(&self) -> u64 {
        let state: usize = self.start.iter().map(|(counts, seen)| 2 * counts.len() * 4 + seen.len() * 8).sum();
        self.elements() * size_of::<T>() as u64 + state as u64
    }

    fn steps(&self) -> usize {
        self.batches.len()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B, T>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        let x = |(_, given): &(Exact, Vec<Given<T>>)| binder.hold("x", given.iter().map(|t| t.x.clone()));
        Ok(Bound {
            x: self.batches.iter().map(x).collect::<Result<_>>()?,
            counts: binder.hold("counts", self.start.iter().map(|s| s.0.clone()))?,
            scales: binder.hold("scales", self.scales.clone())?,
            seen: binder.hold("seen", self.start.iter().map(|s| s.1.clone()))?,
            state: state::hold(&binder, self.state)?,
            reports: backend.reports(self.slots)?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B, T>, step: usize, singly: bool) -> Result<()> {
        let (op, given) = &self.batches[step];
        let sums = bound.counts.views_mut()?.into_iter().zip(bound.seen.views_mut()?);
        let inputs = bound.x[step].views()?.into_iter().zip(bound.scales.views_mut()?);
        let mut items: Vec<ExactItem<'_, B, T>> = given
            .iter()
            .zip(inputs)
            .zip(sums)
            .map(|((t, (x, scales)), (counts, seen))| ExactItem {
                tensor: t.tensor,
                first: t.first,
                x,
                counts,
                scales,
                seen,
                report: t.slot,
            })
            .collect();
        let (state, reports) = (bound.state.as_ref(), &mut bound.reports);
        by(&mut items, singly, |items| run::<_, _, T>(backend, op, items, (state::beside(state)?, &mut *reports)))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B, T>) -> Result<Found, Difference> {
        bound.x.iter().try_for_each(|x| x.unchanged(backend))?;
        state::unchanged(backend, bound.state.as_ref())?;
        let (bits, block) = self.batches.first().map_or((4, 32), |b| (b.0.bits, b.0.block.get() as usize));
        Ok(Found {
            fields: vec![
                bound.scales.read(backend, Layout::Groups(block))?,
                bound.seen.read(backend, Layout::Groups(block))?,
                bound.counts.read(backend, Layout::Packed(bits))?,
            ],
            reports: backend.read_reports(&bound.reports)?,
        })
    }

    fn inputs(&self, tensor: usize, element: usize, step: usize) -> String {
        let (op, given) = &self.batches[step];
        let scale = self.scales[tensor].get(element / op.block.get() as usize);
        format!("{}, scale at the start {scale:x?}", given[tensor].show(element))
    }
}

/// Walks over the cases.
pub(super) fn each<T: Element>(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 5);
    let mut number = T::TYPE as usize;
    for &bits in EXACT_BITS {
        for block in blocks() {
            number += 1;
            for (which, shapes) in shapes(options, block.get() as usize, number).into_iter().enumerate() {
                let op = Exact { bits, block, draw: place(&mut rng), weight: 1.0, held: 0, headroom: None };
                let mut case = window::<T>(options, &mut rng, op, &shapes, number);
                visit.visit(&case)?;
                if options.is_full() || (number + which).is_multiple_of(4) {
                    case.state = Some(state::any(&mut rng));
                    visit.visit(&case)?;
                }
                // Blocks that are seen for the first time; without the full budget the lists take turns.
                if options.is_full() || (number + which).is_multiple_of(2) {
                    let headroom = Some([1.0, 2.0, 0.5, 1.5, f32::MAX, 1e-38][(number / 2 + which) % 6]);
                    let mut case = window::<T>(options, &mut rng, Exact { headroom, ..op }, &shapes, number);
                    unseen(&mut case);
                    visit.visit(&case)?;
                }
            }
        }
    }
    Ok(())
}

/// Micro-batches to the last that a count takes; some tensors begin with counts, maxima and scales of any kind.
fn window<T: Element>(
    options: &Options,
    rng: &mut Rng,
    op: Exact,
    shapes: &[(usize, Pattern)],
    number: usize,
) -> AccumulateExact<T> {
    let mut given = list::<T>(rng, shapes, u64::from(op.block.get()));
    let all = micro_batches_max(op.bits);
    let steps = if options.is_full() { 2 * WEIGHTS.len() } else { 4 }.min(all as usize - 1);
    let held = all - steps as u32;
    let batch = |step: usize| {
        let weight = if step == 0 { 1.0 } else { WEIGHTS[(step + number) % WEIGHTS.len()] };
        let draw = op.draw.micro_batch((op.draw.micro_batch + step as u32) % (1 << 24));
        for (i, t) in given.iter_mut().enumerate() {
            let at = Pattern::ALL.iter().position(|p| *p == shapes[i].1).unwrap_or(0);
            t.x = Pattern::cycle(at + step % 2).values(rng, t.x.len());
        }
        (Exact { draw, weight, held: held + step as u32, ..op }, given.clone())
    };
    let mut case = AccumulateExact::new((0..steps).map(batch).collect());
    let most = held * if op.bits == 32 { FINE_LEVELS } else { 1 };
    for (i, (counts, seen)) in case.start.iter_mut().enumerate().filter(|(i, _)| i % 3 == 2) {
        for element in 0..shapes[i].0 {
            let count = rng.below(2 * u64::from(most) + 1) as i64 - i64::from(most);
            set_field(counts, op.bits, element, count as i32);
        }
        *seen = scales(rng, seen.len(), 0x7e80);
        case.scales[i] = count_scales(rng, op.bits, seen.len());
    }
    case
}

/// Takes the scales away, and of some tensors what the first micro-batch has in every second block: that is seen in the
/// second micro-batch only. The tensors that begin with something keep it.
fn unseen<T: Element>(case: &mut AccumulateExact<T>) {
    for (i, scales) in case.scales.iter_mut().enumerate().filter(|(i, _)| i % 3 != 2) {
        scales.fill(0);
        let Some((op, first)) = case.batches.first_mut() else { continue };
        if i % 2 == 1 {
            let zero = T::from_f32_bits(0);
            first[i].x.chunks_mut(op.block.get() as usize).step_by(2).for_each(|x| x.fill(zero));
        }
    }
}
