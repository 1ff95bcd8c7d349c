//! Micro-batches in parts: the bits of the whole, in any order; what is wrong is an error, and nothing is lost.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use half::bf16;
use trigrad::accumulator::{Accumulator, Config, Floats, Format, NonFinite, Reduce, Scales, Spec, State};
use trigrad::cpu::Cpu;
use trigrad::op::accumulate::{Adaptive, AdaptiveItem};
use trigrad::op::{BlockSize, Draw};
use trigrad::training::{Missing, Options, Outcome, Training};
use trigrad::{Backend as _, Error, Memory};

const SIZES: [usize; 5] = [300, 64, 7, 1000, 129];

fn specs(small: Option<Format>) -> Vec<Spec> {
    let spec = |(i, n): (usize, &usize)| match small {
        Some(format) if *n < 100 => Spec::new(format!("t{i}"), [*n]).format(format),
        _ => Spec::new(format!("t{i}"), [*n]),
    };
    SIZES.iter().enumerate().map(spec).collect()
}

/// Gradients of a micro-batch, one of them in bf16.
struct Batch {
    wide: Vec<Vec<f32>>,
    narrow: Vec<bf16>,
}

impl Batch {
    fn new(seed: usize) -> Self {
        let value = |i: usize, t: usize| ((i * 7919 + t * 104_729 + seed * 1_299_709) % 2003) as f32 / 1001.0 - 1.0;
        let wide: Vec<Vec<f32>> =
            SIZES.iter().enumerate().map(|(t, n)| (0..*n).map(|i| value(i, t)).collect()).collect();
        let narrow = wide[3].iter().map(|x| bf16::from_f32(*x)).collect();
        Batch { wide, narrow }
    }

    fn of(&self, i: usize) -> Floats<'_, Cpu> {
        if i == 3 { self.narrow[..].into() } else { self.wide[i][..].into() }
    }

    fn all(&self) -> Vec<(usize, Floats<'_, Cpu>)> {
        (0..SIZES.len()).map(|i| (i, self.of(i))).collect()
    }
}

fn accumulator(config: Config, small: Option<Format>) -> Accumulator<Cpu> {
    Accumulator::new(Cpu::default(), &specs(small), config).unwrap()
}

#[test]
fn parts_in_any_order_give_the_bits_of_the_whole() {
    let exact = |bits| Format::Exact { bits, scales: Scales::FirstLook { headroom: 2.0 } };
    let formats = [2, 4, 8].map(|bits| (Format::Adaptive { bits }, Some(Format::F32))).into_iter();
    let formats = formats.chain([4, 8, 16, 32].map(|bits| (exact(bits), None))).chain([(Format::F32, None)]);
    let orders: [&[&[usize]]; 5] = [
        &[&[0], &[1], &[2], &[3], &[4]],
        &[&[4], &[3], &[2], &[1], &[0]],
        &[&[2, 0], &[3, 4, 1]],
        &[&[1, 4], &[0, 2, 3]],
        &[&[4, 3, 2, 1, 0]],
    ];
    for (format, small) in formats {
        for weight in [1.0, 0.37, -2.0, 0.0] {
            let config = Config { format, seed: 5, ..Config::default() };
            let mut whole = accumulator(config, small);
            let mut parts = orders.map(|_| accumulator(config, small));
            for micro_batch in 0..3 {
                let batch = Batch::new(micro_batch);
                whole.accumulate(&batch.all(), weight).unwrap();
                for (sum, order) in parts.iter_mut().zip(orders) {
                    sum.begin_micro_batch(weight).unwrap();
                    for part in order {
                        let part: Vec<_> = part.iter().map(|i| (*i, batch.of(*i))).collect();
                        sum.add_part(&part).unwrap();
                    }
                    assert!(sum.finish_micro_batch().unwrap().is_empty());
                }
            }
            for sum in &parts {
                assert_eq!(sum.state().unwrap(), whole.state().unwrap(), "{format:?}, weight {weight}");
            }
        }
    }
}

