//! Windows in which not every block is seen.

use super::*;

fn one(bits: u32, scales: Scales, seed: u64) -> Cpus {
    let config = Config { format: exact(bits, scales), seed, ..Config::default() };
    Accumulator::new(Cpu::default(), &[Spec::new("w", [2, 64])], config).unwrap()
}

/// The first row and the second, a block each.
fn add(acc: &mut Cpus, rows: [f32; 2], weight: f32) {
    let x: Vec<f32> = rows.iter().flat_map(|x| [*x; 64]).collect();
    acc.accumulate(&[("w", x[..].into())], weight).unwrap();
}

fn row_mean(acc: &Cpus, row: usize) -> f64 {
    let sum: Vec<f32> = acc.to_vec("w", Reduce::Sum).unwrap();
    sum[row * 64..][..64].iter().map(|x| f64::from(*x)).sum::<f64>() / 64.0
}

/// 30 windows, the second row in every third: what is read out sums to 10.
#[test]
fn a_row_seen_every_third_window_arrives() {
    for (bits, scales) in [(4, LAST), (8, LAST), (16, LAST), (32, LAST), (8, FIRST), (32, FIRST)] {
        let (mut total, windows) = (0.0, 30);
        for seed in 0..20 {
            let mut acc = one(bits, scales, seed);
            for window in 0..windows {
                for _ in 0..4 {
                    add(&mut acc, [0.3, if window % 3 == 2 { 0.25 } else { 0.0 }], 1.0);
                }
                total += row_mean(&acc, 1) / 20.0;
                assert_eq!(acc.found().unwrap().clipped, 0, "{bits} {scales:?} window {window}");
                acc.reset().unwrap();
            }
        }
        assert!((9.8..10.2).contains(&total), "{bits} bits, {scales:?}: {total} for 10");
    }
}

/// A first micro-batch that is empty, masked, or zero in a block says nothing about the scales.
#[test]
fn a_silent_first_micro_batch_does_not_silence_the_window() {
    for bits in [4, 8, 16, 32] {
        for scales in [FIRST, LAST] {
            for first in [([0.0; 2], 1.0), ([7.0; 2], 0.0), ([f32::NAN; 2], 0.0), ([7.0, 0.0], 0.0)] {
                let mut acc = one(bits, scales, 3);
                add(&mut acc, first.0, first.1);
                add(&mut acc, [1.5, 0.0], 1.0);
                add(&mut acc, [1.5, 3.0], 1.0);
                assert_eq!(acc.found().unwrap(), Report::default());
                let (a, b) = (row_mean(&acc, 0), row_mean(&acc, 1));
                assert!((2.5..3.5).contains(&a) && (2.2..3.8).contains(&b), "{bits} {scales:?} {first:?}: {a} {b}");
                let found: Vec<f32> = acc.scales("w").unwrap().iter().map(|s| s.to_f32()).collect();
                let one = if bits == 32 { [4f32, 8.0].map(|x| x / 2f32.powi(21)) } else { [2.25, 4.5] };
                assert_eq!(found, one, "{bits} {scales:?} {first:?}");
            }
        }
    }
}

#[test]
fn a_block_that_was_not_seen_keeps_its_last_scale() {
    let mut acc = one(8, LAST, 3);
    add(&mut acc, [1.0, 2.0], 1.0);
    acc.reset().unwrap();
    add(&mut acc, [4.0, 0.0], 1.0);
    acc.reset().unwrap();
    let scales = |acc: &Cpus| -> Vec<f32> { acc.scales("w").unwrap().iter().map(|s| s.to_f32()).collect() };
    assert_eq!(scales(&acc), [6.0, 3.0]);
    // A first look starts every window without.
    let mut acc = one(8, FIRST, 3);
    add(&mut acc, [1.0, 2.0], 1.0);
    acc.reset().unwrap();
    assert_eq!(scales(&acc), [0.0, 0.0]);
}

/// Workers that each saw a row of their own merge: where one has no scale, the other's holds.
#[test]
fn rows_that_one_worker_saw_merge_with_those_of_another() {
    for bits in [8, 32] {
        let mut all = one(bits, LAST, 3);
        let (mut a, mut b) = (one(bits, LAST, 3), one(bits, LAST, 3));
        b.set_micro_batch(1);
        add(&mut a, [1.0, 0.0], 1.0);
        add(&mut b, [0.0, 2.0], 1.0);
        add(&mut all, [1.0, 0.0], 1.0);
        add(&mut all, [0.0, 2.0], 1.0);
        a.merge(&b).unwrap();
        assert_eq!(words_and_scales(&a, "w"), words_and_scales(&all, "w"));
        a.reset().unwrap();
        all.reset().unwrap();
        assert_eq!(words_and_scales(&a, "w"), words_and_scales(&all, "w"));
        // Scales that were given are not replaced.
        let mut given = one(bits, Scales::Given, 3);
        let q = if bits == 32 { 2f32.powi(-20) } else { 1.5 };
        given.set_scales("w", &[q, 0.0].map(bf16::from_f32)).unwrap();
        add(&mut given, [1.0, 0.0], 1.0);
        let e = given.merge(&b).unwrap_err();
        assert!(matches!(e.root(), Error::ScalesDiffer { .. }), "{e}");
    }
}
