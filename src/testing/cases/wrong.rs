//! Calls with one wrong argument each: the error must be the reference's, field by field, and nothing may change.

use super::update::update;
use super::update_adamw_8bit;
use super::{
    AccumulateAdaptive, AccumulateExact, AccumulateF32, Change, ChangeStates, Check, CompareScales, Conversion,
    Convert, Dequantize, Given, Levels, Look, Merge, Pack, Quantize, ReadOut, ReadOutF32, Reduce, Reduced, Reduction,
    SquaredNormF32, Unpack, UpdateAdamW8, UpdateRule, WindowScales, list, side, trits,
};
use crate::error::Result;
use crate::numerics::constants::{ELEMENTS_MAX, MICRO_BATCHES_MAX};
use crate::numerics::reduce::SUM_WORDS;
use crate::numerics::state::State;
use crate::numerics::update::{AdamWTerms, SgdTerms};
use crate::op::Backend;
use crate::op::accumulate::{Adaptive, Exact, F32};
use crate::op::quantize::{Quantize as QuantizeOp, Rule, Threshold};
use crate::op::read_out::{ReadOut as ReadOutOp, ReadOutF32 as ReadOutF32Op};
use crate::op::reduce::{CountNonzero, Dot, SquaredNorm};
use crate::op::state::{AdvanceMicroBatch, AdvanceStep, Decide};
use crate::op::update::{AdamW, Sgd, Source};
use crate::op::update_adamw_8bit::AdamW8;
use crate::op::window::{Look as LookOp, Merge as MergeOp, WindowScales as ScalesOp};
use crate::op::{BlockSize, Draw, Element, Grouping};
use crate::testing::arena::{Place, Spoil};
use crate::testing::case::{Case, Found, Visit};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::{Pattern, Rng};
use std::marker::PhantomData;

/// A case that must fail, and why.
#[derive(Clone, Debug)]
pub struct Wrong<C> {
    /// The call.
    pub case: C,
    /// What is wrong with it.
    pub why: String,
}

impl<C: Case> Case for Wrong<C> {
    type Bound<B: Backend> = C::Bound<B>;

    fn operation(&self) -> &'static str {
        self.case.operation()
    }

    fn parameters(&self) -> String {
        format!("wrong: {}, {}", self.why, self.case.parameters())
    }

    fn elements(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn must_fail(&self) -> bool {
        true
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<C::Bound<B>> {
        self.case.bind(backend, place)
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut C::Bound<B>, step: usize, _: bool) -> Result<()> {
        // In one list always: one by one, the items before the wrong one would be done.
        self.case.call(backend, bound, step, false)
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &C::Bound<B>) -> Result<Found, Difference> {
        self.case.collect(backend, bound)
    }

    fn inputs(&self, tensor: usize, element: usize, step: usize) -> String {
        self.case.inputs(tensor, element, step)
    }
}

/// Makes cases wrong and hands them on.
struct Spoiler<'a, V, C> {
    good: C,
    visit: &'a mut V,
}

impl<V: Visit, C: Case + Clone> Spoiler<'_, V, C> {
    /// With one change.
    fn with(&mut self, why: impl Into<String>, change: impl FnOnce(&mut C)) -> Result<(), Box<Failure>> {
        let mut case = self.good.clone();
        change(&mut case);
        self.visit.visit(&Wrong { case, why: why.into() })
    }

    /// With each of these buffers one element longer, and one shorter.
    fn lengths(
        &mut self,
        roles: &[&'static str],
        tensor: usize,
        spoil: impl Fn(&mut C) -> &mut Option<Spoil>,
    ) -> Result<(), Box<Failure>> {
        for &role in roles {
            for by in [1, -1] {
                let change = |c: &mut C| *spoil(c) = Some(Spoil { role, tensor, by });
                self.with(format!("`{role}` of tensor {tensor} {by:+}"), change)?;
            }
        }
        Ok(())
    }
}

/// Lengths of the lists; the last tensor is the one made wrong.
const SHAPES: [(usize, Pattern); 3] = [(96, Pattern::Normal), (130, Pattern::Normal), (64, Pattern::Normal)];
const LAST: usize = SHAPES.len() - 1;

fn given<T: Element>(rng: &mut Rng) -> Vec<Given<T>> {
    list(rng, &SHAPES, 64)
}