#[test]
fn what_is_missing_counts_as_zero_and_is_named() {
    let batch = Batch::new(1);
    let mut sum = accumulator(Config::default(), None);
    sum.begin_micro_batch(1.0).unwrap();
    sum.add_part(&[("t3", batch.of(3)), ("t0", batch.of(0))]).unwrap();
    assert_eq!(sum.missing().unwrap(), [1, 2, 4]);
    assert_eq!(sum.finish_micro_batch().unwrap(), [1, 2, 4]);
    assert_eq!((sum.count(), sum.micro_batch(), sum.weights()), (1, 1, 1.0));
    assert!(sum.to_vec::<f32>("t1", Reduce::Sum).unwrap().iter().all(|x| *x == 0.0));
    assert!(sum.to_vec::<f32>("t0", Reduce::Sum).unwrap().iter().any(|x| *x != 0.0));
}

#[test]
fn a_tensor_used_more_than_once_draws_apart_under_numbers_of_its_own() {
    let (n, tensors) = (SIZES[0], SIZES.len() as u32);
    let (a, b) = (Batch::new(3), Batch::new(4));
    let mut sum = accumulator(Config { seed: 11, ..Config::default() }, None);
    sum.reset_to(9).unwrap();
    sum.begin_micro_batch(0.5).unwrap();
    for batch in [&a, &b, &a] {
        sum.add_part_again(&[(0, batch.of(0))]).unwrap();
    }
    assert_eq!(sum.finish_micro_batch().unwrap(), [1, 2, 3, 4]);
    let cpu = Cpu::default();
    let mut levels = cpu.zeros::<u32>(n.div_ceil(32) * 4).unwrap();
    let mut scales = cpu.zeros::<u16>(n.div_ceil(64)).unwrap();
    let mut reports = cpu.reports(1).unwrap();
    let op = Adaptive { bits: 4, block: BlockSize::default(), draw: Draw::new(11, 9), weight: 0.5 };
    for (tensor, batch) in [(0, &a), (tensors, &b), (2 * tensors, &a)] {
        let x = &batch.wide[0][..];
        let (levels, scales) = (&mut levels[..], &mut scales[..]);
        let item = AdaptiveItem { tensor, first: 0, x, levels, scales, report: 0 };
        cpu.accumulate_adaptive::<f32>(&op, &mut [item], &mut reports).unwrap();
    }
    let trigrad::accumulator::TensorState::Levels { levels: got, scales: got_scales, .. } =
        sum.state().unwrap().tensors[0].clone()
    else {
        unreachable!("an adaptive tensor holds levels")
    };
    assert_eq!((got, got_scales), (levels, scales));
}

