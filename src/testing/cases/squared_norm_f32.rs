//! Cases of the squared norm of floats.

use super::sums::{self, sum_slots};
use super::{lengths, long_lengths, type_name};
use crate::error::Result;
use crate::op::Backend;
use crate::op::reduce::{SquaredNormF32 as Op, SquaredNormF32Item};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::{Pattern, Rng};

/// Adds up the squares of a list.
#[derive(Clone, Debug)]
pub struct SquaredNormF32 {
    /// The elements and the slot of the sums of each tensor.
    pub tensors: Vec<(Vec<f32>, usize)>,
    /// The words of the sums at the start.
    pub sums: Vec<u32>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of a [`SquaredNormF32`].
pub struct Bound<B: Backend> {
    x: Held<B, f32>,
    sums: Held<B, u32>,
}

impl Case for SquaredNormF32 {
    type Bound<B: Backend> = Bound<B>;

    fn operation(&self) -> &'static str {
        "squared_norm_f32"
    }

    fn parameters(&self) -> String {
        type_name::<f32>()
    }

    fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.0.len() as u64).sum()
    }

    fn bytes(&self) -> u64 {
        4 * self.elements()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        Ok(Bound {
            x: binder.hold("x", self.tensors.iter().map(|t| t.0.clone()))?,
            sums: binder.hold("sums", [self.sums.clone()])?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B>, _: usize, singly: bool) -> Result<()> {
        let views = self.tensors.iter().zip(bound.x.views()?);
        let mut items: Vec<SquaredNormF32Item<'_, B>> =
            views.map(|(t, x)| SquaredNormF32Item { x, sum: t.1 }).collect();
        let mut sums = bound.sums.views_mut()?.remove(0);
        by(&mut items, singly, |items| backend.squared_norm_f32(&Op, items, B::reborrow(&mut sums)))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B>) -> Result<Found, Difference> {
        bound.x.unchanged(backend)?;
        Ok(Found { fields: vec![bound.sums.read(backend, Layout::Elements)?], reports: Vec::new() })
    }

    fn inputs(&self, _: usize, word: usize, _: usize) -> String {
        let of = |(i, t): (usize, &(Vec<f32>, usize))| (sums::slot_of(word) == t.1).then_some((i, t.0.len()));
        let items: Vec<_> = self.tensors.iter().enumerate().filter_map(of).collect();
        format!("word {} of the sum that these items (number, elements) are added to: {items:?}", sums::word_of(word))
    }
}

/// Walks over the cases.
pub(super) fn each(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 23);
    let mut list = |lengths: &[usize], pattern: &dyn Fn(usize) -> Pattern| {
        let tensor = |(i, &n): (usize, &usize)| (pattern(i).values(&mut rng, n), sums::shared(i));
        let tensors = lengths.iter().enumerate().map(tensor).collect();
        let sums = sums::started(&mut rng, sum_slots(lengths.len()));
        visit.visit(&SquaredNormF32 { tensors, sums, spoil: None })
    };
    // The patterns have NaN, infinities and subnormals, which count as 0, and the largest numbers, whose squares no f64 holds.
    for turn in 0..if options.is_full() { Pattern::ALL.len() } else { 3 } {
        list(&lengths(options, 64, turn), &|i| Pattern::cycle(i + 6 * turn))?;
        list(&long_lengths(options), &|i| Pattern::cycle(i + 6 * turn))?;
    }
    list(&options.within([0, 0]), &|_| Pattern::Normal)
}
