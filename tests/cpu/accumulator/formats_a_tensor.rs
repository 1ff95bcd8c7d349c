//! One list of tensors in several formats.

use super::*;
use trigrad::numerics::reduce::{ExactSum, SUM_WORDS};
use trigrad::op::reduce::read_sums;

fn mixed(formats: [Option<Format>; 3], non_finite: NonFinite) -> Cpus {
    let specs: Vec<Spec> = specs().into_iter().zip(formats).map(|(s, format)| Spec { format, ..s }).collect();
    let config = Config { seed: 7, non_finite, ..Config::default() };
    Accumulator::new(Cpu::default(), &specs, config).unwrap()
}

const MIXED: [[Option<Format>; 3]; 3] = [
    [None, Some(Format::F32), Some(Format::Adaptive { bits: 8 })],
    [Some(Format::F32), Some(Format::F32), None],
    [
        Some(Format::Exact { bits: 4, scales: FIRST }),
        Some(Format::Exact { bits: 32, scales: LAST }),
        Some(Format::Exact { bits: 16, scales: LAST }),
    ],
];

/// Each tensor holds what it would hold if all were of its format: its draws are those of its place in the list.
#[test]
fn each_is_held_as_if_all_were_of_its_format() {
    for formats in MIXED {
        let mut acc = mixed(formats, NonFinite::Defer);
        for call in 0..3 {
            add(&mut acc, call, 0.5);
        }
        let got = seen(&acc);
        for (i, format) in formats.into_iter().enumerate() {
            let mut alone = new(format.unwrap_or_default(), NonFinite::Defer);
            for call in 0..3 {
                add(&mut alone, call, 0.5);
            }
            let want = seen(&alone);
            assert_eq!((&got.levels[i], &got.scales[i]), (&want.levels[i], &want.scales[i]), "{formats:?}");
            let bits = |acc: &Cpus| -> Vec<u32> {
                acc.to_vec::<f32>(i, Reduce::Mean).unwrap().iter().map(|x| x.to_bits()).collect()
            };
            assert_eq!(bits(&acc), bits(&alone));
        }
    }
}

#[test]
fn exact_counts_stand_beside_nothing_else() {
    let formats = |a, b| {
        let specs = [Spec::new("a", [3]).format(a), Spec::new("b", [3]).format(b)];
        Accumulator::new(Cpu::default(), &specs, Config::default()).map(|_| ())
    };
    for other in [adaptive(4), Format::F32] {
        for (a, b) in [(exact(8, LAST), other), (other, exact(32, LAST))] {
            let e = formats(a, b).unwrap_err();
            assert!(matches!(e.root(), Error::Conflict { .. }), "{e}");
            assert!(e.to_string().contains("tensor `b`") && e.to_string().contains("bits: 32"), "{e}");
        }
    }
    formats(Format::F32, adaptive(2)).unwrap();
    formats(exact(4, FIRST), exact(32, LAST)).unwrap();
    // The config's format is nobody's here.
    let config = Config { format: exact(8, LAST), ..Config::default() };
    Accumulator::new(Cpu::default(), &[Spec::new("a", [3]).format(Format::F32)], config).unwrap();
}

/// The sum of the squares over the reals, rounded once: not the rounded norms of the tensors, added.
#[test]
fn the_norm_is_one_exact_sum() {
    for formats in MIXED {
        let mut acc = mixed(formats, NonFinite::Defer);
        for call in 0..3 {
            add(&mut acc, call, 1.0 / 3.0);
        }
        let (mut whole, mut each) = (ExactSum::default(), Vec::new());
        for i in 0..3 {
            let mut one = ExactSum::default();
            acc.to_vec::<f32>(i, Reduce::Sum).unwrap().iter().for_each(|x| one.add_square(x.to_bits()));
            whole.merge(&one);
            each.push(one.to_f64());
        }
        assert_eq!(acc.squared_norm().unwrap(), whole.to_f64());
        assert_eq!(acc.squared_norms().unwrap(), each);
        let mut sums = [0u32; 2 * SUM_WORDS];
        acc.queue_squared_norm(&mut sums[..]).unwrap();
        acc.queue_squared_norm(&mut sums[..]).unwrap();
        let read = read_sums(&Cpu::default(), &sums[..]).unwrap();
        let mut twice = whole.clone();
        twice.merge(&whole);
        assert_eq!((&read[0].to_words(), &read[1]), (&twice.to_words(), &ExactSum::default()));
        assert!(matches!(acc.queue_squared_norm(&mut sums[..5]), Err(Error::Length { .. })));
        assert!(matches!(acc.queue_squared_norm(&mut []), Err(Error::Index { .. })));
    }
}

