//! Cases of quantize.

use super::state;
use super::{Given, blocks, groupings, list, place, shapes, slots, tiles, type_name};
use crate::error::Result;
use crate::numerics::pack::words;
use crate::numerics::state::State;
use crate::op::quantize::{Item, Quantize as Op, Rule, Threshold};
use crate::op::{Backend, run};
use crate::op::{Element, Grouping};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::{Pattern, Rng};

/// Quantizes a list.
#[derive(Clone, Debug)]
pub struct Quantize<T> {
    /// The parameters.
    pub op: Op,
    /// The list.
    pub tensors: Vec<Given<T>>,
    /// How many report slots there are.
    pub slots: usize,
    /// The state that the call follows, if it does.
    pub state: Option<State>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of a [`Quantize`].
pub struct Bound<B: Backend, T: Element> {
    x: Held<B, T>,
    words: Held<B, u32>,
    scales: Held<B, u16>,
    state: Option<Held<B, u32>>,
    reports: B::Reports,
}

impl<T: Element> Case for Quantize<T> {
    type Bound<B: Backend> = Bound<B, T>;

    fn operation(&self) -> &'static str {
        "quantize"
    }

    fn parameters(&self) -> String {
        format!("{} {:?}, state {:?}", type_name::<T>(), self.op, self.state)
    }

    fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.x.len() as u64).sum()
    }

    fn bytes(&self) -> u64 {
        let of = |t: &Given<T>| {
            let n = t.x.len();
            n * size_of::<T>() + words(n, 2) * 4 + self.op.grouping.groups(n) * 2
        };
        self.tensors.iter().map(|t| of(t) as u64).sum()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B, T>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        let lengths = || self.tensors.iter().map(|t| t.x.len());
        Ok(Bound {
            x: binder.hold("x", self.tensors.iter().map(|t| t.x.clone()))?,
            words: binder.poisoned("words", lengths().map(|n| words(n, 2)))?,
            scales: binder.poisoned("scales", lengths().map(|n| self.op.grouping.groups(n)))?,
            state: state::hold(&binder, self.state)?,
            reports: backend.reports(self.slots)?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B, T>, _: usize, singly: bool) -> Result<()> {
        let outputs = bound.words.views_mut()?.into_iter().zip(bound.scales.views_mut()?);
        let mut items: Vec<Item<'_, B, T>> = self
            .tensors
            .iter()
            .zip(bound.x.views()?)
            .zip(outputs)
            .map(|((t, x), (words, scales))| Item {
                tensor: t.tensor,
                first: t.first,
                x,
                words,
                scales,
                report: t.slot,
            })
            .collect();
        let (state, reports) = (bound.state.as_ref(), &mut bound.reports);
        by(&mut items, singly, |items| run::<_, _, T>(backend, &self.op, items, (state::beside(state)?, &mut *reports)))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B, T>) -> Result<Found, Difference> {
        bound.x.unchanged(backend)?;
        state::unchanged(backend, bound.state.as_ref())?;
        let size = self.tensors.iter().map(|t| self.op.grouping.size(t.x.len())).max().unwrap_or(1);
        Ok(Found {
            fields: vec![
                bound.scales.read(backend, Layout::Groups(size))?,
                bound.words.read(backend, Layout::Packed(2))?,
            ],
            reports: backend.read_reports(&bound.reports)?,
        })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        self.tensors[tensor].show(element)
    }
}

/// Every rule, with draws from anywhere in a run.
fn rules(rng: &mut Rng) -> Vec<Rule> {
    let mut rules = vec![Rule::Stochastic { draw: place(rng), clip: None }];
    rules.extend([2.5, 0.75, 1e-30, 1e30].map(|c| Rule::Stochastic { draw: place(rng), clip: Some(c) }));
    let thresholds = [
        Threshold::Given(0.0),
        Threshold::Given(1e-3),
        Threshold::Given(f32::MAX),
        Threshold::MEAN_MAGNITUDE,
        Threshold::TWN,
        Threshold::ABSMEAN,
        Threshold::Mean(0.0),
        Threshold::Mean(-0.0),
        Threshold::Mean(1e30),
    ];
    rules.extend(thresholds.map(Rule::Threshold));
    rules
}

/// Whether a state changes anything.
const fn follows(rule: Rule) -> bool {
    matches!(rule, Rule::Stochastic { .. })
}

/// Walks over the cases.
pub(super) fn each<T: Element>(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 1);
    let mut number = T::TYPE as usize;
    let case = |rng: &mut Rng, op: Op, shapes: &[(usize, Pattern)], multiple: u64| Quantize::<T> {
        op,
        tensors: list(rng, shapes, multiple),
        slots: slots(shapes.len()),
        state: None,
        spoil: None,
    };
    for rule in rules(&mut rng) {
        for block in blocks() {
            number += 1;
            let op = Op { grouping: Grouping::Block(block), rule };
            for shapes in shapes(options, block.get() as usize, number) {
                let mut case = case(&mut rng, op, &shapes, u64::from(block.get()));
                visit.visit(&case)?;
                if follows(rule) && (options.is_full() || number.is_multiple_of(2)) {
                    case.state = Some(state::any(&mut rng));
                    visit.visit(&case)?;
                }
            }
            let tensors = tiles(options, &mut rng, u64::from(block.get()));
            if !tensors.is_empty() {
                visit.visit(&Quantize::<T> { op, slots: slots(tensors.len()), tensors, state: None, spoil: None })?;
            }
        }
        for (grouping, lengths) in groupings(options, number) {
            let repeats = if options.is_full() { Pattern::ALL.len() } else { 1 };
            for _ in 0..repeats {
                number += 1;
                let shapes: Vec<_> =
                    lengths.iter().enumerate().map(|(i, &n)| (n, Pattern::cycle(i + number))).collect();
                let mut case = case(&mut rng, Op { grouping, rule }, &shapes, begin(grouping));
                visit.visit(&case)?;
                if follows(rule) && (options.is_full() || number.is_multiple_of(4)) {
                    case.state = Some(state::any(&mut rng));
                    visit.visit(&case)?;
                }
            }
        }
    }
    Ok(())
}

/// What the position of a part is a multiple of: groups of 32 and rows both begin there.
fn begin(grouping: Grouping) -> u64 {
    let mut at = 32;
    while let Grouping::Row(cols) = grouping
        && at % cols != 0
    {
        at += 32;
    }
    at
}
