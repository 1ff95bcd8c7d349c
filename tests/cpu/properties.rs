//! Laws that hold for any input: packing, splitting, merging, reading out, weights.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use crate::common::{self, Packed, State, block};
use proptest::collection::vec;
use proptest::prelude::*;
use trigrad::cpu::Cpu;
use trigrad::numerics::level::weighted;
use trigrad::numerics::pack::{self, trit, words};
use trigrad::numerics::reduce::{ExactSum, SUM_WORDS};
use trigrad::op::accumulate::{Adaptive, Exact};
use trigrad::op::pack::{
    FieldsToPlanes, FieldsToPlanesItem, JoinPlanes, JoinPlanesItem, Pack, PackItem, PlanesToFields, PlanesToFieldsItem,
    SplitPlanes, SplitPlanesItem, Unpack, UnpackItem,
};
use trigrad::op::quantize::{Quantize, Rule, Threshold};
use trigrad::op::read_out::ReadOut;
use trigrad::op::reduce::{CountNonzero, CountNonzeroItem, Dot, DotItem, SquaredNorm, SquaredNormItem};
use trigrad::op::window::Merge;
use trigrad::op::{Backend, BlockSize, Draw, Grouping, Report};

/// Any f32 bits, finite ones of moderate size most of the time.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![8 => -10.0f32..10.0, 2 => -1e-6f32..1e-6, 1 => any::<u32>().prop_map(f32::from_bits), 1 => Just(0.0)]
}

/// Moderate values: in range after any product and sum here.
fn tame() -> impl Strategy<Value = f32> {
    prop_oneof![4 => -10.0f32..10.0, 1 => -1e-6f32..1e-6, 1 => Just(0.0)]
}

fn blocks() -> impl Strategy<Value = BlockSize> {
    (5u32..9).prop_map(|bits| block(1 << bits))
}

fn rule() -> impl Strategy<Value = Rule> {
    let draw = (any::<u64>(), any::<u32>(), 0u32..1 << 24).prop_map(|(s, t, m)| Draw::new(s, t).micro_batch(m));
    prop_oneof![
        (draw, prop::option::of(0.1f32..5.0)).prop_map(|(draw, clip)| Rule::Stochastic { draw, clip }),
        (0.0f32..5.0).prop_map(|t| Rule::Threshold(Threshold::Given(t))),
        (0.0f32..2.0).prop_map(|f| Rule::Threshold(Threshold::Mean(f))),
    ]
}

fn unpack(words: &[u32], n: usize) -> (Vec<i8>, Report) {
    let (mut trits, mut reports) = (vec![99; n], vec![Report::default()]);
    Cpu::new().unpack(&Unpack, &mut [UnpackItem { words, trits: &mut trits, report: 0 }], &mut reports).unwrap();
    (trits, reports[0])
}

fn pack(trits: &[i8], words: &mut [u32]) -> Report {
    let mut reports = vec![Report::default()];
    Cpu::new().pack(&Pack, &mut [PackItem { trits, words, report: 0 }], &mut reports).unwrap();
    reports[0]
}

/// The sum that an operation adds to a slot of zeros.
fn summed(operation: impl FnOnce(&mut [u32])) -> ExactSum {
    let mut words = [0; SUM_WORDS];
    operation(&mut words);
    ExactSum::from_words(&words)
}

type Planes<'a> = (&'a [u32], &'a [u16]);

