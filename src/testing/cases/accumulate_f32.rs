//! Cases of accumulation in f32: several micro-batches in a row.

use super::accumulate_adaptive::WEIGHTS;
use super::{Given, list, long_lengths, shapes, slots, type_name};
use crate::error::Result;
use crate::op::accumulate::{F32, F32Item};
use crate::op::{Backend, Element};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::{Pattern, Rng};

/// Accumulates micro-batches of a list, one after the other.
#[derive(Clone, Debug)]
pub struct AccumulateF32<T> {
    /// The parameters and the gradients of each micro-batch; lengths are the same in all. Numbers are not used.
    pub batches: Vec<(F32, Vec<Given<T>>)>,
    /// The sums at the start, of each tensor.
    pub start: Vec<Vec<f32>>,
    /// How many report slots there are.
    pub slots: usize,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of an [`AccumulateF32`].
pub struct Bound<B: Backend, T: Element> {
    x: Vec<Held<B, T>>,
    sum: Held<B, f32>,
    reports: B::Reports,
}

impl<T: Element> AccumulateF32<T> {
    /// Micro-batches from zero.
    #[must_use]
    pub fn new(batches: Vec<(F32, Vec<Given<T>>)>) -> Self {
        let zeros = |(_, given): &(F32, Vec<Given<T>>)| given.iter().map(|t| vec![0.0; t.x.len()]).collect::<Vec<_>>();
        let start = batches.first().map(zeros).unwrap_or_default();
        AccumulateF32 { batches, slots: slots(start.len()), start, spoil: None }
    }
}

impl<T: Element> Case for AccumulateF32<T> {
    type Bound<B: Backend> = Bound<B, T>;

    fn operation(&self) -> &'static str {
        "accumulate_f32"
    }

    fn parameters(&self) -> String {
        let ops: Vec<&F32> = self.batches.iter().map(|b| &b.0).collect();
        format!("{} {ops:?}", type_name::<T>())
    }

    fn elements(&self) -> u64 {
        self.start.iter().map(|sum| sum.len() as u64).sum()
    }

    fn bytes(&self) -> u64 {
        self.elements() * (size_of::<T>() as u64 + 8)
    }

    fn steps(&self) -> usize {
        self.batches.len()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B, T>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        let x = |(_, given): &(F32, Vec<Given<T>>)| binder.hold("x", given.iter().map(|t| t.x.clone()));
        Ok(Bound {
            x: self.batches.iter().map(x).collect::<Result<_>>()?,
            sum: binder.hold("sum", self.start.clone())?,
            reports: backend.reports(self.slots)?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B, T>, step: usize, singly: bool) -> Result<()> {
        let (op, given) = &self.batches[step];
        let views = bound.x[step].views()?.into_iter().zip(bound.sum.views_mut()?);
        let mut items: Vec<F32Item<'_, B, T>> =
            given.iter().zip(views).map(|(t, (x, sum))| F32Item { first: t.first, x, sum, report: t.slot }).collect();
        by(&mut items, singly, |items| backend.accumulate_f32(op, items, &mut bound.reports))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B, T>) -> Result<Found, Difference> {
        bound.x.iter().try_for_each(|x| x.unchanged(backend))?;
        Ok(Found {
            fields: vec![bound.sum.read(backend, Layout::Elements)?],
            reports: backend.read_reports(&bound.reports)?,
        })
    }

    fn inputs(&self, tensor: usize, element: usize, step: usize) -> String {
        let start = self.start[tensor].get(element);
        format!("{}, sum at the start {start:?}", self.batches[step].1[tensor].show(element))
    }
}

/// Walks over the cases.
pub(super) fn each<T: Element>(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 24);
    for number in 0..WEIGHTS.len() {
        let mut lists = shapes(options, 64, number);
        let long = long_lengths(options).into_iter().enumerate();
        lists.push(long.map(|(i, n)| (n, Pattern::cycle(i + number))).collect());
        for shapes in lists {
            let mut given = list::<T>(&mut rng, &shapes, 1);
            let batch = |step: usize| {
                let weight = WEIGHTS[(step + number) % WEIGHTS.len()];
                for (i, t) in given.iter_mut().enumerate() {
                    let at = Pattern::ALL.iter().position(|p| *p == shapes[i].1).unwrap_or(0);
                    t.x = Pattern::cycle(at + step).values(&mut rng, t.x.len());
                }
                (F32 { weight }, given.clone())
            };
            let mut case = AccumulateF32::new((0..4).map(batch).collect());
            for (i, sum) in case.start.iter_mut().enumerate() {
                // Sums that a window can hold: in range, and nothing subnormal. Some near both ends, where the next sum
                // leaves the range or becomes subnormal.
                let pattern = match i % 4 {
                    0 => continue,
                    1 => Pattern::LargestInRange,
                    2 => Pattern::ZeroEdge,
                    _ => Pattern::Normal,
                };
                *sum = pattern.values(&mut rng, sum.len());
                sum.iter_mut().filter(|x| x.is_subnormal()).for_each(|x| *x = 0.0);
            }
            visit.visit(&case)?;
        }
    }
    Ok(())
}