#[test]
fn wrong_calls_are_errors_and_nothing_is_lost() {
    let batch = Batch::new(2);
    let mut sum = accumulator(Config::default(), None);
    let mut whole = accumulator(Config::default(), None);
    whole.accumulate(&batch.all(), 1.0).unwrap();
    let none = |e: Error| assert!(matches!(e, Error::NoMicroBatch { .. }), "{e}");
    none(sum.add_part(&batch.all()).unwrap_err());
    none(sum.add_part_again(&batch.all()).unwrap_err());
    none(sum.finish_micro_batch().unwrap_err());
    none(sum.missing().unwrap_err());
    sum.begin_micro_batch(1.0).unwrap();
    sum.add_part(&batch.all()[1..3]).unwrap();

    let open = |e: Error| assert!(matches!(e, Error::MicroBatchOpen { came: 2, tensors: 5 }), "{e}");
    open(sum.begin_micro_batch(1.0).unwrap_err());
    open(sum.accumulate(&batch.all(), 1.0).unwrap_err());
    open(sum.state().unwrap_err());
    open(sum.to_vec::<f32>("t1", Reduce::Sum).unwrap_err());
    open(sum.squared_norm().unwrap_err());
    open(sum.held("t1").map(drop).unwrap_err());

    let twice = sum.add_part(&[(4, batch.of(4)), (1, batch.of(1))]).unwrap_err();
    assert!(matches!(&twice, Error::PartTwice { tensor, .. } if tensor == "t1"), "{twice}");
    assert!(twice.to_string().contains("add_part_again"), "{twice}");
    let e = sum.add_part(&[(4, batch.of(4)), (4, batch.of(4))]).unwrap_err();
    assert!(matches!(e, Error::DuplicateTensor { .. }), "{e}");
    let e = sum.add_part(&[(4, batch.of(3))]).unwrap_err();
    assert!(matches!(e.root(), Error::Length { .. }), "{e}");
    let e = sum.add_part(&[("t9", batch.of(3))]).unwrap_err();
    assert!(matches!(e, Error::UnknownTensor { .. }), "{e}");

    sum.set_micro_batch(7); // for the one after
    sum.add_part(&[(4, batch.of(4)), (0, batch.of(0)), (3, batch.of(3))]).unwrap();
    assert!(sum.finish_micro_batch().unwrap().is_empty());
    assert_eq!(sum.micro_batch(), 7);
    none(sum.add_part(&batch.all()[..1]).unwrap_err());
    assert_eq!(State { micro_batch: 1, ..sum.state().unwrap() }, whole.state().unwrap());
}

#[test]
fn choices_that_parts_cannot_keep_are_refused() {
    let batch = Batch::new(2);
    let mut reject = accumulator(Config { non_finite: NonFinite::Reject, ..Config::default() }, None);
    let e = reject.begin_micro_batch(1.0).unwrap_err();
    assert!(matches!(e, Error::Conflict { .. }) && e.to_string().contains("NonFinite::Defer"), "{e}");
    assert!(!reject.is_open());
    let e = accumulator(Config::default(), None).begin_micro_batch(f32::NAN).unwrap_err();
    assert!(matches!(e, Error::Parameter { .. }), "{e}");

    let format = Format::Exact { bits: 8, scales: Scales::FirstLook { headroom: 2.0 } };
    let mut exact = accumulator(Config { format, ..Config::default() }, None);
    exact.begin_micro_batch(1.0).unwrap();
    exact.add_part(&[(0, batch.of(0))]).unwrap();
    let e = exact.add_part_again(&[(1, batch.of(1)), (0, batch.of(0))]).unwrap_err();
    assert!(matches!(e.root(), Error::Format { .. }), "{e}");
    assert_eq!(exact.missing().unwrap(), [1, 2, 3, 4]);

    let options = Options { small: 0, residual_bits: Some(4), ..Options::default() };
    let mut training = Training::new(Cpu::default(), &specs(None), options).unwrap();
    training.begin_micro_batch(1.0).unwrap();
    let e = training.add_part_again(&[(0, batch.of(0))]).unwrap_err();
    assert!(matches!(e, Error::Conflict { .. }), "{e}");
}

#[test]
fn a_micro_batch_given_up_refuses_the_window_if_a_part_was_added() {
    let batch = Batch::new(2);
    let mut sum = accumulator(Config::default(), None);
    sum.accumulate(&batch.all(), 1.0).unwrap();
    let before = sum.state().unwrap();
    sum.begin_micro_batch(1.0).unwrap();
    sum.abandon_micro_batch();
    assert_eq!(sum.state().unwrap(), before);
    sum.begin_micro_batch(1.0).unwrap();
    sum.add_part(&[(0, batch.of(0))]).unwrap();
    sum.abandon_micro_batch();
    for e in [sum.state().map(drop).unwrap_err(), sum.begin_micro_batch(1.0).unwrap_err()] {
        assert!(matches!(&e, Error::Refused { reason } if reason.contains("1 of 5")), "{e}");
    }
    sum.reset().unwrap();
    sum.begin_micro_batch(1.0).unwrap();
    sum.add_part(&[(0, batch.of(0))]).unwrap();
    sum.reset().unwrap(); // drops it
    assert!(!sum.is_open() && sum.count() == 0);
    sum.accumulate(&batch.all(), 1.0).unwrap();
    let mut fresh = accumulator(Config::default(), None);
    fresh.reset_to(2).unwrap();
    fresh.accumulate(&batch.all(), 1.0).unwrap();
    assert_eq!(sum.state().unwrap(), fresh.state().unwrap());
}