/// Walks over the wrong calls of one operation.
pub(super) fn each(operation: &str, options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 40);
    match operation {
        "quantize" => quantize(&mut rng, visit),
        "dequantize" => dequantize(&mut rng, visit),
        "accumulate_adaptive" => adaptive(&mut rng, visit),
        "accumulate_exact" => exact(&mut rng, visit),
        "accumulate_f32" => sums_in_f32(&mut rng, visit),
        "look" => look(&mut rng, visit),
        "window_scales" => scales(visit),
        "compare_scales" => compare(visit),
        "merge" => merge(visit),
        "read_out" => read_out(&mut rng, visit),
        "read_out_f32" => read_out_f32(visit),
        "check" => check(&mut rng, visit),
        "pack" => pack(visit),
        "unpack" => unpack(&mut rng, visit),
        "split_planes" => convert(Conversion::SplitPlanes, &["words", "plus", "minus"], visit),
        "join_planes" => convert(Conversion::JoinPlanes, &["words", "plus", "minus"], visit),
        "planes_to_fields" => convert(Conversion::PlanesToFields, &["words", "fields"], visit),
        "fields_to_planes" => convert(Conversion::FieldsToPlanes, &["words", "fields"], visit),
        "count_nonzero" => reduce(&mut rng, Reduction::CountNonzero(CountNonzero), &[], visit),
        "dot" => {
            let roles = ["words_a", "words_b", "scales_a", "scales_b"];
            reduce(&mut rng, Reduction::Dot(Dot::default()), &roles, visit)
        }
        "squared_norm" => {
            let op = SquaredNorm { bits: 4, grouping: Grouping::default() };
            reduce(&mut rng, Reduction::SquaredNorm(op), &["words_a", "scales_a"], visit)
        }
        "squared_norm_f32" => squared_norm_f32(visit),
        "update_sgd" | "update_adamw" => updates(&mut rng, operation == "update_adamw", visit),
        "update_adamw_8bit" => update_8bit(&mut rng, visit),
        "advance_micro_batch" => micro_batch(visit),
        "decide" => decide(visit),
        "advance_step" => step(visit),
        _ => Ok(()),
    }
}

fn change(change: Change) -> ChangeStates {
    let states = vec![(State::new(1.0, 1.0), [0; SUM_WORDS], vec![1.0; 4]); SHAPES.len()];
    ChangeStates { change, states, found: Vec::new(), spoil: None }
}

fn micro_batch(visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let with = |weight| Change::MicroBatch(AdvanceMicroBatch { weight });
    let mut spoiler = Spoiler { good: change(with(1.0)), visit };
    spoiler.lengths(&["states"], LAST, |c| &mut c.spoil)?;
    for weight in [f32::NAN, f32::INFINITY] {
        spoiler.with(format!("weight {weight}"), |c| c.change = with(weight))?;
    }
    Ok(())
}

fn decide(visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let with = |clip_norm| Change::Decide(Decide { clip_norm });
    let mut spoiler = Spoiler { good: change(with(None)), visit };
    spoiler.lengths(&["states", "sums", "corrections"], LAST, |c| &mut c.spoil)?;
    for limit in [0.0, -1.0, 1e-40, f32::NAN, f32::INFINITY] {
        spoiler.with(format!("clip norm {limit}"), |c| c.change = with(Some(limit)))?;
    }
    Ok(())
}

fn step(visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let with = |growth_interval| Change::Step(AdvanceStep { growth_interval });
    let mut spoiler = Spoiler { good: change(with(None)), visit };
    spoiler.lengths(&["states"], LAST, |c| &mut c.spoil)?;
    spoiler.with("growth interval of 0", |c| c.change = with(Some(0)))
}

/// With the words of a state one longer, and one shorter.
fn states<V: Visit, C: Case + Clone>(
    spoiler: &mut Spoiler<'_, V, C>,
    of: impl Fn(&mut C) -> (&mut Option<State>, &mut Option<Spoil>),
) -> Result<(), Box<Failure>> {
    for by in [1, -1] {
        spoiler.with(format!("words of the state {by:+}"), |c| {
            let (state, spoil) = of(c);
            *state = Some(State::new(1.0, 1.0));
            *spoil = Some(Spoil { role: "state", tensor: 0, by });
        })?;
    }
    Ok(())
}

const TOO_LATE: Draw = Draw { seed: 1, step: 1, micro_batch: MICRO_BATCHES_MAX };

