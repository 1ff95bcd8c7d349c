//! Whole operations are unbiased and have the variance that theory gives. Seeds are fixed, so a test either always
//! passes or never; bounds are computed from the sample size.
//!
//! A draw decides each element with its exact probability, and two draws of a group are independent. So over `R` runs the
//! error of an element has mean 0 and a variance that is known, and the sum of all squared errors has a mean and a
//! variance that are known too: what is compared are z-scores.

use crate::common::{self, State, block};
use trigrad::op::accumulate::{Adaptive, Exact};
use trigrad::op::quantize::Quantize;
use trigrad::op::read_out::ReadOut;
use trigrad::op::{Draw, Grouping};
use trigrad::testing::values::{Pattern, Rng};

/// Five standard deviations: one false alarm in two million per number, were the seeds not fixed.
const BOUND: f64 = 5.0;

/// `|z|` of the largest among `n` normal numbers stays below this, as rarely exceeded as [`BOUND`] for one.
fn bound_of_largest(n: usize) -> f64 {
    (BOUND * BOUND + 2.0 * (n as f64).ln()).sqrt()
}

/// Errors of one element over the runs.
#[derive(Clone, Copy, Default)]
struct Errors {
    sum: f64,
    squares: f64,
    /// The sums of what theory expects: the variance, and the variance of the squared error.
    variance: f64,
    variance_of_squares: f64,
}

impl Errors {
    /// Adds an error of a decision between `down` and `up` above it, `fraction` of the way.
    fn add(&mut self, error: f64, step: f64, fraction: f64) {
        let (up, down) = (step * (1.0 - fraction), step * fraction);
        let mean = up * up * fraction + down * down * (1.0 - fraction);
        let fourth = up.powi(4) * fraction + down.powi(4) * (1.0 - fraction);
        self.sum += error;
        self.squares += error * error;
        self.variance += mean;
        self.variance_of_squares += fourth - mean * mean;
    }
}

/// Means and variances of all elements against theory.
fn hold(errors: &[Errors], what: &str) {
    let mut chi = 0.0;
    let mut counted = 0.0;
    for (i, e) in errors.iter().enumerate().filter(|(_, e)| e.variance > 0.0) {
        let z = e.sum / e.variance.sqrt();
        assert!(z.abs() < bound_of_largest(errors.len()), "{what}: mean error of element {i} has z = {z}");
        chi += z * z;
        counted += 1.0;
    }
    assert!(counted > errors.len() as f64 / 2.0, "{what}: only {counted} elements were rounded");
    let z = (chi - counted) / (2.0 * counted).sqrt();
    assert!(z < BOUND, "{what}: the mean errors together have z = {z}");
    let total = |f: fn(&Errors) -> f64| errors.iter().map(f).sum::<f64>();
    let z = (total(|e| e.squares) - total(|e| e.variance)) / total(|e| e.variance_of_squares).sqrt();
    assert!(z.abs() < BOUND, "{what}: the squared error has z = {z}");
}

fn gradient(seed: u64, n: usize) -> Vec<f32> {
    Pattern::Normal.values(&mut Rng::new(seed, 1), n)
}

fn scale(bits: u16) -> f64 {
    half::bf16::from_bits(bits).to_f64()
}

#[test]
fn stochastic_quantize() {
    let n = 300;
    for (grouping, of_group) in [(Grouping::Block(block(64)), 64), (Grouping::Row(100), 100), (Grouping::Tensor, n)] {
        let x = gradient(1, n);
        let mut errors = vec![Errors::default(); n];
        for step in 0..20_000 {
            let op = Quantize::stochastic(Draw::new(42, step)).grouping(grouping);
            let (packed, _) = common::quantize(&op, (7, 0), &x);
            let y: Vec<f32> = common::dequantize(grouping, &packed, n);
            for (i, e) in errors.iter_mut().enumerate() {
                let s = scale(packed.scales[i / of_group]);
                e.add(f64::from(y[i]) - f64::from(x[i]), s, f64::from(x[i].abs()) / s);
            }
        }
        hold(&errors, &format!("{grouping:?}"));
    }
}

/// The draws must differ between seeds, steps, micro-batches and tensors, not only steps: the same law along each.
#[test]
fn every_part_of_a_position_draws_anew() {
    let n = 128;
    let x = gradient(2, n);
    type At = fn(u32) -> (Draw, u32, u64);
    let along: [(&str, At); 4] = [
        ("seeds", |i| (Draw::new(u64::from(i) << 20, 1), 0, 0)),
        ("micro-batches", |i| (Draw::new(5, 1).micro_batch(i), 0, 0)),
        ("tensors", |i| (Draw::new(5, 1), i, 0)),
        ("positions", |i| (Draw::new(5, 1), 0, 128 * u64::from(i))),
    ];
    for (what, at) in along {
        let mut errors = vec![Errors::default(); n];
        for run in 0..5000 {
            let (draw, tensor, first) = at(run);
            let op = Quantize::stochastic(draw);
            let (packed, _) = common::quantize(&op, (tensor, first), &x);
            let y: Vec<f32> = common::dequantize(op.grouping, &packed, n);
            for (i, e) in errors.iter_mut().enumerate() {
                let s = scale(packed.scales[i / 64]);
                e.add(f64::from(y[i]) - f64::from(x[i]), s, f64::from(x[i].abs()) / s);
            }
        }
        hold(&errors, what);
    }
}

