//! Cases of exact counts: several micro-batches in a row.

use super::accumulate_adaptive::WEIGHTS;
use super::{Given, blocks, list, place, scales, shapes, slots, type_name};
use crate::error::Result;
use crate::numerics::float::{magnitude, out_of_range};
use crate::numerics::level::{level_max, weighted};
use crate::numerics::pack::{set_field, words};
use crate::numerics::scale::stochastic_scale;
use crate::op::Backend;
use crate::op::Element;
use crate::op::accumulate::{EXACT_BITS, Exact, ExactItem};
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
    /// The scales of the window, of each tensor.
    pub scales: Vec<Vec<u16>>,
    /// Counts and maxima at the start, of each tensor.
    pub start: Vec<(Vec<u32>, Vec<u16>)>,
    /// How many report slots there are.
    pub slots: usize,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of an [`AccumulateExact`].
pub struct Bound<B: Backend, T: Element> {
    x: Vec<Held<B, T>>,
    counts: Held<B, u32>,
    scales: Held<B, u16>,
    seen: Held<B, u16>,
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
            scales.push(t.x.chunks(size).map(|x| (stochastic_scale(max(x)) >> 16) as u16).collect());
            start.push((vec![0; words(t.x.len(), op.bits)], vec![0; op.block.blocks(t.x.len())]));
        }
        AccumulateExact { batches, scales, slots: slots(start.len()), start, spoil: None }
    }
}

impl<T: Element> Case for AccumulateExact<T> {
    type Bound<B: Backend> = Bound<B, T>;

    fn operation(&self) -> &'static str {
        "accumulate_exact"
    }

    fn parameters(&self) -> String {
        let ops: Vec<&Exact> = self.batches.iter().map(|b| &b.0).collect();
        format!("{} {ops:?}", type_name::<T>())
    }

    fn elements(&self) -> u64 {
        self.batches.first().map_or(0, |b| b.1.iter().map(|t| t.x.len() as u64).sum())
    }

    fn bytes(&self) -> u64 {
        let state: usize = self.start.iter().map(|(counts, seen)| 2 * counts.len() * 4 + seen.len() * 6).sum();
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
            reports: backend.reports(self.slots)?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B, T>, step: usize, singly: bool) -> Result<Option<u64>> {
        let (op, given) = &self.batches[step];
        let state = bound.counts.views_mut()?.into_iter().zip(bound.seen.views_mut()?);
        let inputs = bound.x[step].views()?.into_iter().zip(bound.scales.views()?);
        let mut items: Vec<ExactItem<'_, B, T>> = given
            .iter()
            .zip(inputs)
            .zip(state)
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
        by(&mut items, singly, |items| backend.accumulate_exact(op, items, &mut bound.reports))?;
        Ok(None)
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B, T>) -> Result<Found, Difference> {
        bound.x.iter().try_for_each(|x| x.unchanged(backend))?;
        bound.scales.unchanged(backend)?;
        let (bits, block) = self.batches.first().map_or((4, 32), |b| (b.0.bits, b.0.block.get() as usize));
        Ok(Found {
            fields: vec![
                bound.seen.read(backend, Layout::Groups(block))?,
                bound.counts.read(backend, Layout::Packed(bits))?,
            ],
            reports: backend.read_reports(&bound.reports)?,
        })
    }

    fn inputs(&self, tensor: usize, element: usize, step: usize) -> String {
        let (op, given) = &self.batches[step];
        let scale = self.scales[tensor].get(element / op.block.get() as usize);
        format!("{}, scale {scale:x?}", given[tensor].show(element))
    }
}

/// Walks over the cases.
pub(super) fn each<T: Element>(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 5);
    let mut number = T::TYPE as usize;
    for &bits in EXACT_BITS {
        for block in blocks() {
            number += 1;
            for shapes in shapes(options, block.get() as usize, number) {
                let draw = place(&mut rng);
                let mut given = list::<T>(&mut rng, &shapes, u64::from(block.get()));
                let steps = if options.is_full() { 2 * WEIGHTS.len() } else { 4 }.min(level_max(bits) as usize - 1);
                let held = level_max(bits) - steps as u32;
                let batch = |step: usize| {
                    let weight = if step == 0 { 1.0 } else { WEIGHTS[(step + number) % WEIGHTS.len()] };
                    let draw = draw.micro_batch((draw.micro_batch + step as u32) % (1 << 24));
                    for (i, t) in given.iter_mut().enumerate() {
                        let at = Pattern::ALL.iter().position(|p| *p == shapes[i].1).unwrap_or(0);
                        t.x = Pattern::cycle(at + step % 2).values(&mut rng, t.x.len());
                    }
                    (Exact { bits, block, draw, weight, held: held + step as u32 }, given.clone())
                };
                let mut case = AccumulateExact::new((0..steps).map(batch).collect());
                for (i, (counts, seen)) in case.start.iter_mut().enumerate().filter(|(i, _)| i % 3 == 2) {
                    for element in 0..shapes[i].0 {
                        let count = rng.below(2 * u64::from(held) + 1) as i32 - held as i32;
                        set_field(counts, bits, element, count);
                    }
                    *seen = scales(&mut rng, seen.len(), 0x7e80);
                    case.scales[i] = scales(&mut rng, seen.len(), 0x7e80);
                }
                visit.visit(&case)?;
            }
        }
    }
    Ok(())
}
