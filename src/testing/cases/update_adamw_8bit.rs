//! Cases of AdamW with moments in 8 bits: several steps in a row, from zeros and from states of all kinds.

use super::guards::marked;
use super::state;
use super::update::gradients;
use super::{Given, lengths, list, place, slots, type_name};
use crate::error::Result;
use crate::numerics::moments::MOMENT_BLOCK;
use crate::numerics::state::State;
use crate::numerics::update::AdamWTerms;
use crate::op::read_out::BITS;
use crate::op::update::{Gradient, Source};
use crate::op::update_adamw_8bit::{AdamW8, AdamW8Item};
use crate::op::{Backend, BlockSize, Element, run};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::{Pattern, Rng};

/// Updates a list.
#[derive(Clone, Debug)]
pub struct UpdateAdamW8<T> {
    /// The parameters of the first step; later steps draw at the steps after it.
    pub op: AdamW8,
    /// The list; `x` are the weights.
    pub tensors: Vec<Given<T>>,
    /// The gradient of each tensor: levels and scales; no levels and no scales at all for a dense one.
    pub packed: Vec<(Vec<u32>, Vec<u16>)>,
    /// The dense gradient of each tensor, empty for a packed one.
    pub dense: Vec<Vec<f32>>,
    /// The words and scales that the moments of each tensor begin with.
    pub moments: Vec<(Vec<u16>, Vec<u16>)>,
    /// Whether each slot of the guards counts something; empty for no guards.
    pub guards: Vec<bool>,
    /// How many report slots there are.
    pub slots: usize,
    /// The state that the call follows, if it does.
    pub state: Option<State>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of an [`UpdateAdamW8`].
pub struct Bound<B: Backend, T: Element> {
    weights: Held<B, T>,
    levels: Held<B, u32>,
    scales: Held<B, u16>,
    dense: Held<B, f32>,
    moments: Held<B, u16>,
    moment_scales: Held<B, u16>,
    guards: Option<B::Reports>,
    state: Option<Held<B, u32>>,
    reports: B::Reports,
}

impl<T: Element> Case for UpdateAdamW8<T> {
    type Bound<B: Backend> = Bound<B, T>;

    fn operation(&self) -> &'static str {
        "update_adamw_8bit"
    }

    fn parameters(&self) -> String {
        format!("{} {:?}, guards {:?}, state {:?}", type_name::<T>(), self.op, self.guards, self.state)
    }

    fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.x.len() as u64).sum()
    }

    fn bytes(&self) -> u64 {
        let gradient: usize = self.packed.iter().map(|(levels, scales)| 4 * levels.len() + 2 * scales.len()).sum();
        let dense: usize = self.dense.iter().map(|d| 4 * d.len()).sum();
        let state: usize = self.moments.iter().map(|(words, scales)| 4 * (words.len() + scales.len())).sum();
        2 * size_of::<T>() as u64 * self.elements() + (gradient + dense + state) as u64
    }

    fn steps(&self) -> usize {
        3
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B, T>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        Ok(Bound {
            weights: binder.hold("weights", self.tensors.iter().map(|t| t.x.clone()))?,
            levels: binder.hold("levels", self.packed.iter().map(|p| p.0.clone()))?,
            scales: binder.hold("scales", self.packed.iter().map(|p| p.1.clone()))?,
            dense: binder.hold("dense", self.dense.clone())?,
            moments: binder.hold("moments", self.moments.iter().map(|m| m.0.clone()))?,
            moment_scales: binder.hold("moment scales", self.moments.iter().map(|m| m.1.clone()))?,
            guards: if self.guards.is_empty() { None } else { Some(marked(&binder, &self.guards)?) },
            state: state::hold(&binder, self.state)?,
            reports: backend.reports(self.slots)?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B, T>, step: usize, singly: bool) -> Result<()> {
        let mut op = self.op;
        op.source.draw.step = op.source.draw.step.wrapping_add(step as u32);
        let packed = bound.levels.views()?.into_iter().zip(bound.scales.views()?);
        let gradients = packed.zip(bound.dense.views()?).map(|((levels, scales), dense)| {
            if B::len(&dense) > 0 { Gradient::Dense(dense) } else { Gradient::Packed { levels, scales } }
        });
        let moments = bound.moments.views_mut()?.into_iter().zip(bound.moment_scales.views_mut()?);
        let tensors = self.tensors.iter().zip(gradients).zip(bound.weights.views_mut()?);
        let mut items: Vec<AdamW8Item<'_, B, T>> = tensors
            .zip(moments)
            .map(|(((t, gradient), weights), (moments, moment_scales))| AdamW8Item {
                tensor: t.tensor,
                first: t.first,
                gradient,
                weights,
                moments,
                moment_scales,
                report: t.slot,
            })
            .collect();
        let (state, guards, reports) = (bound.state.as_ref(), bound.guards.as_ref(), &mut bound.reports);
        by(&mut items, singly, |items| {
            run::<_, _, T>(backend, &op, items, (state::beside(state)?, guards, &mut *reports))
        })
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B, T>) -> Result<Found, Difference> {
        bound.levels.unchanged(backend)?;
        state::unchanged(backend, bound.state.as_ref())?;
        bound.scales.unchanged(backend)?;
        bound.dense.unchanged(backend)?;
        let fields = vec![
            bound.weights.read(backend, Layout::Elements)?,
            bound.moments.read(backend, Layout::Elements)?,
            bound.moment_scales.read(backend, Layout::Groups(MOMENT_BLOCK))?,
        ];
        let mut reports = bound.guards.as_ref().map_or(Ok(Vec::new()), |guards| backend.read_reports(guards))?;
        reports.extend(backend.read_reports(&bound.reports)?);
        Ok(Found { fields, reports })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        let (bits, block) = (self.op.source.bits as usize, self.op.source.block.get() as usize);
        let ((levels, scales), (words, moment_scales)) = (&self.packed[tensor], &self.moments[tensor]);
        format!(
            "first weight {}; words of its group {:x?}, scale {:x?}, dense gradient {:?}; first moments {:x?} under {:x?}",
            self.tensors[tensor].show(element),
            levels.get(element / 32 * bits..(element / 32 + 1) * bits),
            scales.get(element / block),
            self.dense[tensor].get(element),
            words.get(element),
            moment_scales.get(element / MOMENT_BLOCK)
        )
    }
}

/// A list of tensors with gradients, every third one dense, and moments of zero.
pub(super) fn update<T: Element>(rng: &mut Rng, op: AdamW8, lengths: &[usize]) -> UpdateAdamW8<T> {
    let shapes: Vec<_> = lengths.iter().map(|n| (*n, Pattern::Normal)).collect();
    let tensors = list(rng, &shapes, u64::from(op.source.block.get()).max(MOMENT_BLOCK as u64));
    let (packed, dense) = gradients(rng, op.source.bits, op.source.block, lengths);
    let moments = lengths.iter().map(|&n| (vec![0; n], vec![0; AdamW8::scales(n)])).collect();
    UpdateAdamW8 {
        op,
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

/// Moments as some run may have left them: scales from all of the range, any word but those that no step writes.
fn anything(rng: &mut Rng, n: usize) -> (Vec<u16>, Vec<u16>) {
    let word = |_| match rng.word() as u16 {
        word if word >> 8 == 0 => 0,
        word if word & 0x7f == 0 => word & 0xff00,
        word => word,
    };
    let words: Vec<u16> = (0..n).map(word).collect();
    let scale = |_| match rng.below(4) {
        0 => 32 + rng.below(223) as u16,
        1 => rng.pick(&[32, 33, 34, 252, 253, 254]),
        _ => 90 + rng.below(40) as u16,
    };
    let scales: Vec<u16> = (0..AdamW8::scales(n)).map(scale).map(|exponent| exponent << 7).collect();
    (words, scales)
}

/// Walks over the cases.
pub(super) fn each<T: Element>(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 18);
    let terms = |rate, betas, eps, decay, t| AdamWTerms::new(rate, betas, eps, decay, t);
    let all = [
        terms(1e-3, (0.9, 0.999), 1e-8, 0.01, 1),
        terms(1e-3, (0.9, 0.95), 1e-8, 0.0, 7),
        terms(0.3, (0.0, 0.5), 1e-8, 0.1, 1000),
        terms(0.0, (0.99, 0.9999), 1e-8, 0.0, u32::MAX),
    ];
    let blocks = [32, 64, 256, 4096].into_iter().filter_map(|b| BlockSize::new(b).ok());
    for (number, block) in blocks.enumerate() {
        for &bits in BITS {
            let factor = [1.0, 0.125, 1.0 / 3.0, 1e-6][number % 4];
            let source = Source { bits, block, factor, draw: place(&mut rng) };
            for (i, &terms) in all.iter().enumerate() {
                if !options.is_full() && (i + number + bits as usize / 2) % 2 == 1 {
                    continue;
                }
                let mut case =
                    update::<T>(&mut rng, AdamW8 { source, terms }, &lengths(options, block.get() as usize, i));
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
                case.state = None;
                for (moments, t) in case.moments.iter_mut().zip(&case.tensors) {
                    *moments = anything(&mut rng, t.x.len());
                }
                visit.visit(&case)?;
            }
            for mut case in extremes::<T>(&mut rng, source) {
                visit.visit(&case)?;
                case.state = Some(State { rate: 1.0, factor: 1.0, ..state::any(&mut rng) });
                visit.visit(&case)?;
            }
        }
    }
    Ok(())
}

/// Weights, gradients and moments at the ends of the range, so that elements are kept among others that are not, whole
/// blocks are, second moments underflow or lie below the smallest code of their block.
fn extremes<T: Element>(rng: &mut Rng, source: Source) -> Vec<UpdateAdamW8<T>> {
    let all = [f32::NAN, f32::INFINITY, f32::MAX, 3.38e38, 1.0, f32::MIN_POSITIVE, 1e-40, 0.0];
    let source = Source { factor: 1.0, ..source };
    // The learning rate, weights, and the sizes of gradients.
    let ends: [(f64, &[f32], &[f32]); 5] = [
        (0.1, &all, &[1e36, 1e18, 1.0]),
        (1e-3, &all[2..], &[1e-30, 1e-22, 0.0]),
        (0.1, &all[2..], &[1e38, 1e19, 1e-6]),
        (1e30, &all[2..], &[1e12, 1e-12]),
        (0.1, &all[..2], &[1.0, 1e-3]),
    ];
    let mut cases = Vec::new();
    for (number, (rate, weights, sizes)) in ends.into_iter().enumerate() {
        for eps in [1e-8, f64::from(f32::MIN_POSITIVE)] {
            let terms = AdamWTerms::new(rate, (0.9, 0.999), eps, 0.0, 3);
            let mut case = update::<T>(rng, AdamW8 { source, terms }, &[300, 1029, 517]);
            for x in case.tensors.iter_mut().flat_map(|t| &mut t.x) {
                let (end, negative) = (rng.pick(weights), rng.below(2) == 0);
                *x = T::from_f32_bits(if negative { -end } else { end }.to_bits());
            }
            for g in case.dense.iter_mut().flatten() {
                *g = rng.pick(sizes).copysign(*g) * (1.0 + rng.unit() as f32);
            }
            if number % 2 == 0 {
                for (moments, t) in case.moments.iter_mut().zip(&case.tensors) {
                    *moments = anything(rng, t.x.len());
                }
            }
            cases.push(case);
        }
    }
    cases
}