fn dot(grouping: Grouping, n: usize, (words_a, scales_a): Planes<'_>, (words_b, scales_b): Planes<'_>) -> f64 {
    let item = DotItem { n, words_a, scales_a, words_b, scales_b, sum: 0 };
    summed(|sums| Cpu::new().dot(&Dot { grouping }, &mut [item], sums).unwrap()).to_f64()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trits_survive_packing(trits in vec(-1i8..=1, 0..300)) {
        let mut planes = vec![u32::MAX; words(trits.len(), 2)];
        prop_assert_eq!(pack(&trits, &mut planes), Report::default());
        prop_assert_eq!(&unpack(&planes, trits.len()).0, &trits);
        let nonzero = trits.iter().filter(|t| **t != 0).count() as u64;
        let item = CountNonzeroItem { words: &planes[..], sum: 0 };
        let counted = summed(|sums| Cpu::new().count_nonzero(&CountNonzero, &mut [item], sums).unwrap());
        prop_assert_eq!(counted.to_count(), nonzero);
        // The tail is zero: a longer read gives zeros.
        prop_assert!((trits.len()..planes.len() * 16).all(|i| trit(&planes, i) == Some(0)));
    }

    #[test]
    fn what_is_no_trit_is_counted(trits in vec(any::<i8>(), 0..200)) {
        let mut planes = vec![0; words(trits.len(), 2)];
        let report = pack(&trits, &mut planes);
        let bad = |t: &i8| !(-1..=1).contains(t);
        prop_assert_eq!(report.non_finite, trits.iter().filter(|t| bad(t)).count() as u64);
        prop_assert_eq!(report.first, trits.iter().position(bad).map(|i| i as u64));
        let kept: Vec<i8> = trits.iter().map(|t| if bad(t) { 0 } else { *t }).collect();
        prop_assert_eq!(unpack(&planes, trits.len()).0, kept);
    }

    #[test]
    fn any_words_survive_conversion(words in vec(any::<u32>(), 0..20).prop_map(|mut w| { w.truncate(w.len() / 2 * 2); w })) {
        let cpu = Cpu::new();
        let half = words.len() / 2;
        let (mut plus, mut minus, mut back) = (vec![0; half], vec![0; half], vec![0; words.len()]);
        let split = SplitPlanesItem { words: &words[..], plus: &mut plus[..], minus: &mut minus[..] };
        cpu.split_planes(&SplitPlanes, &mut [split]).unwrap();
        let join = JoinPlanesItem { plus: &plus[..], minus: &minus[..], words: &mut back[..] };
        cpu.join_planes(&JoinPlanes, &mut [join]).unwrap();
        prop_assert_eq!(&back, &words);
        let mut fields = vec![0; words.len()];
        let there = PlanesToFieldsItem { words: &words[..], fields: &mut fields[..] };
        cpu.planes_to_fields(&PlanesToFields, &mut [there]).unwrap();
        back.fill(0);
        let again = FieldsToPlanesItem { fields: &fields[..], words: &mut back[..] };
        cpu.fields_to_planes(&FieldsToPlanes, &mut [again]).unwrap();
        prop_assert_eq!(&back, &words);
    }

    #[test]
    fn fields_hold_what_is_set(bits in prop::sample::select(vec![4u32, 8, 16, 32]), seed in vec(any::<i32>(), 1..100)) {
        let max = ((1i64 << (bits - 1)) - 1) as i32;
        let mut fields = vec![0; words(seed.len(), bits)];
        let levels: Vec<i32> = seed.iter().map(|l| (i64::from(*l).rem_euclid(2 * i64::from(max) + 1) - i64::from(max)) as i32).collect();
        for (i, l) in levels.iter().enumerate() {
            pack::set_field(&mut fields, bits, i, *l);
        }
        prop_assert!(levels.iter().enumerate().all(|(i, l)| pack::field(&fields, bits, i) == *l));
    }

    #[test]
    fn a_tensor_quantized_in_parts_is_the_same(
        x in vec(value(), 0..600), rule in rule(), block in blocks(), cut in 0usize..600, first in 0u64..1000,
    ) {
        let op = Quantize { grouping: Grouping::Block(block), rule };
        let size = block.get() as usize;
        let first = first * size as u64;
        let cut = (cut / size * size).min(x.len() / size * size);
        let (whole, found) = common::quantize(&op, (3, first), &x);
        let (left, mut parts) = common::quantize(&op, (3, first), &x[..cut]);
        let (right, more) = common::quantize(&op, (3, first + cut as u64), &x[cut..]);
        parts.merge(more);
        prop_assert_eq!(whole.words, [left.words, right.words].concat());
        prop_assert_eq!(whole.scales, [left.scales, right.scales].concat());
        prop_assert_eq!(found, parts);
    }

    #[test]
    fn a_power_of_two_moves_scales_only(x in vec(-10.0f32..10.0, 1..300), rule in rule(), by in -20i32..20) {
        let factor = 2f32.powi(by);
        let scaled = match rule {
            Rule::Threshold(Threshold::Given(t)) => Rule::Threshold(Threshold::Given(t * factor)),
            rule => rule,
        };
        let (a, _) = common::quantize(&Quantize { grouping: Grouping::default(), rule }, (0, 0), &x);
        let moved: Vec<f32> = x.iter().map(|x| x * factor).collect();
        let (b, _) = common::quantize(&Quantize { grouping: Grouping::default(), rule: scaled }, (0, 0), &moved);
        prop_assert_eq!(a.words, b.words);
        let value = |s: &u16| half::bf16::from_bits(*s).to_f32();
        prop_assert!(a.scales.iter().zip(&b.scales).all(|(a, b)| value(a) * factor == value(b)));
    }

    #[test]
    fn the_negative_swaps_the_planes(x in vec(value(), 0..300), rule in rule(), block in blocks()) {
        // Clipping sees the sign of the mean only through its square, but floors are taken after it.
        prop_assume!(!matches!(rule, Rule::Stochastic { clip: Some(_), .. }));
        let op = Quantize { grouping: Grouping::Block(block), rule };
        let (a, _) = common::quantize(&op, (0, 0), &x);
        let negative: Vec<f32> = x.iter().map(|x| -x).collect();
        let (b, _) = common::quantize(&op, (0, 0), &negative);
        prop_assert_eq!(a.scales, b.scales);
        let swapped: Vec<u32> = b.words.chunks(2).flat_map(|w| [w[1], w[0]]).collect();
        prop_assert_eq!(a.words, swapped);
    }

    #[test]
    fn what_is_ternary_already_comes_back(trits in vec(-1i8..=1, 1..300), scale in 0x2000u16..0x6000, seed in any::<u64>()) {
        let s = half::bf16::from_bits(scale).to_f32();
        let x: Vec<f32> = trits.iter().map(|t| f32::from(*t) * s).collect();
        for op in [Quantize::stochastic(Draw::new(seed, 0)), Quantize::threshold(Threshold::MEAN_MAGNITUDE)] {
            let op = op.grouping(Grouping::Block(block(32)));
            // A block without zeros has its mean as its maximum, and nothing lies above that.
            let full = |b: &[i8]| b.iter().all(|t| *t != 0);
            prop_assume!(matches!(op.rule, Rule::Stochastic { .. }) || !trits.chunks(32).any(full));
            let (packed, _) = common::quantize(&op, (0, 0), &x);
            let back: Vec<f32> = common::dequantize(op.grouping, &packed, x.len());
            prop_assert!(back.iter().zip(&x).all(|(a, b)| a == b), "{:?}: {:?} {:?}", op, back, x);
        }
    }

    #[test]
    fn adaptive_levels_lie_next_to_the_sum(
        batches in vec(vec(tame(), 100), 1..6), bits in prop::sample::select(vec![2u32, 4, 8]), block in blocks(), seed in any::<u64>(),
    ) {
        let mut state = State::zero(100, bits, block);
        let out = ReadOut { bits, block, factor: 1.0 };
        for (micro_batch, x) in batches.iter().enumerate() {
            let before: Vec<f32> = common::read_out(&out, &state, 100);
            let draw = Draw::new(seed, 0).micro_batch(micro_batch as u32);
            common::adaptive(&Adaptive { bits, block, draw, weight: 1.0 }, (0, 0), x, &mut state);
            let after: Vec<f32> = common::read_out(&out, &state, 100);
            for (i, (after, v)) in after.iter().zip(before.iter().zip(x).map(|(a, b)| a + b)).enumerate() {
                let s = half::bf16::from_bits(state.scales[i / block.get() as usize]).to_f32();
                prop_assert!((after - v).abs() <= s, "{i}: {after} for {v}, scale {s}");
            }
        }
    }

    #[test]
    fn a_weight_is_a_product_rounded_once(x in vec(value(), 1..200), weight in prop_oneof![-3.0f32..3.0, Just(1.0 / 65_536.0), Just(0.0)], seed in any::<u64>()) {
        let n = x.len();
        let p: Vec<f32> = x.iter().map(|x| f32::from_bits(weighted(x.to_bits(), weight.to_bits()))).collect();
        let draw = Draw::new(seed, 5);
        let op = |weight| Adaptive { bits: 4, block: block(64), draw, weight };
        let (mut a, mut b) = (State::zero(n, 4, block(64)), State::zero(n, 4, block(64)));
        let found = common::adaptive(&op(weight), (0, 0), &x, &mut a);
        prop_assert_eq!(found, common::adaptive(&op(1.0), (0, 0), &p, &mut b));
        prop_assert_eq!(&a, &b);
        let op = |weight| Exact { bits: 8, block: block(64), draw, weight, held: 0, headroom: None };
        let start = State { scales: vec![0x3f80; a.scales.len()], ..State::zero(n, 8, block(64)) };
        let (mut a, mut b) = (start.clone(), start);
        let found = common::exact(&op(weight), (0, 0), &x, &mut a);
        prop_assert_eq!(found, common::exact(&op(1.0), (0, 0), &p, &mut b));
        prop_assert_eq!(a, b);
    }

    #[test]
    fn exact_counts_merge_in_any_order(
        batches in vec(vec(value(), 150), 1..8), order in any::<u64>(), bits in prop::sample::select(vec![4u32, 8, 16, 32]),
    ) {
        let (n, size) = (150, block(32));
        let start = State { scales: vec![0x4080, 0x3f80, 0, 0x4000, 0x4100], ..State::zero(n, bits, size) };
        let count = |m: usize, held: u32, state: &mut State| {
            let op = Exact { bits, block: size, draw: Draw::new(9, 1).micro_batch(m as u32), weight: 1.0, held, headroom: None };
            common::exact(&op, (1, 64), &batches[m], state)
        };
        let mut together = start.clone();
        for m in 0..batches.len() {
            count(m, m as u32, &mut together);
        }
        // Each batch on a worker of its own, joined in an order drawn from a number.
        let mut workers: Vec<(u32, State)> = (0..batches.len())
            .map(|m| {
                let mut state = start.clone();
                count(m, 0, &mut state);
                (1, state)
            })
            .collect();
        let mut order = order;
        while workers.len() > 1 {
            let (added, from) = workers.swap_remove(order as usize % workers.len());
            order = order.rotate_left(7) ^ 0x5bd1;
            let at = order as usize % workers.len();
            let (held, into) = &mut workers[at];
            common::merge(&Merge { bits, held: *held, added }, &from, into);
            *held += added;
        }
        prop_assert_eq!(&workers[0].1, &together);
    }

    #[test]
    fn the_mean_is_the_sum_times_the_factor(levels in vec(any::<u32>(), 4 * 3), scales in vec(0x2000u16..0x6000, 2), factor in -2.0f32..2.0) {
        let state = State { levels, scales, seen: Vec::new() };
        let op = |factor| ReadOut { bits: 4, block: block(64), factor };
        let sum: Vec<f32> = common::read_out(&op(1.0), &state, 96);
        let mean: Vec<f32> = common::read_out(&op(factor), &state, 96);
        prop_assert!(sum.iter().zip(&mean).all(|(s, m)| (s * factor).to_bits() == m.to_bits()));
        let narrow: Vec<half::bf16> = common::read_out(&op(factor), &state, 96);
        prop_assert!(mean.iter().zip(&narrow).all(|(m, n)| half::bf16::from_f32(*m).to_bits() == n.to_bits()));
    }

    #[test]
    fn the_norm_is_the_dot_with_itself(x in vec(tame(), 0..300), block in blocks()) {
        let (n, grouping) = (x.len(), Grouping::Block(block));
        let op = Quantize::stochastic(Draw::new(1, 1)).grouping(grouping);
        let (Packed { words, scales }, _) = common::quantize(&op, (0, 0), &x);
        let itself = dot(grouping, n, (&words, &scales), (&words, &scales));
        let item = SquaredNormItem { n, levels: &words[..], scales: &scales[..], sum: 0 };
        let op = SquaredNorm { bits: 2, grouping };
        prop_assert_eq!(itself, summed(|sums| Cpu::new().squared_norm(&op, &mut [item], sums).unwrap()).to_f64());
        let negative: Vec<u32> = words.chunks(2).flat_map(|w| [w[1], w[0]]).collect();
        prop_assert_eq!(-itself, dot(grouping, n, (&words, &scales), (&negative, &scales)));
        // Against the plain sum, within its rounding.
        let y: Vec<f32> = common::dequantize(grouping, &Packed { words, scales }, n);
        let plain: f64 = y.iter().map(|y| f64::from(*y) * f64::from(*y)).sum();
        prop_assert!((itself - plain).abs() <= plain * n as f64 * f64::EPSILON);
    }
}