fn quantize(rng: &mut Rng, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let op = QuantizeOp::stochastic(Draw::new(1, 2));
    let good = Quantize::<f32> { op, tensors: given(rng), slots: 6, state: None, spoil: None };
    let mut spoiler = Spoiler { good, visit };
    states(&mut spoiler, |c| (&mut c.state, &mut c.spoil))?;
    spoiler.lengths(&["words", "scales"], LAST, |c| &mut c.spoil)?;
    spoiler.with("slot past the last", |c| c.tensors[LAST].slot = 6)?;
    spoiler.with("slot of the highest number", |c| c.tensors[LAST].slot = usize::MAX)?;
    spoiler.with("first not on a block", |c| c.tensors[LAST].first = 32)?;
    spoiler.with("end past the last element", |c| c.tensors[LAST].first = ELEMENTS_MAX)?;
    spoiler.with("first near 2^64", |c| c.tensors[LAST].first = u64::MAX - 63)?;
    for first in [32, 96 + 32, 96 * 3 + 16, 1 << 36] {
        spoiler.with(format!("first {first} within a row of 96"), |c| {
            c.op.grouping = Grouping::Row(96);
            c.tensors.truncate(1);
            c.tensors[0].first = first;
        })?;
    }
    spoiler.with("rows do not divide", |c| c.op.grouping = Grouping::Row(7))?;
    spoiler.with("rows of nothing", |c| c.op.grouping = Grouping::Row(0))?;
    spoiler.with("micro-batch", |c| c.op.rule = Rule::Stochastic { draw: TOO_LATE, clip: None })?;
    for clip in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let draw = Draw::new(1, 2);
        spoiler.with(format!("clip {clip}"), |c| c.op.rule = Rule::Stochastic { draw, clip: Some(clip) })?;
    }
    for t in [-1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        spoiler.with(format!("threshold {t}"), |c| c.op.rule = Rule::Threshold(Threshold::Given(t)))?;
        spoiler.with(format!("factor {t}"), |c| c.op.rule = Rule::Threshold(Threshold::Mean(t)))?;
    }
    Ok(())
}

fn dequantize(rng: &mut Rng, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let tensors = SHAPES.map(|(n, _)| (n, trits(rng, n, 20), vec![0x3f80; n.div_ceil(64)])).into();
    let mut spoiler = Spoiler {
        good: Dequantize::<f32> { op: Default::default(), tensors, spoil: None, output: PhantomData },
        visit,
    };
    spoiler.lengths(&["words", "scales"], LAST, |c| &mut c.spoil)?;
    spoiler.with("output of another block", |c| c.spoil = Some(Spoil { role: "out", tensor: LAST, by: 1 }))?;
    spoiler.with("rows do not divide", |c| c.op.grouping = Grouping::Row(7))
}

fn adaptive(rng: &mut Rng, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let op = Adaptive { bits: 4, block: BlockSize::default(), draw: Draw::new(3, 4), weight: 1.0 };
    let mut spoiler = Spoiler { good: AccumulateAdaptive::<f32>::new(vec![(op, given(rng))]), visit };
    states(&mut spoiler, |c| (&mut c.state, &mut c.spoil))?;
    spoiler.lengths(&["levels", "scales"], LAST, |c| &mut c.spoil)?;
    spoiler.with("slot past the last", |c| c.batches[0].1[LAST].slot = c.slots)?;
    spoiler.with("slot of the highest number", |c| c.batches[0].1[LAST].slot = usize::MAX)?;
    spoiler.with("first not on a block", |c| c.batches[0].1[LAST].first = 32)?;
    spoiler.with("end past the last element", |c| c.batches[0].1[LAST].first = ELEMENTS_MAX)?;
    spoiler.with("micro-batch", |c| c.batches[0].0.draw = TOO_LATE)?;
    for bits in [0, 1, 3, 16, 32, u32::MAX] {
        spoiler.with(format!("{bits} bits"), |c| c.batches[0].0.bits = bits)?;
    }
    for weight in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        spoiler.with(format!("weight {weight}"), |c| c.batches[0].0.weight = weight)?;
    }
    Ok(())
}

