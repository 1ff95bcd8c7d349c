//! Cases of window scales, of comparing them, and of merging counts.

use super::{count_scales, lengths, levels, long_lengths, scales, slots};
use crate::error::Result;
use crate::numerics::level::{FINE_LEVELS, micro_batches_max};
use crate::numerics::pack::{field, set_field};
use crate::op::Backend;
use crate::op::accumulate::EXACT_BITS;
use crate::op::window::{
    CompareScales as CompareOp, CompareScalesItem, Merge as MergeOp, MergeItem, WindowScales as ScalesOp,
    WindowScalesItem,
};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::Rng;

/// Makes the scales of windows.
#[derive(Clone, Debug)]
pub struct WindowScales {
    /// The parameters.
    pub op: ScalesOp,
    /// The maxima of each tensor, and its scales at the start.
    pub tensors: Vec<(Vec<u16>, Vec<u16>)>,
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
        self.tensors.iter().map(|t| t.0.len() as u64).sum()
    }

    fn bytes(&self) -> u64 {
        4 * self.elements()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<ScalesBound<B>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        let seen = binder.hold("seen", self.tensors.iter().map(|t| t.0.clone()))?;
        Ok(ScalesBound { seen, scales: binder.hold("scales", self.tensors.iter().map(|t| t.1.clone()))? })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut ScalesBound<B>, _: usize, singly: bool) -> Result<()> {
        let views = bound.seen.views()?.into_iter().zip(bound.scales.views_mut()?);
        let mut items: Vec<WindowScalesItem<'_, B>> =
            views.map(|(seen, scales)| WindowScalesItem { seen, scales }).collect();
        by(&mut items, singly, |items| backend.window_scales(&self.op, items))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &ScalesBound<B>) -> Result<Found, Difference> {
        bound.seen.unchanged(backend)?;
        Ok(Found { fields: vec![bound.scales.read(backend, Layout::Elements)?], reports: Vec::new() })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        let (seen, scales) = &self.tensors[tensor];
        format!("seen = {:x?}, scale at the start {:x?}", seen.get(element), scales.get(element))
    }
}

/// Walks over the cases of window scales.
pub(super) fn each_scales(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 8);
    for &bits in EXACT_BITS {
        for headroom in [1.0, 1.5, 0.1, 2.0, 1e-38, 1e-40, 1e38, f32::MAX, 1.000_000_1] {
            let mut seen: Vec<Vec<u16>> = options
                .within((0..40).chain([255, 4097]))
                .into_iter()
                .map(|n| (0..n).map(|_| maximum(&mut rng)).collect())
                .collect();
            // Every maximum that can be seen.
            seen.push((0..=0x7e80).filter(|&s| s == 0 || s >= 0x1280).collect());
            let tensors =
                seen.into_iter().map(|seen| (seen.clone(), count_scales(&mut rng, bits, seen.len()))).collect();
            visit.visit(&WindowScales { op: ScalesOp { headroom, bits }, tensors, spoil: None })?;
        }
    }
    Ok(())
}

/// A block's maximum, or 0 for a block that was not seen.
fn maximum(rng: &mut Rng) -> u16 {
    if rng.below(4) == 0 { 0 } else { rng.below(0x7e81) as u16 }
}

/// Compares the scales of windows.
#[derive(Clone, Debug)]
pub struct CompareScales {
    /// The scales of each tensor in the one window, in the other, and the report slot.
    pub tensors: Vec<(Vec<u16>, Vec<u16>, usize)>,
    /// How many report slots there are.
    pub slots: usize,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of a [`CompareScales`].
pub struct CompareBound<B: Backend> {
    a: Held<B, u16>,
    b: Held<B, u16>,
    reports: B::Reports,
}

impl Case for CompareScales {
    type Bound<B: Backend> = CompareBound<B>;

    fn operation(&self) -> &'static str {
        "compare_scales"
    }

    fn parameters(&self) -> String {
        "u16 scales".to_owned()
    }

    fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.0.len() as u64).sum()
    }

    fn bytes(&self) -> u64 {
        4 * self.elements()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<CompareBound<B>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        Ok(CompareBound {
            a: binder.hold("a", self.tensors.iter().map(|t| t.0.clone()))?,
            b: binder.hold("b", self.tensors.iter().map(|t| t.1.clone()))?,
            reports: backend.reports(self.slots)?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut CompareBound<B>, _: usize, singly: bool) -> Result<()> {
        let views = bound.a.views()?.into_iter().zip(bound.b.views()?).zip(&self.tensors);
        let mut items: Vec<CompareScalesItem<'_, B>> =
            views.map(|((a, b), t)| CompareScalesItem { a, b, report: t.2 }).collect();
        by(&mut items, singly, |items| backend.compare_scales(&CompareOp, items, &mut bound.reports))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &CompareBound<B>) -> Result<Found, Difference> {
        bound.a.unchanged(backend)?;
        bound.b.unchanged(backend)?;
        Ok(Found { fields: Vec::new(), reports: backend.read_reports(&bound.reports)? })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        let (a, b, _) = &self.tensors[tensor];
        format!("{:x?} and {:x?}", a.get(element), b.get(element))
    }
}

/// Walks over the cases of comparing scales.
pub(super) fn each_compare(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 26);
    // How many of a thousand blocks differ.
    for differ in [0, 1, 30, 1000] {
        let lengths = lengths(options, 64, 0).into_iter().chain(long_lengths(options));
        let tensor = |(i, n): (usize, usize)| {
            let a = scales(&mut rng, n, 0x7e80);
            let mut b = a.clone();
            for scale in &mut b {
                if rng.below(1000) < differ {
                    *scale ^= 1 << rng.below(15);
                }
            }
            (a, b, 1 + i / 2 * 2)
        };
        let tensors: Vec<_> = lengths.enumerate().map(tensor).collect();
        visit.visit(&CompareScales { slots: slots(tensors.len()), tensors, spoil: None })?;
    }
    // The last block alone, in a tensor longer than any tile.
    let a = vec![0x3f80; 70_001];
    let mut b = a.clone();
    b[70_000] = 0x3f00;
    let tensors = if options.max_elements.is_none_or(|max| max > 70_000) { vec![(a, b, 1)] } else { Vec::new() };
    visit.visit(&CompareScales { tensors, slots: slots(1), spoil: None })
}

/// Merges counts.
#[derive(Clone, Debug)]
pub struct Merge {
    /// The parameters.
    pub op: MergeOp,
    /// The counts that are added and those they are added to, of each tensor.
    pub counts: Vec<(Vec<u32>, Vec<u32>)>,
    /// The maxima that are joined and those they are joined into, of each tensor.
    pub seen: Vec<(Vec<u16>, Vec<u16>)>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of a [`Merge`].
pub struct MergeBound<B: Backend> {
    from: Held<B, u32>,
    into: Held<B, u32>,
    seen_from: Held<B, u16>,
    seen: Held<B, u16>,
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
        let seen: u64 = self.seen.iter().map(|s| 6 * s.0.len() as u64).sum();
        self.counts.iter().map(|c| 12 * c.0.len() as u64).sum::<u64>() + seen
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<MergeBound<B>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        Ok(MergeBound {
            from: binder.hold("from", self.counts.iter().map(|c| c.0.clone()))?,
            into: binder.hold("into", self.counts.iter().map(|c| c.1.clone()))?,
            seen_from: binder.hold("seen_from", self.seen.iter().map(|s| s.0.clone()))?,
            seen: binder.hold("seen", self.seen.iter().map(|s| s.1.clone()))?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut MergeBound<B>, _: usize, singly: bool) -> Result<()> {
        let counts = bound.from.views()?.into_iter().zip(bound.into.views_mut()?);
        let seen = bound.seen_from.views()?.into_iter().zip(bound.seen.views_mut()?);
        let mut items: Vec<MergeItem<'_, B>> = counts
            .zip(seen)
            .map(|((from, into), (seen_from, seen))| MergeItem { from, into, seen_from, seen })
            .collect();
        by(&mut items, singly, |items| backend.merge(&self.op, items))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &MergeBound<B>) -> Result<Found, Difference> {
        bound.from.unchanged(backend)?;
        bound.seen_from.unchanged(backend)?;
        let counts = bound.into.read(backend, Layout::Packed(self.op.bits))?;
        Ok(Found { fields: vec![counts, bound.seen.read(backend, Layout::Elements)?], reports: Vec::new() })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        let (from, into) = &self.counts[tensor];
        let (seen_from, seen) = &self.seen[tensor];
        let word = element / (32 / self.op.bits as usize);
        format!(
            "element {element}: words {:x?} into {:x?}; block {element}: maxima {:x?} into {:x?}",
            from.get(word),
            into.get(word),
            seen_from.get(element),
            seen.get(element)
        )
    }
}

/// Walks over the cases of merge.
pub(super) fn each_merge(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 9);
    for &bits in EXACT_BITS {
        let max = micro_batches_max(bits);
        let each = if bits == 32 { FINE_LEVELS as i32 } else { 1 };
        for held in [0, 1, max / 2, max] {
            let op = MergeOp { bits, held, added: max - held };
            let mut counts = |n: usize, micro_batches: u32| {
                let mut words = levels(&mut rng, bits, n);
                let most = micro_batches as i32 * each;
                for i in 0..n {
                    let count = field(&words, bits, i).clamp(-most, most);
                    set_field(&mut words, bits, i, count);
                }
                words
            };
            let lengths: Vec<_> = lengths(options, 64, 0).into_iter().chain(options.within([4097, 65_537])).collect();
            let counts = lengths.iter().map(|&n| (counts(n, max - held), counts(n, held))).collect();
            // As many maxima as blocks of 32 would have; the operation knows no blocks.
            let mut seen = |&n: &usize| (0..n.div_ceil(32)).map(|_| maximum(&mut rng)).collect::<Vec<_>>();
            let seen = lengths.iter().map(|n| (seen(n), seen(n))).collect();
            visit.visit(&Merge { op, counts, seen, spoil: None })?;
        }
    }
    Ok(())
}
