//! One small model, trained through the same object on buffers of every backend: the same gradients of every
//! micro-batch, the same bits of weights, norms and read-outs.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use half::bf16;
use trigrad::accumulator::{Config, Floats, Format, NonFinite, Scales, Spec};
use trigrad::cpu::Cpu;
use trigrad::device::Device;
use trigrad::training::{AdamW, LossScale, Missing, Optimizer, Options, Outcome, Rule, Sgd, Training, WeightsMut};
use trigrad::{Backend, Result};

/// Inputs, hidden units, outputs: matrices of more than a block, biases of less.
const SHAPE: [usize; 3] = [24, 48, 5];
const STEPS: usize = 6;
const MICRO_BATCHES: usize = 3;
/// A window with an Inf in it.
const MARKED: usize = 2;

/// Numbers in -1..1 that are a function of their place.
fn noise(place: usize, i: usize) -> f32 {
    let mut z = (place as u64) << 32 ^ i as u64;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn specs() -> Vec<Spec> {
    let [x, h, y] = SHAPE;
    vec![
        Spec::new("a.weight", [h, x]),
        Spec::new("a.bias", [h]),
        Spec::new("b.weight", [y, h]),
        Spec::new("b.bias", [y]),
    ]
}

/// The gradients of a linear network's squared error on one micro-batch, by hand, times the loss scale.
fn gradients(w: &[Vec<f32>], micro_batch: usize, scale: f32) -> Vec<Vec<f32>> {
    let [nx, nh, ny] = SHAPE;
    let mut g: Vec<Vec<f32>> = w.iter().map(|w| vec![0.0; w.len()]).collect();
    for row in 0..4 {
        let x: Vec<f32> = (0..nx).map(|i| noise(1000 * micro_batch + row, i)).collect();
        let h: Vec<f32> = (0..nh).map(|j| (0..nx).map(|i| w[0][j * nx + i] * x[i]).sum::<f32>() + w[1][j]).collect();
        let out = |k: usize| (0..nh).map(|j| w[2][k * nh + j] * h[j]).sum::<f32>() + w[3][k];
        let d: Vec<f32> = (0..ny).map(|k| (out(k) - x[k]) * scale / 4.0).collect();
        for j in 0..nh {
            let back: f32 = (0..ny).map(|k| d[k] * w[2][k * nh + j]).sum();
            g[1][j] += back;
            (0..nx).for_each(|i| g[0][j * nx + i] += back * x[i]);
            (0..ny).for_each(|k| g[2][k * nh + j] += d[k] * h[j]);
        }
        (0..ny).for_each(|k| g[3][k] += d[k]);
    }
    g
}

/// Everything that a run leaves behind, as bits.
#[derive(Clone, Debug, Default, PartialEq)]
struct Trace {
    words: Vec<u32>,
    norms: Vec<u64>,
    skipped: u64,
}

/// A micro-batch at once, or in parts, one tensor at a time from the end of the list.
#[derive(Clone, Copy, PartialEq)]
enum Come {
    AtOnce,
    InParts,
}

fn run<B: Backend + Clone>(backend: &B, options: &Options, rule: Rule, come: Come) -> Result<Trace> {
    let specs = specs();
    let mut training = Training::new(backend.clone(), &specs, options.clone())?;
    let mut optimizer = Optimizer::new(&training, rule)?;
    let start = |i: usize| -> Vec<f32> { (0..specs[i].elements().unwrap()).map(|j| noise(7 + i, j) * 0.3).collect() };
    let mut a = backend.upload(&start(0))?;
    let mut a_bias = backend.upload(&start(1))?;
    let narrow: Vec<bf16> = start(2).into_iter().map(bf16::from_f32).collect();
    let mut b = backend.upload(&narrow)?;
    let mut b_bias = backend.upload(&start(3))?;
    let mut trace = Trace::default();
    for step in 0..STEPS {
        let wide: Vec<f32> = backend.download(B::view(&b))?.into_iter().map(bf16::to_f32).collect();
        let w = vec![
            backend.download(B::view(&a))?,
            backend.download(B::view(&a_bias))?,
            wide,
            backend.download(B::view(&b_bias))?,
        ];
        for k in 0..MICRO_BATCHES {
            let mut g = gradients(&w, step * MICRO_BATCHES + k, training.loss_scale() as f32);
            if (step, k) == (MARKED, 1) {
                g[2][17] = f32::INFINITY;
            }
            let narrow: Vec<bf16> = g[2].iter().copied().map(bf16::from_f32).collect();
            let (x0, x1, x2) = (backend.upload(&g[0])?, backend.upload(&g[1])?, backend.upload(&narrow)?);
            let x3 = backend.upload(&g[3])?;
            let mut list: Vec<(&str, Floats<'_, B>)> = vec![
                ("b.bias", Floats::F32(B::view(&x3))),
                ("a.weight", Floats::F32(B::view(&x0))),
                ("b.weight", Floats::Bf16(B::view(&x2))),
                ("a.bias", Floats::F32(B::view(&x1))),
            ];
            if options.missing != Missing::Error && (k == 1 || step == 4) {
                list.remove(0);
            }
            let weight = if k == 2 { 0.5 } else { 1.0 };
            if come == Come::AtOnce {
                training.accumulate(&list, weight)?;
                continue;
            }
            training.begin_micro_batch(weight)?;
            list.iter().rev().try_for_each(|part| training.add_part(&[*part]))?;
            training.finish_micro_batch()?;
        }
        let mut out = backend.zeros::<f32>(specs[2].elements()?)?;
        if training.read_out(&mut [(2usize, B::view_mut(&mut out))]).is_ok() {
            trace.words.extend(backend.download(B::view(&out))?.into_iter().map(f32::to_bits));
        }
        let weights = vec![
            WeightsMut::F32(B::view_mut(&mut a)),
            WeightsMut::F32(B::view_mut(&mut a_bias)),
            WeightsMut::Bf16(B::view_mut(&mut b)),
            WeightsMut::F32(B::view_mut(&mut b_bias)),
        ];
        match training.step(&mut optimizer, weights)? {
            Outcome::Updated { norm, kept, .. } => {
                assert!(kept.is_empty());
                trace.norms.push(norm.to_bits());
            }
            Outcome::Skipped { .. } | Outcome::Nothing => trace.norms.push(0),
        }
        trace.words.extend(backend.download(B::view(&a))?.into_iter().map(f32::to_bits));
        trace.words.extend(backend.download(B::view(&a_bias))?.into_iter().map(f32::to_bits));
        trace.words.extend(backend.download(B::view(&b))?.into_iter().map(|w| u32::from(w.to_bits())));
        trace.words.extend(backend.download(B::view(&b_bias))?.into_iter().map(f32::to_bits));
    }
    trace.skipped = training.counts().skipped;
    Ok(trace)
}

fn cases() -> Vec<(Options, Rule)> {
    let of = |format| Options {
        config: Config { format, seed: 99, ..Config::default() },
        small: 64,
        clip_norm: Some(0.5),
        loss_scale: LossScale::dynamic(1024.0),
        ..Options::default()
    };
    let adam = Rule::AdamW(AdamW { learning_rate: 0.02, ..AdamW::default() });
    let sgd = Rule::Sgd(Sgd { learning_rate: 0.05, momentum: 0.9, weight_decay: 0.01, nesterov: true });
    let zero = |o: Options| Options { config: Config { non_finite: NonFinite::Zero, ..o.config }, ..o };
    vec![
        (of(Format::Adaptive { bits: 2 }), sgd),
        (of(Format::Adaptive { bits: 4 }), adam),
        (zero(of(Format::Adaptive { bits: 8 })), adam),
        (Options { residual_bits: Some(4), ..of(Format::Adaptive { bits: 4 }) }, sgd),
        (zero(Options { residual_bits: Some(8), ..of(Format::Adaptive { bits: 2 }) }), adam),
        (Options { missing: Missing::Zero, ..of(Format::Adaptive { bits: 4 }) }, sgd),
        (Options { missing: Missing::Leave, ..of(Format::Adaptive { bits: 4 }) }, adam),
        (of(Format::Exact { bits: 8, scales: Scales::LastWindow { headroom: 1.5 } }), adam),
        (of(Format::Exact { bits: 4, scales: Scales::FirstLook { headroom: 2.0 } }), sgd),
        (of(Format::F32), adam),
    ]
}

/// Every case on a backend against the plain code of the CPU.
fn equals_the_cpu<B: Backend + Clone>(backend: &B, name: &str) -> Result<()> {
    for (i, (options, rule)) in cases().into_iter().enumerate() {
        let want = run(&Cpu::plain(), &options, rule, Come::AtOnce)?;
        let got = run(backend, &options, rule, Come::AtOnce)?;
        let at = want.words.iter().zip(&got.words).position(|(a, b)| a != b);
        assert_eq!(at, None, "{name}, case {i}: the first of {} words that differs", want.words.len());
        assert_eq!(want, got, "{name}, case {i}");
        assert_eq!(want, run(backend, &options, rule, Come::InParts)?, "{name}, case {i}, in parts");
        let zero = options.config.non_finite == NonFinite::Zero;
        assert_eq!(want.skipped, u64::from(!zero), "the marked window is dropped, unless its Inf counts as zero");
    }
    Ok(())
}

#[test]
fn on_every_kind_of_cpu_code_and_behind_the_run_time_choice() -> Result<()> {
    for cpu in Cpu::kinds() {
        equals_the_cpu(&cpu, &trigrad::Memory::name(&cpu))?;
    }
    equals_the_cpu(&Device::default(), "Device")
}

#[cfg(feature = "wgpu")]
#[test]
fn on_wgpu_buffers() -> Result<()> {
    let Some(gpu) = crate::adapter::device(&trigrad::webgpu::Options::default()) else { return Ok(()) };
    equals_the_cpu(&gpu, "wgpu")
}

#[cfg(feature = "cuda-kernels")]
#[test]
fn on_cuda_buffers() -> Result<()> {
    let Some(card) = crate::card::card() else { return Ok(()) };
    equals_the_cpu(&card, "CUDA")
}