fn exact(rng: &mut Rng, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let op =
        Exact { bits: 4, block: BlockSize::default(), draw: Draw::new(3, 4), weight: 1.0, held: 0, headroom: None };
    let mut spoiler = Spoiler { good: AccumulateExact::<f32>::new(vec![(op, given(rng))]), visit };
    states(&mut spoiler, |c| (&mut c.state, &mut c.spoil))?;
    spoiler.lengths(&["counts", "scales", "seen"], LAST, |c| &mut c.spoil)?;
    spoiler.with("slot past the last", |c| c.batches[0].1[LAST].slot = c.slots)?;
    spoiler.with("slot of the highest number", |c| c.batches[0].1[LAST].slot = usize::MAX)?;
    spoiler.with("first not on a block", |c| c.batches[0].1[LAST].first = 32)?;
    spoiler.with("end past the last element", |c| c.batches[0].1[LAST].first = ELEMENTS_MAX)?;
    spoiler.with("micro-batch", |c| c.batches[0].0.draw = TOO_LATE)?;
    for (bits, held) in [(4, 7), (8, 127), (16, 32_767), (16, u32::MAX), (32, 1023), (32, u32::MAX)] {
        let change = |c: &mut AccumulateExact<f32>| (c.batches[0].0.bits, c.batches[0].0.held) = (bits, held);
        spoiler.with(format!("{held} held at {bits} bits"), change)?;
    }
    for bits in NO_WIDTH {
        spoiler.with(format!("{bits} bits"), |c| c.batches[0].0.bits = bits)?;
    }
    for headroom in [0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        spoiler.with(format!("headroom {headroom}"), |c| c.batches[0].0.headroom = Some(headroom))?;
    }
    for weight in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        spoiler.with(format!("weight {weight}"), |c| c.batches[0].0.weight = weight)?;
    }
    Ok(())
}

fn sums_in_f32(rng: &mut Rng, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut spoiler = Spoiler { good: AccumulateF32::<f32>::new(vec![(F32 { weight: 1.0 }, given(rng))]), visit };
    spoiler.lengths(&["sum"], LAST, |c| &mut c.spoil)?;
    spoiler.with("slot past the last", |c| c.batches[0].1[LAST].slot = c.slots)?;
    spoiler.with("slot of the highest number", |c| c.batches[0].1[LAST].slot = usize::MAX)?;
    spoiler.with("end past the last element", |c| c.batches[0].1[LAST].first = ELEMENTS_MAX)?;
    spoiler.with("end past 2^64", |c| c.batches[0].1[LAST].first = u64::MAX)?;
    for weight in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        spoiler.with(format!("weight {weight}"), |c| c.batches[0].0.weight = weight)?;
    }
    Ok(())
}

fn look(rng: &mut Rng, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let op = LookOp { block: BlockSize::default(), weight: 1.0 };
    let seen = SHAPES.map(|(n, _)| vec![0; n.div_ceil(64)]).into();
    let mut spoiler = Spoiler { good: Look::<f32> { op, tensors: given(rng), seen, slots: 6, spoil: None }, visit };
    spoiler.lengths(&["seen"], LAST, |c| &mut c.spoil)?;
    spoiler.with("slot past the last", |c| c.tensors[LAST].slot = 6)?;
    spoiler.with("slot of the highest number", |c| c.tensors[LAST].slot = usize::MAX)?;
    for weight in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        spoiler.with(format!("weight {weight}"), |c| c.op.weight = weight)?;
    }
    Ok(())
}

const NO_WIDTH: [u32; 6] = [0, 2, 3, 12, 33, u32::MAX];

fn scales(visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let tensors = SHAPES.map(|(n, _)| (vec![0x3f80; n], vec![0; n])).into();
    let good = WindowScales { op: ScalesOp { headroom: 1.0, bits: 8 }, tensors, spoil: None };
    let mut spoiler = Spoiler { good, visit };
    spoiler.lengths(&["seen", "scales"], LAST, |c| &mut c.spoil)?;
    for headroom in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        spoiler.with(format!("headroom {headroom}"), |c| c.op.headroom = headroom)?;
    }
    for bits in NO_WIDTH {
        spoiler.with(format!("{bits} bits"), |c| c.op.bits = bits)?;
    }
    Ok(())
}

fn compare(visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let tensors = SHAPES.map(|(n, _)| (vec![0x3f80; n], vec![0x3f00; n], 1)).into();
    let mut spoiler = Spoiler { good: CompareScales { tensors, slots: 3, spoil: None }, visit };
    spoiler.lengths(&["a", "b"], LAST, |c| &mut c.spoil)?;
    spoiler.with("slot past the last", |c| c.tensors[LAST].2 = 3)?;
    spoiler.with("slot of the highest number", |c| c.tensors[LAST].2 = usize::MAX)
}

