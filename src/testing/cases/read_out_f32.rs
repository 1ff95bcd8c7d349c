//! Cases of read out of sums held in f32.

use super::guards::marked;
use super::{lengths, long_lengths, type_name};
use crate::error::Result;
use crate::op::read_out::{F32Item, ReadOutF32 as Op};
use crate::op::{Backend, Element};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::{Pattern, Rng};
use std::marker::PhantomData;

/// Reads a list of sums out.
#[derive(Clone, Debug)]
pub struct ReadOutF32<T> {
    /// The parameters.
    pub op: Op,
    /// The sums of each tensor and the slot of the guards that it names.
    pub tensors: Vec<(Vec<f32>, Option<usize>)>,
    /// Which of the guards count something.
    pub guards: Vec<bool>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
    /// The output type.
    pub output: PhantomData<T>,
}

/// The buffers of a [`ReadOutF32`].
pub struct Bound<B: Backend, T: Element> {
    sum: Held<B, f32>,
    out: Held<B, T>,
    guards: B::Reports,
}

impl<T: Element> Case for ReadOutF32<T> {
    type Bound<B: Backend> = Bound<B, T>;

    fn operation(&self) -> &'static str {
        "read_out_f32"
    }

    fn parameters(&self) -> String {
        format!("{} {:?}", type_name::<T>(), self.op)
    }

    fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.0.len() as u64).sum()
    }

    fn bytes(&self) -> u64 {
        self.elements() * (4 + size_of::<T>() as u64)
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B, T>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        Ok(Bound {
            sum: binder.hold("sum", self.tensors.iter().map(|t| t.0.clone()))?,
            out: binder.poisoned("out", self.tensors.iter().map(|t| t.0.len()))?,
            guards: marked(&binder, &self.guards)?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B, T>, _: usize, singly: bool) -> Result<()> {
        let views = bound.sum.views()?.into_iter().zip(bound.out.views_mut()?);
        let mut items: Vec<F32Item<'_, B, T>> =
            views.zip(&self.tensors).map(|((sum, out), t)| F32Item { sum, out, guard: t.1 }).collect();
        let guards = if self.guards.is_empty() { None } else { Some(&bound.guards) };
        by(&mut items, singly, |items| backend.read_out_f32(&self.op, items, guards))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B, T>) -> Result<Found, Difference> {
        bound.sum.unchanged(backend)?;
        Ok(Found {
            fields: vec![bound.out.read(backend, Layout::Elements)?],
            reports: backend.read_reports(&bound.guards)?,
        })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        let (sum, guard) = &self.tensors[tensor];
        format!("element {element} of {}: sum {:?}, guard {guard:?}", sum.len(), sum.get(element))
    }
}

/// Walks over the cases.
pub(super) fn each<T: Element>(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 25);
    // A window holds no NaN, no infinity and nothing from 2^126 up.
    let patterns =
        [Pattern::Normal, Pattern::LargestInRange, Pattern::ZeroEdge, Pattern::Grid, Pattern::Outlier, Pattern::Last];
    let factors = [1.0, 1.0 / 3.0, -0.1, 65_536.0, 1.5e-20, f32::MAX, -1e30, 0.0];
    for (factor, guarded) in factors.into_iter().zip([false, true].into_iter().cycle()) {
        let lengths = lengths(options, 64, 0).into_iter().chain(long_lengths(options)).enumerate();
        let mut tensor = |(i, n): (usize, usize)| {
            let mut sum: Vec<f32> = patterns[i % patterns.len()].values(&mut rng, n);
            sum.iter_mut().filter(|x| x.is_subnormal()).for_each(|x| *x = 0.0);
            (sum, (guarded && i % 3 > 0).then_some(i % 5))
        };
        let tensors = lengths.map(&mut tensor).collect();
        let guards = if guarded { vec![false, true, false, false, true] } else { Vec::new() };
        visit.visit(&ReadOutF32::<T> { op: Op { factor }, tensors, guards, spoil: None, output: PhantomData })?;
    }
    Ok(())
}
