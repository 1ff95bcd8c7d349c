//! Cases of weight updates: several steps in a row.

use super::guards::marked;
use super::state;
use super::{Given, blocks, count_scales, large_scales, lengths, levels, list, place, scales, slots, type_name};
use crate::error::Result;
use crate::numerics::pack::words;
use crate::numerics::state::State;
use crate::numerics::update::{AdamWTerms, SgdTerms};
use crate::op::read_out::BITS;
use crate::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};
use crate::op::{Backend, run};
use crate::op::{BlockSize, Element};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::{Pattern, Rng};

/// Which rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// SGD.
    Sgd(Sgd),
    /// AdamW.
    AdamW(AdamW),
}

impl Rule {
    fn source(&self) -> &Source {
        match self {
            Rule::Sgd(op) => &op.source,
            Rule::AdamW(op) => &op.source,
        }
    }

    /// The source, to be changed.
    pub fn source_mut(&mut self) -> &mut Source {
        match self {
            Rule::Sgd(op) => &mut op.source,
            Rule::AdamW(op) => &mut op.source,
        }
    }

    /// Buffers of state an element.
    fn moments(&self) -> usize {
        match self {
            Rule::Sgd(op) => usize::from(op.terms.momentum != 0.0),
            Rule::AdamW(_) => 2,
        }
    }
}

/// Updates a list.
#[derive(Clone, Debug)]
pub struct Update<T> {
    /// The rule of the first step; later steps draw at the steps after it.
    pub rule: Rule,
    /// The list; `x` are the weights.
    pub tensors: Vec<Given<T>>,
    /// The gradient of each tensor: levels and scales; no levels and no scales at all for a dense one.
    pub packed: Vec<(Vec<u32>, Vec<u16>)>,
    /// The dense gradient of each tensor, empty for a packed one.
    pub dense: Vec<Vec<f32>>,
    /// What both moments of each tensor begin with.
    pub moments: Vec<Vec<f32>>,
    /// Whether each slot of the guards counts something; empty for no guards.
    pub guards: Vec<bool>,
    /// How many report slots there are.
    pub slots: usize,
    /// The state that the call follows, if it does.
    pub state: Option<State>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of an [`Update`].
pub struct Bound<B: Backend, T: Element> {
    weights: Held<B, T>,
    levels: Held<B, u32>,
    scales: Held<B, u16>,
    dense: Held<B, f32>,
    moments: Vec<Held<B, f32>>,
    guards: Option<B::Reports>,
    state: Option<Held<B, u32>>,
    reports: B::Reports,
}

impl<T: Element> Case for Update<T> {
    type Bound<B: Backend> = Bound<B, T>;

    fn operation(&self) -> &'static str {
        match self.rule {
            Rule::Sgd(_) => "update_sgd",
            Rule::AdamW(_) => "update_adamw",
        }
    }

    fn parameters(&self) -> String {
        format!("{} {:?}, guards {:?}, state {:?}", type_name::<T>(), self.rule, self.guards, self.state)
    }

    fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.x.len() as u64).sum()
    }

    fn bytes(&self) -> u64 {
        let gradient: usize = self.packed.iter().map(|(levels, scales)| 4 * levels.len() + 2 * scales.len()).sum();
        let dense: usize = self.dense.iter().map(|d| 4 * d.len()).sum();
        let state = 2 * (size_of::<T>() + 4 * self.rule.moments()) as u64;
        self.elements() * state + (gradient + dense) as u64
    }

    fn steps(&self) -> usize {
        3
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B, T>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        let names = ["moment", "second moment"].into_iter().take(self.rule.moments());
        Ok(Bound {
            weights: binder.hold("weights", self.tensors.iter().map(|t| t.x.clone()))?,
            levels: binder.hold("levels", self.packed.iter().map(|p| p.0.clone()))?,
            scales: binder.hold("scales", self.packed.iter().map(|p| p.1.clone()))?,
            dense: binder.hold("dense", self.dense.clone())?,
            moments: names.map(|name| binder.hold(name, self.moments.clone())).collect::<Result<_>>()?,
            guards: if self.guards.is_empty() { None } else { Some(marked(&binder, &self.guards)?) },
            state: state::hold(&binder, self.state)?,
            reports: backend.reports(self.slots)?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B, T>, step: usize, singly: bool) -> Result<()> {
        let mut rule = self.rule;
        rule.source_mut().draw.step = self.rule.source().draw.step.wrapping_add(step as u32);
        let packed = bound.levels.views()?.into_iter().zip(bound.scales.views()?);
        let gradients = packed.zip(bound.dense.views()?).map(|((levels, scales), dense)| {
            if B::len(&dense) > 0 { Gradient::Dense(dense) } else { Gradient::Packed { levels, scales } }
        });
        let mut moments =
            bound.moments.iter_mut().map(|m| Ok(m.views_mut()?.into_iter())).collect::<Result<Vec<_>>>()?;
        let tensors = self.tensors.iter().zip(gradients).zip(bound.weights.views_mut()?);
        let (state, guards, reports) = (bound.state.as_ref(), bound.guards.as_ref(), &mut bound.reports);
        match &rule {
            Rule::Sgd(op) => {
                let mut items: Vec<SgdItem<'_, B, T>> = tensors
                    .map(|((t, gradient), weights)| SgdItem {
                        tensor: t.tensor,
                        first: t.first,
                        gradient,
                        weights,
                        momentum: moments.first_mut().and_then(Iterator::next),
                        report: t.slot,
                    })
                    .collect();
                by(&mut items, singly, |items| {
                    run::<_, _, T>(backend, op, items, (state::beside(state)?, guards, &mut *reports))
                })
            }
            Rule::AdamW(op) => {
                let [m, v] = &mut moments[..] else { return Ok(()) };
                let mut items: Vec<AdamWItem<'_, B, T>> = tensors
                    .zip(m.zip(v))
                    .map(|(((t, gradient), weights), (first_moment, second_moment))| AdamWItem {
                        tensor: t.tensor,
                        first: t.first,
                        gradient,
                        weights,
                        first_moment,
                        second_moment,
                        report: t.slot,
                    })
                    .collect();
                by(&mut items, singly, |items| {
                    run::<_, _, T>(backend, op, items, (state::beside(state)?, guards, &mut *reports))
                })
            }
        }
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B, T>) -> Result<Found, Difference> {
        bound.levels.unchanged(backend)?;
        state::unchanged(backend, bound.state.as_ref())?;
        bound.scales.unchanged(backend)?;
        bound.dense.unchanged(backend)?;
        let mut fields = vec![bound.weights.read(backend, Layout::Elements)?];
        for moment in &bound.moments {
            fields.push(moment.read(backend, Layout::Elements)?);
        }
        let mut reports = bound.guards.as_ref().map_or(Ok(Vec::new()), |guards| backend.read_reports(guards))?;
        reports.extend(backend.read_reports(&bound.reports)?);
        Ok(Found { fields, reports })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        let source = self.rule.source();
        let (bits, block) = (source.bits as usize, source.block.get() as usize);
        let (levels, scales) = &self.packed[tensor];
        format!(
            "first weight {}; words of its group {:x?}, scale {:x?}, dense gradient {:?}",
            self.tensors[tensor].show(element),
            levels.get(element / 32 * bits..(element / 32 + 1) * bits),
            scales.get(element / block),
            self.dense[tensor].get(element)
        )
    }
}

/// Levels and scales of each tensor, and floats: of each the one or the other; every third tensor is dense.
pub(super) fn gradients(rng: &mut Rng, bits: u32, block: BlockSize, lengths: &[usize]) -> Gradients {
    let (mut packed, mut dense) = (Vec::new(), Vec::new());
    for (i, &n) in lengths.iter().enumerate() {
        if i % 3 == 2 {
            packed.push((Vec::new(), Vec::new()));
            dense.push(Pattern::Normal.values(rng, n));
        } else {
            // Scales of gradients as they are met; the squares stay finite.
            let scales = match bits {
                32 => count_scales(rng, bits, block.blocks(n)).into_iter().map(|s| s.min(0x3f80)).collect(),
                _ => scales(rng, block.blocks(n), 0x4b00),
            };
            packed.push((levels(rng, bits, n), scales));
            dense.push(Vec::new());
        }
        debug_assert_eq!(packed[i].0.len(), if i % 3 == 2 { 0 } else { words(n, bits) });
    }
    (packed, dense)
}

/// Levels and scales of each tensor, and floats of each.
type Gradients = (Vec<(Vec<u32>, Vec<u16>)>, Vec<Vec<f32>>);

/// A list of tensors with gradients; every third one is dense.
pub(super) fn update<T: Element>(rng: &mut Rng, rule: Rule, lengths: &[usize]) -> Update<T> {
    let (bits, block) = (rule.source().bits, rule.source().block);
    let shapes: Vec<_> = lengths.iter().map(|n| (*n, Pattern::Normal)).collect();
    let tensors = list(rng, &shapes, u64::from(block.get()));
    let (packed, dense) = gradients(rng, bits, block, lengths);
    let moments = lengths.iter().map(|&n| vec![0.0; n]).collect();
    Update {
        rule,
        tensors,
        packed,
        dense,
        moments,
        guards: Vec::new(),
        slots: slots(lengths.len()),
        state: None,
        spoil: None,
    }
}

/// The rules that the walk meets in turn.
fn rules(adamw: bool, source: Source) -> Vec<Rule> {
    if adamw {
        let terms = |lr, betas, decay, t| AdamWTerms::new(lr, betas, 1e-8, decay, t);
        let all = [
            terms(1e-3, (0.9, 0.999), 0.01, 1),
            terms(1e-3, (0.9, 0.95), 0.0, 7),
            terms(0.3, (0.0, 0.5), 0.1, 1000),
            terms(0.0, (0.9, 0.999), 0.0, u32::MAX),
        ];
        return all.map(|terms| Rule::AdamW(AdamW { source, terms })).into();
    }
    let all = [(0.0, 0.0, false), (0.9, 0.0, false), (0.9, 0.1, true), (0.0, 0.01, false)];
    let rule = |(momentum, weight_decay, nesterov)| {
        let terms = SgdTerms { learning_rate: 0.1, momentum, weight_decay };
        Rule::Sgd(Sgd { source, terms, nesterov })
    };
    all.map(rule).into()
}

/// Weights, gradients, squares and moments at the ends of the range. What would not be finite is kept and reported: weights
/// that are not finite to begin with, moments and weights that overflow, f32 results that a draw rounds up to an
/// infinite bf16. What is finite is taken: the largest and the smallest numbers, gradients whose squares underflow.
fn extremes<T: Element>(rng: &mut Rng, adamw: bool, source: Source) -> Vec<Update<T>> {
    let all = [f32::NAN, f32::INFINITY, f32::MAX, 3.38e38, 1.0, f32::MIN_POSITIVE, 1e-40, 0.0];
    let finite = &all[2..];
    // The largest bf16; half way to the next, rounded up by every second draw, it is infinite.
    let largest = [f32::from_bits(0x7f7f_0000)];
    let source = Source { factor: 1.0, ..source };
    let rules = |rate: f32| match adamw {
        true => {
            let terms = |eps| AdamWTerms::new(f64::from(rate), (0.9, 0.999), eps, 0.0, 3);
            [1e-8, f64::from(f32::MIN_POSITIVE)].map(|eps| Rule::AdamW(AdamW { source, terms: terms(eps) }))
        }
        false => [0.0, 0.9].map(|momentum| {
            let terms = SgdTerms { learning_rate: rate, momentum, weight_decay: 0.0 };
            Rule::Sgd(Sgd { source, terms, nesterov: false })
        }),
    };
    // The learning rate, weights, the size of gradients, and of moments.
    let ends: [(f32, &[f32], f32, f32); 6] = [
        (0.1, &all, 1e36, 0.0),
        (1e-3, finite, 1e-30, 0.0),
        (0.1, finite, 1e38, 3.3e38),
        (1e30, finite, 1e12, 1.0),
        (0.1, &largest, 6.7e36, 0.0),
        (3.3e35, &largest, 1.0, 0.0),
    ];
    let mut cases = Vec::new();
    for (rate, weights, size, moment) in ends {
        for rule in rules(rate) {
            let mut case = update::<T>(rng, rule, &[300, 1029, 517]);
            for x in case.tensors.iter_mut().flat_map(|t| &mut t.x) {
                let (end, negative) = (rng.pick(weights), rng.below(2) == 0);
                *x = T::from_f32_bits(if negative { -end } else { end }.to_bits());
            }
            for g in case.dense.iter_mut().flatten() {
                *g = size.copysign(*g) * (1.0 + rng.unit() as f32);
            }
            case.moments.iter_mut().flatten().for_each(|m| *m = moment * rng.unit() as f32);
            cases.push(case);
        }
    }
    // Levels times scales near and past the end of the range, brought back into it by the factor or not.
    for factor in [0.25, 1e-3, 1.2e-38] {
        let mut rule = rules(0.1)[0];
        rule.source_mut().factor = factor;
        let mut case = update::<T>(rng, rule, &[300, 1029, 517]);
        case.packed.iter_mut().for_each(|p| p.1 = large_scales(source.bits, p.1.len()));
        cases.push(case);
    }
    cases
}

/// Walks over the cases of SGD or AdamW.
pub(super) fn each<T: Element>(adamw: bool, options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 16 + u64::from(adamw));
    let some = |b: &BlockSize| options.is_full() || [32, 64, 256, 4096].contains(&b.get());
    for (number, block) in blocks().filter(some).enumerate() {
        for &bits in BITS {
            let factor = [1.0, 0.125, 1.0 / 3.0, 1e-6][number % 4];
            let source = Source { bits, block, factor, draw: place(&mut rng) };
            for (i, rule) in rules(adamw, source).into_iter().enumerate() {
                if !options.is_full() && (i + number + bits as usize / 2) % 2 == 1 {
                    continue;
                }
                let mut case = update::<T>(&mut rng, rule, &lengths(options, block.get() as usize, i));
                visit.visit(&case)?;
                // Guards: nothing marked, then one slot marked, which stops every item.
                case.guards = vec![false; 3];
                visit.visit(&case)?;
                case.guards[i % 3] = true;
                visit.visit(&case)?;
                case.guards.clear();
                for skip in [0, 1 + i as u32 % 3] {
                    case.state = Some(State { skip, ..state::any(&mut rng) });
                    visit.visit(&case)?;
                }
            }
            for mut case in extremes::<T>(&mut rng, adamw, source) {
                visit.visit(&case)?;
                let factor = case.rule.source().factor;
                case.state = Some(State { rate: 1.0, factor, ..state::any(&mut rng) });
                visit.visit(&case)?;
            }
        }
    }
    Ok(())
}