/// Above 2^53 a 1 is lost that is added in f64, and so is the next.
#[test]
fn no_tensor_is_lost_in_the_norm() {
    let specs = ["a", "b", "c"].map(|name| Spec::new(name, [1]).format(Format::F32));
    let mut acc = Accumulator::new(Cpu::default(), &specs, Config::default()).unwrap();
    let (large, one) = ([94_906_272.0f32], [1f32]);
    acc.accumulate(&[(0usize, large[..].into()), (1, one[..].into()), (2, one[..].into())], 1.0).unwrap();
    let square = 94_906_272u64 * 94_906_272;
    assert!(square > 1 << 53 && square.is_multiple_of(4) && square as f64 + 1.0 + 1.0 == square as f64);
    assert_eq!(acc.squared_norm().unwrap(), (square + 2) as f64);
}

/// Five times 8e37 is above 2^126: found where it happens, under every policy, in every format.
#[test]
fn a_sum_that_leaves_the_range_is_found_in_every_format() {
    for format in [adaptive(2), adaptive(4), adaptive(8), Format::F32] {
        for policy in [NonFinite::Reject, NonFinite::Defer, NonFinite::Zero] {
            let config = Config { format, non_finite: policy, ..Config::default() };
            let mut acc = Accumulator::new(Cpu::default(), &[Spec::new("w", [2])], config).unwrap();
            for _ in 0..5 {
                acc.accumulate(&[("w", [8e37f32, 1.0][..].into())], 1.0).unwrap();
            }
            assert!(acc.found().unwrap().non_finite > 0, "{format:?}");
            assert_eq!(acc.reports().unwrap()[0].first, Some(0));
            let read = acc.to_vec::<f32>("w", Reduce::Sum);
            match policy {
                NonFinite::Zero => assert!(read.unwrap().iter().all(|x| x.is_finite())),
                _ => assert!(matches!(read.unwrap_err().root(), Error::NonFinite { .. })),
            }
        }
    }
}

/// A weight of 0 makes 0 of anything; a subnormal weight is 0. Under every policy, in every format.
#[test]
fn a_masked_micro_batch_adds_nothing_and_finds_nothing() {
    for format in formats() {
        for policy in [NonFinite::Reject, NonFinite::Defer, NonFinite::Zero] {
            for weight in [0.0, -0.0, 1e-40] {
                let (mut acc, mut without) = (new(format, policy), new(format, policy));
                add(&mut acc, 0, 1.0);
                add(&mut without, 0, 1.0);
                let nan = N.map(|n| vec![f32::NAN; n]);
                acc.accumulate(&list(&nan), weight).unwrap();
                let (got, want) = (seen(&acc), seen(&without));
                assert_eq!((got.levels, got.scales, got.reports), (want.levels, want.scales, want.reports));
                assert_eq!((acc.count(), acc.weights()), (2, 1.0));
                acc.to_vec::<f32>("a", Reduce::Mean).unwrap();
            }
        }
    }
}

#[test]
fn sums_of_weights_stay_finite_and_have_an_inverse() {
    let mut acc = mixed(MIXED[0], NonFinite::Defer);
    add(&mut acc, 0, 0.0);
    let mut state = acc.state().unwrap();
    state.weights = f64::from(f32::MAX) * f64::from(f32::MAX);
    assert!(matches!(acc.set_state(&state), Err(Error::Parameter { name: "sum of weights", .. })));
    state.weights = f64::from(f32::MIN_POSITIVE) / 1e10;
    acc.set_state(&state).unwrap();
    let e = acc.to_vec::<f32>("a", Reduce::Mean).unwrap_err();
    assert!(matches!(e, Error::Parameter { name: "sum of weights", .. }), "{e}");
    // The most that a u32 of micro-batches can weigh; its inverse is 0 in f32.
    state.held = 1 << 25;
    state.weights = f64::from(f32::MAX) * f64::from(1 << 25);
    acc.set_state(&state).unwrap();
    let e = acc.to_vec::<f32>("a", Reduce::Mean).unwrap_err();
    assert!(matches!(e, Error::Parameter { name: "sum of weights", .. }), "{e}");
}

#[test]
fn what_is_public_can_be_printed() {
    let mut acc = mixed(MIXED[0], NonFinite::Defer);
    add(&mut acc, 0, 1.0);
    let text = format!("{acc:?}");
    assert!(text.contains("cpu") && text.contains("held: 1") && text.contains("F32"), "{text}");
    assert_eq!(format!("{:?}", acc.held("b").unwrap()), "F32(70 elements)");
    assert_eq!(format!("{:?}", acc.held("a").unwrap()), "Levels(4 bits, 28 words, 4 scales)");
    assert!(matches!(acc.scales("b").unwrap_err().root(), Error::Format { format: "f32", .. }));
}