fn merge(visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let counts = vec![(vec![0x1111_1111; 8], vec![0x2222_2222; 8]); 3];
    let seen = vec![(vec![0x3f80; 2], vec![0x3f00; 2]); 3];
    let good = Merge { op: MergeOp { bits: 4, held: 2, added: 1 }, counts, seen, spoil: None };
    let mut spoiler = Spoiler { good, visit };
    spoiler.lengths(&["from", "into", "seen_from", "seen"], LAST, |c| &mut c.spoil)?;
    for bits in NO_WIDTH {
        spoiler.with(format!("{bits} bits"), |c| c.op.bits = bits)?;
    }
    let too_many = [(4, 7, 1), (4, 0, 8), (8, 64, 64), (16, u32::MAX, u32::MAX), (32, 1023, 1), (32, 512, 512)];
    for (bits, held, added) in too_many {
        spoiler.with(format!("{held} + {added} at {bits} bits"), |c| c.op = MergeOp { bits, held, added })?;
    }
    Ok(())
}

fn read_out(rng: &mut Rng, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let op = ReadOutOp { bits: 4, block: BlockSize::default(), factor: 1.0 };
    let tensor = |(n, _): (usize, _)| Levels {
        n,
        levels: super::levels(rng, 4, n),
        scales: vec![0x3f80; n.div_ceil(64)],
        guard: None,
    };
    let tensors = SHAPES.map(tensor).into();
    let guards = vec![true; 2];
    let good = ReadOut::<f32> { op, tensors, guards, spoil: None, output: PhantomData };
    let mut spoiler = Spoiler { good, visit };
    spoiler.lengths(&["levels", "scales"], LAST, |c| &mut c.spoil)?;
    spoiler.with("output of another block", |c| c.spoil = Some(Spoil { role: "out", tensor: LAST, by: 1 }))?;
    spoiler.with("guard past the last", |c| c.tensors[LAST].guard = Some(2))?;
    spoiler.with("guard of the highest number", |c| c.tensors[LAST].guard = Some(usize::MAX))?;
    spoiler.with("guard without guards", |c| (c.tensors[LAST].guard, c.guards) = (Some(0), Vec::new()))?;
    for bits in [0, 3, 33, u32::MAX] {
        spoiler.with(format!("{bits} bits"), |c| c.op.bits = bits)?;
    }
    for factor in [f32::NAN, f32::INFINITY] {
        spoiler.with(format!("factor {factor}"), |c| c.op.factor = factor)?;
    }
    Ok(())
}

fn read_out_f32(visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let tensors = SHAPES.map(|(n, _)| (vec![1.5; n], None)).into();
    let (op, guards) = (ReadOutF32Op { factor: 1.0 }, vec![true; 2]);
    let good = ReadOutF32::<half::f16> { op, tensors, guards, spoil: None, output: PhantomData };
    let mut spoiler = Spoiler { good, visit };
    spoiler.lengths(&["sum", "out"], LAST, |c| &mut c.spoil)?;
    spoiler.with("guard past the last", |c| c.tensors[LAST].1 = Some(2))?;
    spoiler.with("guard of the highest number", |c| c.tensors[LAST].1 = Some(usize::MAX))?;
    spoiler.with("guard without guards", |c| (c.tensors[LAST].1, c.guards) = (Some(0), Vec::new()))?;
    for factor in [f32::NAN, f32::INFINITY] {
        spoiler.with(format!("factor {factor}"), |c| c.op.factor = factor)?;
    }
    Ok(())
}

fn check(rng: &mut Rng, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut tensors = given::<f32>(rng);
    tensors[0].x[3] = f32::NAN;
    let good = Check { op: crate::op::check::Check { weight: 1.0 }, tensors, slots: 6, spoil: None };
    let mut spoiler = Spoiler { good, visit };
    spoiler.with("slot past the last", |c| c.tensors[LAST].slot = 6)?;
    spoiler.with("slot of the highest number", |c| c.tensors[LAST].slot = usize::MAX)?;
    spoiler.with("end past the last element", |c| c.tensors[LAST].first = ELEMENTS_MAX)?;
    spoiler.with("end past 2^64", |c| c.tensors[LAST].first = u64::MAX)?;
    for weight in [f32::NAN, f32::INFINITY] {
        spoiler.with(format!("weight {weight}"), |c| c.op.weight = weight)?;
    }
    Ok(())
}

