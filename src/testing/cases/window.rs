//! Cases of window scales and of merging counts.

use super::{lengths, levels};
use crate::error::Result;
use crate::numerics::level::level_max;
use crate::numerics::pack::{field, set_field};
use crate::op::Backend;
use crate::op::accumulate::{EXACT_BITS, Merge as MergeOp, WindowScales as ScalesOp};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::Rng;

/// Makes the scales of windows, one call a tensor.
#[derive(Clone, Debug)]
pub struct WindowScales {
    /// The parameters.
    pub op: ScalesOp,
    /// The maxima of each tensor.
    pub seen: Vec<Vec<u16>>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of a [`WindowScales`].
pub struct ScalesBound<B: Backend> {
    seen: Held<B, u16>,
    scales: Held<B, u16>,
}

impl Case for WindowScales {
    type Bound<B: Backend> = ScalesBound<B>;

    fn operation(&self) -> &'static str {
        "window_scales"
    }

    fn parameters(&self) -> String {
        format!("{:?}", self.op)
    }

    fn elements(&self) -> u64 {
        self.seen.iter().map(|s| s.len() as u64).sum()
    }

    fn bytes(&self) -> u64 {
        4 * self.elements()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<ScalesBound<B>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        let seen = binder.hold("seen", self.seen.clone())?;
        Ok(ScalesBound { seen, scales: binder.poisoned("scales", self.seen.iter().map(Vec::len))? })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut ScalesBound<B>, _: usize, _: bool) -> Result<Option<u64>> {
        for (seen, scales) in bound.seen.views()?.into_iter().zip(bound.scales.views_mut()?) {
            backend.window_scales(&self.op, seen, scales)?;
        }
        Ok(None)
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &ScalesBound<B>) -> Result<Found, Difference> {
        bound.seen.unchanged(backend)?;
        Ok(Found { fields: vec![bound.scales.read(backend, Layout::Elements)?], reports: Vec::new() })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        format!("seen = {:x?}", self.seen[tensor].get(element))
    }
}

/// Walks over the cases of window scales.
pub(super) fn each_scales(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 8);
    for headroom in [1.0, 1.5, 0.1, 2.0, 1e-38, 1e-40, 1e38, f32::MAX, 1.000_000_1] {
        let mut seen: Vec<Vec<u16>> = options
            .within((0..40).chain([255, 4097]))
            .into_iter()
            .map(|n| (0..n).map(|_| rng.below(0x7e81) as u16).collect())
            .collect();
        // Every maximum that can be seen.
        seen.push((0..=0x7e80).filter(|&s| s == 0 || s >= 0x1280).collect());
        visit.visit(&WindowScales { op: ScalesOp { headroom }, seen, spoil: None })?;
    }
    Ok(())
}

/// Merges counts, one call a tensor.
#[derive(Clone, Debug)]
pub struct Merge {
    /// The parameters.
    pub op: MergeOp,
    /// What is added and what it is added to, of each tensor.
    pub counts: Vec<(Vec<u32>, Vec<u32>)>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of a [`Merge`].
pub struct MergeBound<B: Backend> {
    from: Held<B, u32>,
    into: Held<B, u32>,
}

impl Case for Merge {
    type Bound<B: Backend> = MergeBound<B>;

    fn operation(&self) -> &'static str {
        "merge"
    }

    fn parameters(&self) -> String {
        format!("{:?}", self.op)
    }

    fn elements(&self) -> u64 {
        self.counts.iter().map(|c| (c.0.len() * 32) as u64 / u64::from(self.op.bits)).sum()
    }

    fn bytes(&self) -> u64 {
        self.counts.iter().map(|c| 12 * c.0.len() as u64).sum()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<MergeBound<B>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        Ok(MergeBound {
            from: binder.hold("from", self.counts.iter().map(|c| c.0.clone()))?,
            into: binder.hold("into", self.counts.iter().map(|c| c.1.clone()))?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut MergeBound<B>, _: usize, _: bool) -> Result<Option<u64>> {
        for (from, into) in bound.from.views()?.into_iter().zip(bound.into.views_mut()?) {
            backend.merge(&self.op, from, into)?;
        }
        Ok(None)
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &MergeBound<B>) -> Result<Found, Difference> {
        bound.from.unchanged(backend)?;
        Ok(Found { fields: vec![bound.into.read(backend, Layout::Packed(self.op.bits))?], reports: Vec::new() })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        let (from, into) = &self.counts[tensor];
        let word = element / (32 / self.op.bits as usize);
        format!("element {element}: words {:x?} into {:x?}", from.get(word), into.get(word))
    }
}

/// Walks over the cases of merge.
pub(super) fn each_merge(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 9);
    for &bits in EXACT_BITS {
        let max = level_max(bits);
        for held in [0, 1, max / 2, max] {
            let op = MergeOp { bits, held, added: max - held };
            let mut counts = |n: usize, within: u32| {
                let mut words = levels(&mut rng, bits, n);
                for i in 0..n {
                    let count = field(&words, bits, i).clamp(-(within as i32), within as i32);
                    set_field(&mut words, bits, i, count);
                }
                words
            };
            let lengths = lengths(options, 64, 0).into_iter().chain(options.within([4097, 65_537]));
            let counts = lengths.map(|n| (counts(n, max - held), counts(n, held))).collect();
            visit.visit(&Merge { op, counts, spoil: None })?;
        }
    }
    Ok(())
}