/// Errors of elements are uncorrelated: the variance of their sum is the sum of their variances.
#[test]
fn errors_of_a_group_do_not_add_up() {
    let (n, runs) = (32, 40_000);
    let x = gradient(3, n);
    let (mut squares, mut fourth, mut variance) = (0.0, 0.0, 0.0);
    for step in 0..runs {
        let op = Quantize::stochastic(Draw::new(17, step)).grouping(Grouping::Block(block(32)));
        let (packed, _) = common::quantize(&op, (0, 0), &x);
        let y: Vec<f32> = common::dequantize(op.grouping, &packed, n);
        let sum: f64 = y.iter().zip(&x).map(|(y, x)| f64::from(*y) - f64::from(*x)).sum();
        squares += sum * sum;
        fourth += sum.powi(4);
        let s = scale(packed.scales[0]);
        variance = x.iter().map(|x| s * f64::from(x.abs()) - f64::from(*x).powi(2)).sum();
    }
    let runs = f64::from(runs);
    let (mean, spread) = (squares / runs, ((fourth / runs - (squares / runs).powi(2)) / runs).sqrt());
    let z = (mean - variance) / spread;
    assert!(z.abs() < BOUND, "the variance of the sum is {mean}, theory says {variance}: z = {z}");
}

#[test]
fn adaptive_accumulation() {
    let (n, size) = (192, block(64));
    let batches: Vec<Vec<f32>> = (0..5).map(|k| gradient(10 + k, n)).collect();
    let weights = [1.0f32, 0.25, -2.0, 1.0, 0.5];
    for bits in [2, 4, 8] {
        let mut errors = vec![Errors::default(); n];
        let out = ReadOut { bits, block: size, factor: 1.0 };
        for step in 0..4000 {
            let mut state = State::zero(n, bits, size);
            let mut before = vec![0.0f32; n];
            let mut run: Vec<(f64, f64, f64)> = vec![(0.0, 0.0, 0.0); n];
            for (k, (x, weight)) in batches.iter().zip(weights).enumerate() {
                let draw = Draw::new(3, step).micro_batch(k as u32);
                common::adaptive(&Adaptive { bits, block: size, draw, weight }, (0, 0), x, &mut state);
                let after: Vec<f32> = common::read_out(&out, &state, n);
                for (i, (sum, variance, of_squares)) in run.iter_mut().enumerate() {
                    // Powers of two as weights: the product is exact; the sum is rounded once, as the operation does.
                    let v = before[i] + weight * x[i];
                    let s = scale(state.scales[i / 64]);
                    let mut e = Errors::default();
                    e.add(0.0, s, (f64::from(v.abs()) / s).fract());
                    *sum += f64::from(after[i]) - f64::from(v);
                    *variance += e.variance;
                    *of_squares += e.variance_of_squares;
                }
                before = after;
            }
            for (e, (sum, variance, of_squares)) in errors.iter_mut().zip(run) {
                e.sum += sum;
                e.squares += sum * sum;
                e.variance += variance;
                // Errors of different steps are uncorrelated, so their products add twice the products of variances.
                e.variance_of_squares += of_squares + 2.0 * variance * variance;
            }
        }
        hold(&errors, &format!("{bits} bits"));
    }
}

#[test]
fn exact_counts() {
    let (n, size, batches) = (128, block(64), 7);
    let x = gradient(30, n);
    let max = |x: &[f32]| x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let scales: Vec<u16> = x.chunks(64).map(|x| half::bf16::from_f32(2.0 * max(x)).to_bits()).collect();
    let mut errors = vec![Errors::default(); n];
    for step in 0..4000 {
        let mut state = State { scales: scales.clone(), ..State::zero(n, 4, size) };
        for m in 0..batches {
            let draw = Draw::new(8, step).micro_batch(m);
            let op = Exact { bits: 4, block: size, draw, weight: 1.0, held: m, headroom: None };
            assert_eq!(common::exact(&op, (0, 0), &x, &mut state).clipped, 0);
        }
        let sum: Vec<f32> = common::read_out(&ReadOut { bits: 4, block: size, factor: 1.0 }, &state, n);
        for (i, e) in errors.iter_mut().enumerate() {
            let s = scale(scales[i / 64]);
            let error = f64::from(sum[i]) - f64::from(batches) * f64::from(x[i]);
            let mut one = Errors::default();
            one.add(0.0, s, f64::from(x[i].abs()) / s);
            let k = f64::from(batches);
            e.sum += error;
            e.squares += error * error;
            e.variance += k * one.variance;
            e.variance_of_squares += k * one.variance_of_squares + 2.0 * k * (k - 1.0) * one.variance.powi(2);
        }
    }
    hold(&errors, "exact counts");
}
