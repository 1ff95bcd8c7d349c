//! Cases of the reductions over packed data.

use super::sums::{self, sum_slots};
use super::{blocks, groupings, lengths, long_lengths, side, trits};
use crate::error::Result;
use crate::numerics::pack::words;
use crate::op::read_out::BITS;
use crate::op::reduce::{CountNonzero, CountNonzeroItem, Dot, DotItem, SquaredNorm, SquaredNormItem};
use crate::op::{Backend, Grouping};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::Rng;

/// What is reduced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reduction {
    /// Nonzeros of the left side.
    CountNonzero(CountNonzero),
    /// The dot product of both sides.
    Dot(Dot),
    /// The squared norm of the left side.
    SquaredNorm(SquaredNorm),
}

/// One side: levels (planes for 2 bits) and scales.
pub type Side = (Vec<u32>, Vec<u16>);

/// One tensor of a list, or two.
#[derive(Clone, Debug)]
pub struct Reduced {
    /// Elements.
    pub n: usize,
    /// The left and the right side.
    pub sides: [Side; 2],
    /// The slot of the sums.
    pub slot: usize,
}

/// Reduces a list.
#[derive(Clone, Debug)]
pub struct Reduce {
    /// The reduction.
    pub reduction: Reduction,
    /// The list.
    pub tensors: Vec<Reduced>,
    /// The words of the sums at the start.
    pub sums: Vec<u32>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of a [`Reduce`].
pub struct Bound<B: Backend> {
    words: [Held<B, u32>; 2],
    scales: [Held<B, u16>; 2],
    sums: Held<B, u32>,
}

impl Case for Reduce {
    type Bound<B: Backend> = Bound<B>;

    fn operation(&self) -> &'static str {
        match self.reduction {
            Reduction::CountNonzero(_) => "count_nonzero",
            Reduction::Dot(_) => "dot",
            Reduction::SquaredNorm(_) => "squared_norm",
        }
    }

    fn parameters(&self) -> String {
        format!("{:?}", self.reduction)
    }

    fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.n as u64).sum()
    }

    fn bytes(&self) -> u64 {
        let sides = if let Reduction::Dot(_) = self.reduction { 2 } else { 1 };
        let of = |(words, scales): &Side| (4 * words.len() + 2 * scales.len()) as u64;
        self.tensors.iter().flat_map(|t| &t.sides[..sides]).map(of).sum()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        let words = |name, side: usize| binder.hold(name, self.tensors.iter().map(|t| t.sides[side].0.clone()));
        let scales = |name, side: usize| binder.hold(name, self.tensors.iter().map(|t| t.sides[side].1.clone()));
        Ok(Bound {
            words: [words("words_a", 0)?, words("words_b", 1)?],
            scales: [scales("scales_a", 0)?, scales("scales_b", 1)?],
            sums: binder.hold("sums", [self.sums.clone()])?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B>, _: usize, singly: bool) -> Result<()> {
        let [words_a, words_b] = [bound.words[0].views()?, bound.words[1].views()?];
        let [scales_a, scales_b] = [bound.scales[0].views()?, bound.scales[1].views()?];
        let left = self.tensors.iter().zip(words_a.into_iter().zip(scales_a));
        let mut sums = bound.sums.views_mut()?.remove(0);
        match &self.reduction {
            Reduction::CountNonzero(op) => {
                let mut items: Vec<CountNonzeroItem<'_, B>> =
                    left.map(|(t, (words, _))| CountNonzeroItem { words, sum: t.slot }).collect();
                by(&mut items, singly, |items| backend.count_nonzero(op, items, B::reborrow(&mut sums)))
            }
            Reduction::Dot(op) => {
                let right = words_b.into_iter().zip(scales_b);
                let mut items: Vec<DotItem<'_, B>> = left
                    .zip(right)
                    .map(|((t, (words_a, scales_a)), (words_b, scales_b))| DotItem {
                        n: t.n,
                        words_a,
                        scales_a,
                        words_b,
                        scales_b,
                        sum: t.slot,
                    })
                    .collect();
                by(&mut items, singly, |items| backend.dot(op, items, B::reborrow(&mut sums)))
            }
            Reduction::SquaredNorm(op) => {
                let mut items: Vec<SquaredNormItem<'_, B>> =
                    left.map(|(t, (levels, scales))| SquaredNormItem { n: t.n, levels, scales, sum: t.slot }).collect();
                by(&mut items, singly, |items| backend.squared_norm(op, items, B::reborrow(&mut sums)))
            }
        }
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B>) -> Result<Found, Difference> {
        bound.words.iter().try_for_each(|h| h.unchanged(backend))?;
        bound.scales.iter().try_for_each(|h| h.unchanged(backend))?;
        Ok(Found { fields: vec![bound.sums.read(backend, Layout::Elements)?], reports: Vec::new() })
    }

    fn inputs(&self, _: usize, word: usize, _: usize) -> String {
        let of = |(i, t): (usize, &Reduced)| (sums::slot_of(word) == t.slot).then_some((i, t.n));
        let items: Vec<_> = self.tensors.iter().enumerate().filter_map(of).collect();
        format!("word {} of the sum that these items (number, elements) are added to: {items:?}", sums::word_of(word))
    }
}

/// A list of tensors, their sums in slots that several share.
fn list(
    rng: &mut Rng,
    reduction: Reduction,
    lengths: &[usize],
    mut sides: impl FnMut(&mut Rng, usize, usize) -> [Side; 2],
) -> Reduce {
    let tensor = |(i, &n): (usize, &usize)| Reduced { n, sides: sides(rng, i, n), slot: sums::shared(i) };
    let tensors = lengths.iter().enumerate().map(tensor).collect();
    Reduce { reduction, tensors, sums: sums::started(rng, sum_slots(lengths.len())), spoil: None }
}

/// Groupings and lengths that reductions are tried with.
fn shapes(options: &Options) -> Vec<(Grouping, Vec<usize>)> {
    let few = |block: usize| options.within([0, 1, 31, 33, block, 3 * block - 1, 7 * block + 5]);
    let every = |block: usize| if options.is_full() { lengths(options, block, 0) } else { few(block) };
    let mut shapes: Vec<_> = blocks().map(|b| (Grouping::Block(b), every(b.get() as usize))).collect();
    shapes.push((Grouping::default(), long_lengths(options)));
    let keep = |(i, group): (usize, (Grouping, Vec<usize>))| (options.is_full() || i % 2 == 0).then_some(group);
    shapes.extend(groupings(options, 0).into_iter().enumerate().filter_map(keep));
    for (_, lengths) in shapes.iter_mut().filter(|_| !options.is_full()) {
        if lengths.len() > 12 {
            *lengths = lengths.iter().copied().step_by(lengths.len() / 12 + 1).collect();
        }
    }
    shapes
}

/// Walks over the cases of the dot product.
pub(super) fn each_dot(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 20);
    for (grouping, lengths) in shapes(options) {
        visit.visit(&list(&mut rng, Reduction::Dot(Dot { grouping }), &lengths, |rng, i, n| {
            let a = side(rng, 2, grouping, n);
            // Against itself, against its negative (planes swapped), against another.
            let b = match i % 3 {
                0 => a.clone(),
                1 => (a.0.chunks(2).flat_map(|w| [w[1], w[0]]).collect(), a.1.clone()),
                _ => side(rng, 2, grouping, n),
            };
            [a, b]
        }))?;
    }
    Ok(())
}

/// Walks over the cases of the squared norm.
pub(super) fn each_norm(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 21);
    for (grouping, lengths) in shapes(options) {
        for &bits in BITS {
            let reduction = Reduction::SquaredNorm(SquaredNorm { bits, grouping });
            visit.visit(&list(&mut rng, reduction, &lengths, |rng, _, n| {
                [side(rng, bits, grouping, n), Side::default()]
            }))?;
        }
    }
    Ok(())
}

/// Walks over the cases of counting nonzeros.
pub(super) fn each_count(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 22);
    let some = lengths(options, 64, 0).into_iter().step_by(if options.is_full() { 1 } else { 7 });
    for lengths in [some.collect(), long_lengths(options)] {
        visit.visit(&list(&mut rng, Reduction::CountNonzero(CountNonzero), &lengths, |rng, _, n| {
            let planes = trits(rng, n, 30);
            debug_assert_eq!(planes.len(), words(n, 2));
            [(planes, Vec::new()), Side::default()]
        }))?;
    }
    Ok(())
}
