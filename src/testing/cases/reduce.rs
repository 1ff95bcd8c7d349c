//! Cases of the reductions over packed data.

use super::{blocks, groupings, lengths, long_lengths, side, trits};
use crate::error::Result;
use crate::numerics::pack::words;
use crate::op::Backend;
use crate::op::Grouping;
use crate::op::reduce::{Dot as DotOp, SquaredNorm as NormOp};
use crate::testing::arena::{Binder, Held, Place, Spoil};
use crate::testing::case::{Case, Found, Visit};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::Rng;

/// What is reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Nonzeros of the left side.
    CountNonzero,
    /// The dot product of both sides.
    Dot,
    /// The squared norm of the left side, at this many bits.
    SquaredNorm(u32),
}

/// One side: levels (planes for 2 bits) and scales.
pub type Side = (Vec<u32>, Vec<u16>);

/// Reduces one tensor or two.
#[derive(Clone, Debug)]
pub struct Reduce {
    /// The reduction.
    pub reduction: Reduction,
    /// Which elements share a scale.
    pub grouping: Grouping,
    /// Elements.
    pub n: usize,
    /// The left and the right side.
    pub sides: [Side; 2],
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of a [`Reduce`].
pub struct Bound<B: Backend> {
    words: [Held<B, u32>; 2],
    scales: [Held<B, u16>; 2],
}

impl Case for Reduce {
    type Bound<B: Backend> = Bound<B>;

    fn operation(&self) -> &'static str {
        match self.reduction {
            Reduction::CountNonzero => "count_nonzero",
            Reduction::Dot => "dot",
            Reduction::SquaredNorm(_) => "squared_norm",
        }
    }

    fn parameters(&self) -> String {
        format!("{:?} {:?} n = {}", self.reduction, self.grouping, self.n)
    }

    fn elements(&self) -> u64 {
        self.n as u64
    }

    fn bytes(&self) -> u64 {
        let sides = if self.reduction == Reduction::Dot { 2 } else { 1 };
        self.sides[..sides].iter().map(|(words, scales)| (4 * words.len() + 2 * scales.len()) as u64).sum()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        let [a, b] = &self.sides;
        Ok(Bound {
            words: [binder.hold("words_a", [a.0.clone()])?, binder.hold("words_b", [b.0.clone()])?],
            scales: [binder.hold("scales_a", [a.1.clone()])?, binder.hold("scales_b", [b.1.clone()])?],
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B>, _: usize, _: bool) -> Result<Option<u64>> {
        let [words_a, words_b] = [bound.words[0].views()?[0], bound.words[1].views()?[0]];
        let [scales_a, scales_b] = [bound.scales[0].views()?[0], bound.scales[1].views()?[0]];
        let (grouping, n) = (self.grouping, self.n);
        Ok(Some(match self.reduction {
            Reduction::CountNonzero => backend.count_nonzero(words_a)?,
            Reduction::Dot => backend.dot(&DotOp { grouping, n }, words_a, scales_a, words_b, scales_b)?.to_bits(),
            Reduction::SquaredNorm(bits) => {
                backend.squared_norm(&NormOp { bits, grouping, n }, words_a, scales_a)?.to_bits()
            }
        }))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B>) -> Result<Found, Difference> {
        bound.words.iter().try_for_each(|h| h.unchanged(backend))?;
        bound.scales.iter().try_for_each(|h| h.unchanged(backend))?;
        Ok(Found::default())
    }

    fn inputs(&self, _: usize, _: usize, _: usize) -> String {
        self.parameters()
    }
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
        for (i, n) in lengths.into_iter().enumerate() {
            let a = side(&mut rng, 2, grouping, n);
            // Against itself, against its negative (planes swapped), against another.
            let b = match i % 3 {
                0 => a.clone(),
                1 => (a.0.chunks(2).flat_map(|w| [w[1], w[0]]).collect(), a.1.clone()),
                _ => side(&mut rng, 2, grouping, n),
            };
            visit.visit(&Reduce { reduction: Reduction::Dot, grouping, n, sides: [a, b], spoil: None })?;
        }
    }
    Ok(())
}

/// Walks over the cases of the squared norm.
pub(super) fn each_norm(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 21);
    for (number, (grouping, lengths)) in shapes(options).into_iter().enumerate() {
        for (i, n) in lengths.into_iter().enumerate() {
            let all: &[u32] = if options.is_full() { &[2, 4, 8, 16] } else { &[[2, 4, 8, 16][(number + i) % 4]] };
            for &bits in all {
                let sides = [side(&mut rng, bits, grouping, n), Side::default()];
                visit.visit(&Reduce { reduction: Reduction::SquaredNorm(bits), grouping, n, sides, spoil: None })?;
            }
        }
    }
    Ok(())
}

/// Walks over the cases of counting nonzeros.
pub(super) fn each_count(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 22);
    let grouping = Grouping::default();
    for n in
        lengths(options, 64, 0).into_iter().step_by(if options.is_full() { 1 } else { 7 }).chain(long_lengths(options))
    {
        let planes = trits(&mut rng, n, 30);
        debug_assert_eq!(planes.len(), words(n, 2));
        let sides = [(planes, Vec::new()), Side::default()];
        visit.visit(&Reduce { reduction: Reduction::CountNonzero, grouping, n, sides, spoil: None })?;
    }
    Ok(())
}
