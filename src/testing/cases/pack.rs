//! Cases of pack and unpack.

use super::{lengths, long_lengths, slots, trits};
use crate::error::Result;
use crate::numerics::pack::words;
use crate::op::Backend;
use crate::op::pack::{Pack as PackOp, PackItem, Unpack as UnpackOp, UnpackItem};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::Rng;

/// Packs a list of trits.
#[derive(Clone, Debug)]
pub struct Pack {
    /// The trits of each tensor.
    pub trits: Vec<Vec<i8>>,
    /// Added to each tensor's report slot; beyond the last it is an error.
    pub slot: usize,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of a [`Pack`] or [`Unpack`].
pub struct Bound<B: Backend> {
    trits: Held<B, i8>,
    words: Held<B, u32>,
    reports: B::Reports,
}

impl Case for Pack {
    type Bound<B: Backend> = Bound<B>;

    fn operation(&self) -> &'static str {
        "pack"
    }

    fn parameters(&self) -> String {
        "i8 to planes".to_owned()
    }

    fn elements(&self) -> u64 {
        self.trits.iter().map(|t| t.len() as u64).sum()
    }

    fn bytes(&self) -> u64 {
        self.trits.iter().map(|t| (t.len() + 4 * words(t.len(), 2)) as u64).sum()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        Ok(Bound {
            trits: binder.hold("trits", self.trits.clone())?,
            words: binder.poisoned("words", self.trits.iter().map(|t| words(t.len(), 2)))?,
            reports: backend.reports(slots(self.trits.len()))?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B>, _: usize, singly: bool) -> Result<()> {
        let views = bound.trits.views()?.into_iter().zip(bound.words.views_mut()?).enumerate();
        let slot = |i| self.slot.saturating_add(i);
        let mut items: Vec<PackItem<'_, B>> =
            views.map(|(i, (trits, words))| PackItem { trits, words, report: slot(i) }).collect();
        by(&mut items, singly, |items| backend.pack(&PackOp, items, &mut bound.reports))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B>) -> Result<Found, Difference> {
        bound.trits.unchanged(backend)?;
        let words = bound.words.read(backend, Layout::Packed(2))?;
        Ok(Found { fields: vec![words], reports: backend.read_reports(&bound.reports)? })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        format!("element {element} of {}: {:?}", self.trits[tensor].len(), self.trits[tensor].get(element))
    }
}

/// Walks over the cases of pack.
pub(super) fn each_pack(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 10);
    for invalid in [0u64, 5, 100] {
        let value = |rng: &mut Rng| match rng.below(100) < invalid {
            true => rng.pick(&[2, -2, 127, -128, rng.clone().next() as i8]),
            false => rng.pick(&[-1, 0, 1]),
        };
        let lengths = lengths(options, 64, 0).into_iter().chain(long_lengths(options));
        let trits = lengths.map(|n| (0..n).map(|_| value(&mut rng)).collect()).collect();
        visit.visit(&Pack { trits, slot: 1, spoil: None })?;
    }
    let every: Vec<i8> = (i8::MIN..=i8::MAX).collect();
    visit.visit(&Pack { trits: vec![every], slot: 1, spoil: None })
}

/// Unpacks a list of planes.
#[derive(Clone, Debug)]
pub struct Unpack {
    /// The elements and the planes of each tensor.
    pub tensors: Vec<(usize, Vec<u32>)>,
    /// Added to each tensor's report slot; beyond the last it is an error.
    pub slot: usize,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

impl Case for Unpack {
    type Bound<B: Backend> = Bound<B>;

    fn operation(&self) -> &'static str {
        "unpack"
    }

    fn parameters(&self) -> String {
        "planes to i8".to_owned()
    }

    fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.0 as u64).sum()
    }

    fn bytes(&self) -> u64 {
        self.tensors.iter().map(|(n, words)| (n + 4 * words.len()) as u64).sum()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        Ok(Bound {
            trits: binder.poisoned("trits", self.tensors.iter().map(|t| t.0))?,
            words: binder.hold("words", self.tensors.iter().map(|t| t.1.clone()))?,
            reports: backend.reports(slots(self.tensors.len()))?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B>, _: usize, singly: bool) -> Result<()> {
        let views = bound.words.views()?.into_iter().zip(bound.trits.views_mut()?).enumerate();
        let slot = |i| self.slot.saturating_add(i);
        let mut items: Vec<UnpackItem<'_, B>> =
            views.map(|(i, (words, trits))| UnpackItem { words, trits, report: slot(i) }).collect();
        by(&mut items, singly, |items| backend.unpack(&UnpackOp, items, &mut bound.reports))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B>) -> Result<Found, Difference> {
        bound.words.unchanged(backend)?;
        let trits = bound.trits.read(backend, Layout::Elements)?;
        Ok(Found { fields: vec![trits], reports: backend.read_reports(&bound.reports)? })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        let (n, words) = &self.tensors[tensor];
        let pair = element / 32 * 2;
        format!("element {element} of {n}: bit {} of planes {:x?}", element % 32, words.get(pair..pair + 2))
    }
}

/// Walks over the cases of unpack.
pub(super) fn each_unpack(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 11);
    for density in [0, 30, 100] {
        let lengths = lengths(options, 64, 0).into_iter().chain(long_lengths(options));
        let tensors = lengths.map(|n| (n, trits(&mut rng, n, density))).collect();
        visit.visit(&Unpack { tensors, slot: 1, spoil: None })?;
    }
    let invalid = vec![(70, vec![u32::MAX, u32::MAX, 1 << 31, 1 << 31, 0x3f, 0x3f])];
    visit.visit(&Unpack { tensors: invalid, slot: 1, spoil: None })
}
