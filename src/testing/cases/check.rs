//! Cases of check.

use super::accumulate_adaptive::WEIGHTS;
use super::{Given, list, long_lengths, shapes, slots, type_name};
use crate::error::Result;
use crate::op::Backend;
use crate::op::Element;
use crate::op::check::{Check as Op, Item};
use crate::testing::arena::{Binder, Held, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::{Pattern, Rng};

/// Checks a list.
#[derive(Clone, Debug)]
pub struct Check<T> {
    /// The parameters.
    pub op: Op,
    /// The list; numbers are not used.
    pub tensors: Vec<Given<T>>,
    /// How many report slots there are.
    pub slots: usize,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of a [`Check`].
pub struct Bound<B: Backend, T: Element> {
    x: Held<B, T>,
    reports: B::Reports,
}

impl<T: Element> Case for Check<T> {
    type Bound<B: Backend> = Bound<B, T>;

    fn operation(&self) -> &'static str {
        "check"
    }

    fn parameters(&self) -> String {
        format!("{} {:?}", type_name::<T>(), self.op)
    }

    fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.x.len() as u64).sum()
    }

    fn bytes(&self) -> u64 {
        self.elements() * size_of::<T>() as u64
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B, T>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        let x = binder.hold("x", self.tensors.iter().map(|t| t.x.clone()))?;
        Ok(Bound { x, reports: backend.reports(self.slots)? })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B, T>, _: usize, singly: bool) -> Result<()> {
        let views = self.tensors.iter().zip(bound.x.views()?);
        let mut items: Vec<Item<'_, B, T>> = views.map(|(t, x)| Item { x, first: t.first, report: t.slot }).collect();
        by(&mut items, singly, |items| backend.check(&self.op, items, &mut bound.reports))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B, T>) -> Result<Found, Difference> {
        bound.x.unchanged(backend)?;
        Ok(Found { fields: Vec::new(), reports: backend.read_reports(&bound.reports)? })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        self.tensors[tensor].show(element)
    }
}

/// Walks over the cases.
pub(super) fn each<T: Element>(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 7);
    for (number, weight) in WEIGHTS.into_iter().chain([1e30]).enumerate() {
        let mut lists = shapes(options, 64, number);
        lists.push(long_lengths(options).into_iter().map(|n| (n, Pattern::Strewn)).collect());
        lists.push(
            long_lengths(options).into_iter().enumerate().map(|(i, n)| (n, Pattern::cycle(i + number))).collect(),
        );
        for shapes in lists {
            let tensors = list::<T>(&mut rng, &shapes, 1);
            visit.visit(&Check { op: Op { weight }, tensors, slots: slots(shapes.len()), spoil: None })?;
        }
    }
    Ok(())
}
