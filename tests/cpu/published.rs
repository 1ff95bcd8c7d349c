//! The published squared error of each rule (over the squared norm) on Gaussian, Laplace and Student-t data with three
//! degrees of freedom, reproduced on whole operations.
//!
//! Tolerances: the standard error is computed from the sample itself, by blocks; five of them, and half a unit in the
//! last published digit, and half a percent for scales that are rounded up to bf16 where the published rule has none.

#![expect(clippy::print_stdout, reason = "the measured figures are worth seeing")]

use crate::common::{self, State, block};
use trigrad::op::accumulate::{Adaptive, Exact};
use trigrad::op::quantize::{Quantize, Rule, Threshold};
use trigrad::op::read_out::ReadOut;
use trigrad::op::{Draw, Grouping};
use trigrad::testing::values::Rng;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Law {
    Gauss,
    Laplace,
    Student3,
}

/// A normal number by the method of Box and Muller: the tails matter here.
fn normal(rng: &mut Rng) -> f64 {
    let r = (-2.0 * (1.0 - rng.unit()).ln()).sqrt();
    r * (2.0 * std::f64::consts::PI * rng.unit()).cos()
}

fn sample(law: Law, seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed, law as u64);
    let one = |_| match law {
        Law::Gauss => normal(&mut rng),
        Law::Laplace => {
            let u = rng.unit() - 0.5;
            -u.signum() * (1.0 - 2.0 * u.abs()).ln()
        }
        Law::Student3 => {
            let z = normal(&mut rng);
            let chi: f64 = (0..3).map(|_| normal(&mut rng).powi(2)).sum();
            z / (chi / 3.0).sqrt()
        }
    };
    (0..n).map(one).map(|x: f64| x as f32).collect()
}

/// Squared error over squared norm, and its standard error from `parts` parts of the sample.
fn error(x: &[f64], y: &[f64], parts: usize) -> (f64, f64) {
    let square = |a: &[f64]| a.iter().map(|a| a * a).sum::<f64>();
    let difference: Vec<f64> = x.iter().zip(y).map(|(x, y)| x - y).collect();
    let ratio = square(&difference) / square(x);
    let size = x.len().div_ceil(parts);
    let residual = |(d, x): (&[f64], &[f64])| (square(d) - ratio * square(x)).powi(2);
    let spread: f64 = difference.chunks(size).zip(x.chunks(size)).map(residual).sum();
    (ratio, spread.sqrt() / square(x))
}

fn wide<T: Copy + Into<f64>>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| (*x).into()).collect()
}

/// Compares with a published figure of which half a unit of the last digit is `half`.
fn hold(what: &str, law: Law, (got, spread): (f64, f64), published: f64, half: f64) {
    let tolerance = 5.0 * spread + half + 0.005 * published;
    println!("{what:<40} {law:?}: {got:.4} +- {spread:.4}, published {published}");
    assert!(
        (got - published).abs() <= tolerance,
        "{what}, {law:?}: {got} where {published} is published ({tolerance})"
    );
    assert!(tolerance <= 0.5 * published, "{what}, {law:?}: the sample says too little, {tolerance} of {published}");
}

fn quantized(op: &Quantize, x: &[f32]) -> Vec<f64> {
    let (packed, _) = common::quantize(op, (0, 0), x);
    wide(&common::dequantize::<f32>(op.grouping, &packed, x.len()))
}

const N: usize = 1 << 20;
const LAWS: [Law; 3] = [Law::Gauss, Law::Laplace, Law::Student3];

#[test]
fn stochastic_by_block() {
    let published =
        [(32, [0.89, 1.09, 1.18]), (64, [1.08, 1.41, 1.70]), (256, [1.43, 2.07, 3.2]), (4096, [2.03, 3.43, 9.6])];
    for (size, figures) in published {
        for (law, figure) in LAWS.into_iter().zip(figures) {
            let x = sample(law, 1, N);
            let op = Quantize::stochastic(Draw::new(1, 1)).grouping(Grouping::Block(block(size)));
            let half = if figure > 3.0 && law == Law::Student3 { 0.05 } else { 0.005 };
            hold(&format!("stochastic, block {size}"), law, error(&wide(&x), &quantized(&op, &x), 64), figure, half);
        }
    }
}