fn pack(visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let good = Pack { trits: vec![vec![1, -1, 5, 0]; 3], slot: 1, spoil: None };
    let mut spoiler = Spoiler { good, visit };
    spoiler.lengths(&["words"], LAST, |c| &mut c.spoil)?;
    spoiler.with("slot past the last", |c| c.slot = 4)?;
    spoiler.with("slot of the highest number", |c| c.slot = usize::MAX)
}

fn unpack(rng: &mut Rng, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let good = Unpack { tensors: vec![(64, trits(rng, 64, 50)); 3], slot: 1, spoil: None };
    let mut spoiler = Spoiler { good, visit };
    spoiler.lengths(&["words"], LAST, |c| &mut c.spoil)?;
    spoiler.with("trits of another group", |c| c.spoil = Some(Spoil { role: "trits", tensor: LAST, by: 1 }))?;
    spoiler.with("slot past the last", |c| c.slot = 4)?;
    spoiler.with("slot of the highest number", |c| c.slot = usize::MAX)
}

fn convert(conversion: Conversion, roles: &[&'static str], visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let good = Convert { conversion, words: vec![vec![0x1234_5678; 6]; 3], spoil: None };
    Spoiler { good, visit }.lengths(roles, LAST, |c| &mut c.spoil)
}

fn reduce(
    rng: &mut Rng,
    reduction: Reduction,
    roles: &[&'static str],
    visit: &mut impl Visit,
) -> Result<(), Box<Failure>> {
    let bits = if let Reduction::SquaredNorm(op) = reduction { op.bits } else { 2 };
    let mut side = |n| side(rng, bits, Grouping::default(), n);
    let tensors = SHAPES.map(|(n, _)| Reduced { n, sides: [side(n), side(n)], slot: 1 }).into();
    let good = Reduce { reduction, tensors, sums: vec![0; 3 * SUM_WORDS], spoil: None };
    let mut spoiler = Spoiler { good, visit };
    spoiler.lengths(roles, LAST, |c| &mut c.spoil)?;
    spoiler.lengths(&["sums"], 0, |c| &mut c.spoil)?;
    spoiler.with("slot past the last", |c| c.tensors[LAST].slot = 3)?;
    spoiler.with("slot of the highest number", |c| c.tensors[LAST].slot = usize::MAX)?;
    spoiler.with("no sums", |c| c.sums.clear())?;
    let rows = Grouping::Row(7);
    match reduction {
        Reduction::CountNonzero(_) => {
            spoiler.with("odd words", |c| c.spoil = Some(Spoil { role: "words_a", tensor: LAST, by: 1 }))
        }
        Reduction::Dot(_) => {
            spoiler.with("rows do not divide", |c| c.reduction = Reduction::Dot(Dot { grouping: rows }))
        }
        Reduction::SquaredNorm(op) => {
            let with = |change: SquaredNorm| move |c: &mut Reduce| c.reduction = Reduction::SquaredNorm(change);
            spoiler.with("rows do not divide", with(SquaredNorm { grouping: rows, ..op }))?;
            for bits in [0, 3, 33, u32::MAX] {
                spoiler.with(format!("{bits} bits"), with(SquaredNorm { bits, ..op }))?;
            }
            Ok(())
        }
    }
}

fn squared_norm_f32(visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let tensors = SHAPES.map(|(n, _)| (vec![2.0; n], 1)).into();
    let good = SquaredNormF32 { tensors, sums: vec![0; 3 * SUM_WORDS], spoil: None };
    let mut spoiler = Spoiler { good, visit };
    spoiler.lengths(&["sums"], 0, |c| &mut c.spoil)?;
    spoiler.with("slot past the last", |c| c.tensors[LAST].1 = 3)?;
    spoiler.with("slot of the highest number", |c| c.tensors[LAST].1 = usize::MAX)?;
    spoiler.with("no sums", |c| c.sums.clear())
}

fn updates(rng: &mut Rng, adamw: bool, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let source = Source { bits: 4, block: BlockSize::default(), factor: 1.0, draw: Draw::new(1, 1) };
    let terms = SgdTerms { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.0 };
    let of_adamw = AdamWTerms::new(1e-3, (0.9, 0.999), 1e-8, 0.01, 1);
    let rule = match adamw {
        true => UpdateRule::AdamW(AdamW { source, terms: of_adamw }),
        false => UpdateRule::Sgd(Sgd { source, terms, nesterov: false }),
    };
    // The last but one is packed, the last is dense.
    let good = update::<f32>(rng, rule, &[96, 130, 64]);
    let half = update::<half::f16>(rng, rule, &[96, 130, 64]);
    let mut spoiler = Spoiler { good, visit };
    states(&mut spoiler, |c| (&mut c.state, &mut c.spoil))?;
    spoiler.lengths(&["levels", "scales", "moment"], 1, |c| &mut c.spoil)?;
    spoiler.lengths(&["dense"], LAST, |c| &mut c.spoil)?;
    if adamw {
        spoiler.lengths(&["second moment"], LAST, |c| &mut c.spoil)?;
    }
    spoiler.with("first not on a block", |c| c.tensors[LAST].first = 32)?;
    spoiler.with("end past the last element", |c| c.tensors[LAST].first = ELEMENTS_MAX)?;
    spoiler.with("slot past the last", |c| c.tensors[LAST].slot = c.slots)?;
    spoiler.with("slot of the highest number", |c| c.tensors[LAST].slot = usize::MAX)?;
    spoiler.with("3 bits", |c| c.rule.source_mut().bits = 3)?;
    spoiler.with("factor NaN", |c| c.rule.source_mut().factor = f32::NAN)?;
    spoiler.with("micro-batch", |c| c.rule.source_mut().draw = TOO_LATE)?;
    let rates = [f32::NAN, f32::INFINITY];
    for rate in rates {
        spoiler.with(format!("learning rate {rate}"), |c| match &mut c.rule {
            UpdateRule::Sgd(op) => op.terms.learning_rate = rate,
            UpdateRule::AdamW(op) => op.terms.learning_rate = rate,
        })?;
    }
    for eps in [0.0, -1e-8, 1e-40, f32::NAN, f32::INFINITY].into_iter().filter(|_| adamw) {
        spoiler.with(format!("eps {eps}"), |c| {
            if let UpdateRule::AdamW(op) = &mut c.rule {
                op.terms.eps = eps;
            }
        })?;
    }
    visit.visit(&Wrong { case: half, why: "f16 weights".to_owned() })
}

fn update_8bit(rng: &mut Rng, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let block = |elements| BlockSize::new(elements).unwrap_or_default();
    let source = Source { bits: 4, block: block(32), factor: 1.0, draw: Draw::new(1, 1) };
    let op = AdamW8 { source, terms: AdamWTerms::new(1e-3, (0.9, 0.999), 1e-8, 0.01, 1) };
    let good: UpdateAdamW8<f32> = update_adamw_8bit::update(rng, op, &[96, 130, 64]);
    let half = update_adamw_8bit::update::<half::f16>(rng, op, &[96, 130, 64]);
    let mut spoiler = Spoiler { good, visit };
    states(&mut spoiler, |c| (&mut c.state, &mut c.spoil))?;
    spoiler.lengths(&["levels", "scales", "moments", "moment scales"], 1, |c| &mut c.spoil)?;
    spoiler.lengths(&["dense", "moments", "moment scales"], LAST, |c| &mut c.spoil)?;
    spoiler.with("first on a block of levels, but not of moments", |c| c.tensors[LAST].first = 32)?;
    spoiler.with("first on a block of moments, but not of levels", |c| {
        (c.op.source.block, c.tensors[LAST].first) = (block(128), 64);
    })?;
    spoiler.with("end past the last element", |c| c.tensors[LAST].first = ELEMENTS_MAX)?;
    spoiler.with("slot past the last", |c| c.tensors[LAST].slot = c.slots)?;
    spoiler.with("slot of the highest number", |c| c.tensors[LAST].slot = usize::MAX)?;
    spoiler.with("3 bits", |c| c.op.source.bits = 3)?;
    spoiler.with("factor NaN", |c| c.op.source.factor = f32::NAN)?;
    spoiler.with("micro-batch", |c| c.op.source.draw = TOO_LATE)?;
    for rate in [f32::NAN, f32::INFINITY] {
        spoiler.with(format!("learning rate {rate}"), |c| c.op.terms.learning_rate = rate)?;
    }
    visit.visit(&Wrong { case: half, why: "f16 weights".to_owned() })
}