#[test]
fn nan_in_a_late_part_marks_the_window() {
    let mut batch = Batch::new(2);
    batch.wide[0][17] = f32::NAN;
    let mut sum = accumulator(Config::default(), None);
    sum.begin_micro_batch(1.0).unwrap();
    (0..5).rev().for_each(|i| sum.add_part(&[(i, batch.of(i))]).unwrap());
    sum.finish_micro_batch().unwrap();
    let e = sum.to_vec::<f32>("t4", Reduce::Mean).unwrap_err();
    assert!(matches!(e.root(), Error::NonFinite { .. }) && e.to_string().contains("t0"), "{e}");

    let mut training = Training::new(Cpu::default(), &specs(None), Options::default()).unwrap();
    training.begin_micro_batch(1.0).unwrap();
    (0..5).rev().for_each(|i| training.add_part(&[(i, batch.of(i))]).unwrap());
    training.finish_micro_batch().unwrap();
    let ready = training.ready().unwrap();
    let outcome = training.finish(ready).unwrap();
    assert!(matches!(&outcome, Outcome::Skipped { tensor, .. } if tensor == "t0"), "{outcome:?}");
}

#[test]
fn a_training_takes_parts_with_and_without_feedback() {
    for residual_bits in [None, Some(4)] {
        for missing in [Missing::Error, Missing::Leave] {
            let options = Options { residual_bits, missing, ..Options::default() };
            let make = || Training::new(Cpu::default(), &specs(None), options.clone()).unwrap();
            let (mut whole, mut parts) = (make(), make());
            for micro_batch in 0..3 {
                let batch = Batch::new(micro_batch);
                let given = if missing == Missing::Error { batch.all() } else { batch.all()[..4].to_vec() };
                whole.accumulate(&given, 0.5).unwrap();
                parts.begin_micro_batch(0.5).unwrap();
                for (i, g) in given.iter().rev() {
                    parts.add_part(&[(*i, *g)]).unwrap();
                    parts.set_micro_batch(40 + micro_batch as u32); // for the one after
                    assert!(matches!(parts.ready().unwrap_err(), Error::MicroBatchOpen { .. }));
                }
                parts.finish_micro_batch().unwrap();
                whole.set_micro_batch(40 + micro_batch as u32);
            }
            assert_eq!(parts.sums().state().unwrap(), whole.sums().state().unwrap());
            assert_eq!(parts.reports().unwrap(), whole.reports().unwrap());
            assert_eq!(parts.norm().unwrap(), whole.norm().unwrap());
        }
    }
}

#[test]
fn a_micro_batch_that_misses_a_gradient_stays_open() {
    let batch = Batch::new(0);
    let mut training = Training::new(Cpu::default(), &specs(None), Options::default()).unwrap();
    training.begin_micro_batch(1.0).unwrap();
    training.add_part(&batch.all()[1..]).unwrap();
    let e = training.finish_micro_batch().unwrap_err();
    assert!(matches!(&e, Error::NoGradient { tensor, .. } if tensor == "t0"), "{e}");
    assert!(training.is_open() && training.count() == 0);
    training.add_part(&batch.all()[..1]).unwrap();
    training.finish_micro_batch().unwrap();
    assert_eq!((training.is_open(), training.count()), (false, 1));
    training.begin_micro_batch(1.0).unwrap();
    training.add_part(&batch.all()[..1]).unwrap();
    training.abandon_micro_batch();
    assert!(matches!(training.ready().unwrap_err(), Error::Refused { .. }));
    training.reset().unwrap();
    training.accumulate(&batch.all(), 1.0).unwrap();
}