/// One scale for a tensor of 4 Mi elements: the error depends on the largest of all, so on the sample; the expected
/// largest value is what was published. Student's t is left out: its largest value has no variance.
#[test]
fn stochastic_by_tensor() {
    for (law, figure) in [(Law::Gauss, 3.27), (Law::Laplace, 7.26)] {
        let mut errors = Vec::new();
        for seed in 0..6 {
            let x = sample(law, 100 + seed, 4 << 20);
            let op = Quantize::stochastic(Draw::new(seed, 1)).grouping(Grouping::Tensor);
            errors.push(error(&wide(&x), &quantized(&op, &x), 64).0);
        }
        let n = errors.len() as f64;
        let mean = errors.iter().sum::<f64>() / n;
        let spread = (errors.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
        hold("stochastic, tensor of 4 Mi", law, (mean, spread), figure, 0.005);
    }
}

/// TernGrad's clipping at 2.5 sigma: variance and squared bias apart.
#[test]
fn clipped() {
    for (law, variance, bias) in
        [(Law::Gauss, 1.007, 0.002), (Law::Laplace, 0.849, 0.029), (Law::Student3, 0.833, 0.168)]
    {
        let x = sample(law, 2, N);
        let op = Quantize::stochastic(Draw::new(1, 1)).clip(2.5).grouping(Grouping::Tensor);
        // The scale is the clipped maximum, that is 2.5 sigma rounded up to bf16.
        let (packed, report) = common::quantize(&op, (0, 0), &x);
        let s = half::bf16::from_bits(packed.scales[0]).to_f64();
        assert!(report.clipped > 0);
        let cut: Vec<f64> = x.iter().map(|x| f64::from(*x).clamp(-s, s)).collect();
        let y = wide(&common::dequantize::<f32>(Grouping::Tensor, &packed, N));
        let x = wide(&x);
        let (of_cut, spread) = error(&cut, &y, 64);
        let share = cut.iter().map(|c| c * c).sum::<f64>() / x.iter().map(|x| x * x).sum::<f64>();
        // The sample's own sigma moves with its largest values, for Student's t by much: told by the parts.
        let (clip, of_bias) = error(&x, &cut, 64);
        hold("clip 2.5 sigma, variance", law, (of_cut * share, spread + 0.2 * of_bias), variance, 0.0005);
        if law != Law::Gauss {
            hold("clip 2.5 sigma, squared bias", law, (clip, of_bias), bias, 0.0005);
        }
    }
}

/// Threshold rules over a whole tensor; all are deterministic.
#[expect(clippy::approx_constant, reason = "0.318 is a measured error, not 1 / pi")]
#[test]
fn thresholds() {
    let published = [
        // The mean magnitude as threshold, with the least-squares magnitude: from E|x|; |x| > t in closed form.
        ("mean magnitude", Threshold::MEAN_MAGNITUDE, [0.207, 0.264, 0.417]),
        ("TWN", Threshold::TWN, [0.192, 0.282, 0.434]),
        ("absmean rounding", Threshold::ABSMEAN, [0.213, 0.318, 0.463]),
        ("sign", Threshold::Given(0.0), [0.364, 0.500, 0.597]),
    ];
    for (name, threshold, figures) in published {
        for (law, figure) in LAWS.into_iter().zip(figures) {
            let x = sample(law, 3, N);
            let op = Quantize::threshold(threshold).grouping(Grouping::Tensor);
            let (got, spread) = error(&wide(&x), &quantized(&op, &x), 64);
            hold(name, law, (got, spread), figure, 0.001);
        }
    }
}

/// Reconstructing with the largest magnitude, as others do, overshoots by an order: the least-squares one matters.
#[test]
fn the_magnitude_is_the_least_squares_one() {
    for law in LAWS {
        let x = sample(law, 4, 1 << 16);
        let op = Quantize::threshold(Threshold::TWN);
        let best = error(&wide(&x), &quantized(&op, &x), 64).0;
        for factor in [0.98, 1.02] {
            let y: Vec<f64> = quantized(&op, &x).iter().map(|y| y * factor).collect();
            assert!(error(&wide(&x), &y, 64).0 > best, "{law:?}: {factor} times the scale is better");
        }
    }
}

/// The sum of micro-batches, block 64: error over the squared sum (numerics: simulated table).
#[test]
fn accumulation() {
    let published = [
        (2, 4, [4.1, 4.5]),
        (2, 8, [8.2, 7.9]),
        (4, 1, [0.023, 0.07]),
        (4, 4, [0.059, 0.14]),
        (4, 8, [0.11, 0.22]),
        (4, 16, [0.22, 0.35]),
        (8, 4, [0.0002, 0.0005]),
        (8, 8, [0.0003, 0.0007]),
    ];
    let n = 1 << 16;
    for (bits, batches, figures) in published {
        for (law, figure) in [Law::Gauss, Law::Student3].into_iter().zip(figures) {
            let mut state = State::zero(n, bits, block(64));
            let mut sum = vec![0.0f64; n];
            for k in 0..batches {
                let x = sample(law, 50 + u64::from(k), n);
                let draw = Draw::new(6, 0).micro_batch(k);
                common::adaptive(&Adaptive { bits, block: block(64), draw, weight: 1.0 }, (0, 0), &x, &mut state);
                sum.iter_mut().zip(&x).for_each(|(s, x)| *s += f64::from(*x));
            }
            let y: Vec<f32> = common::read_out(&ReadOut { bits, block: block(64), factor: 1.0 }, &state, n);
            let (got, spread) = error(&sum, &wide(&y), 64);
            // The last digit: 4 and 8 bits have one or two.
            let half = match (bits, batches) {
                (8, _) => 0.00005,
                (2, _) => 0.05,
                _ if figure < 0.1 && law == Law::Gauss => 0.0005,
                _ => 0.005,
            };
            hold(&format!("adaptive {bits} bits, K = {batches}"), law, (got, spread), figure, half);
        }
    }
}

/// Counts under scales that fit each micro-batch's own blocks would have 1.08; under one scale a window, which must
/// cover the largest of K micro-batches, the error is that of the larger scale: it is what theory says, `s|x| - x^2`.
#[test]
fn exact_counts() {
    let (n, batches) = (1 << 16, 7u32);
    let data: Vec<Vec<f32>> = (0..batches).map(|k| sample(Law::Gauss, 70 + u64::from(k), n)).collect();
    let mut state = State::zero(n, 4, block(64));
    let max = |b: usize| data.iter().flat_map(|x| &x[64 * b..64 * b + 64]).fold(0.0f32, |m, x| m.max(x.abs()));
    state.scales = (0..n / 64).map(|b| half::bf16::from_f32(max(b) * 1.004).to_bits()).collect();
    let (mut sum, mut theory) = (vec![0.0f64; n], 0.0);
    for (k, x) in data.iter().enumerate() {
        let op = Exact {
            bits: 4,
            block: block(64),
            draw: Draw::new(2, 2).micro_batch(k as u32),
            weight: 1.0,
            held: k as u32,
            headroom: None,
        };
        assert_eq!(common::exact(&op, (0, 0), x, &mut state).clipped, 0);
        for (i, x) in x.iter().enumerate() {
            let (x, s) = (f64::from(*x), half::bf16::from_bits(state.scales[i / 64]).to_f64());
            sum[i] += x;
            theory += s * x.abs() - x * x;
        }
    }
    let y: Vec<f32> = common::read_out(&ReadOut { bits: 4, block: block(64), factor: 1.0 }, &state, n);
    let (got, spread) = error(&sum, &wide(&y), 64);
    let theory = theory / sum.iter().map(|s| s * s).sum::<f64>();
    assert!((got - theory).abs() < 5.0 * spread, "{got} +- {spread}, theory {theory}");
}

/// Rules are what their names say.
#[test]
fn names() {
    assert_eq!(Quantize::threshold(Threshold::TWN).rule, Rule::Threshold(Threshold::Mean(0.7)));
    assert_eq!(Quantize::threshold(Threshold::ABSMEAN).rule, Rule::Threshold(Threshold::Mean(0.5)));
}
