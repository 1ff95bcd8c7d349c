//! Cases of the first look.

use super::accumulate_adaptive::WEIGHTS;
use super::{Given, blocks, list, scales, shapes, slots, type_name};
use crate::error::Result;
use crate::op::Backend;
use crate::op::Element;
use crate::op::window::{Look as Op, LookItem};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::Rng;

/// Looks at a list.
#[derive(Clone, Debug)]
pub struct Look<T> {
    /// The parameters.
    pub op: Op,
    /// The list; positions and numbers are not used.
    pub tensors: Vec<Given<T>>,
    /// Maxima at the start, of each tensor.
    pub seen: Vec<Vec<u16>>,
    /// How many report slots there are.
    pub slots: usize,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of a [`Look`].
pub struct Bound<B: Backend, T: Element> {
    x: Held<B, T>,
    seen: Held<B, u16>,
    reports: B::Reports,
}

impl<T: Element> Case for Look<T> {
    type Bound<B: Backend> = Bound<B, T>;

    fn operation(&self) -> &'static str {
        "look"
    }

    fn parameters(&self) -> String {
        format!("{} {:?}", type_name::<T>(), self.op)
    }

    fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.x.len() as u64).sum()
    }

    fn bytes(&self) -> u64 {
        let seen: usize = self.seen.iter().map(|s| s.len() * 4).sum();
        self.elements() * size_of::<T>() as u64 + seen as u64
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B, T>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        Ok(Bound {
            x: binder.hold("x", self.tensors.iter().map(|t| t.x.clone()))?,
            seen: binder.hold("seen", self.seen.clone())?,
            reports: backend.reports(self.slots)?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B, T>, _: usize, singly: bool) -> Result<()> {
        let views = bound.x.views()?.into_iter().zip(bound.seen.views_mut()?);
        let mut items: Vec<LookItem<'_, B, T>> =
            self.tensors.iter().zip(views).map(|(t, (x, seen))| LookItem { x, seen, report: t.slot }).collect();
        by(&mut items, singly, |items| backend.look(&self.op, items, &mut bound.reports))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B, T>) -> Result<Found, Difference> {
        bound.x.unchanged(backend)?;
        Ok(Found {
            fields: vec![bound.seen.read(backend, Layout::Groups(self.op.block.get() as usize))?],
            reports: backend.read_reports(&bound.reports)?,
        })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        self.tensors[tensor].show(element)
    }
}

/// Walks over the cases.
pub(super) fn each<T: Element>(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 6);
    let mut number = T::TYPE as usize;
    for block in blocks() {
        for weight in WEIGHTS {
            number += 1;
            for shapes in shapes(options, block.get() as usize, number) {
                let tensors = list::<T>(&mut rng, &shapes, 32);
                let zeros = |n: usize| vec![0; block.blocks(n)];
                let mut seen: Vec<_> = shapes.iter().map(|s| zeros(s.0)).collect();
                for seen in seen.iter_mut().step_by(2) {
                    *seen = scales(&mut rng, seen.len(), 0x7e80);
                }
                visit.visit(&Look {
                    op: Op { block, weight },
                    tensors,
                    seen,
                    slots: slots(shapes.len()),
                    spoil: None,
                })?;
            }
        }
    }
    Ok(())
}
