//! The training object: against candle's own optimizers on the same gradients, and its rules one by one.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, SGD};
use half::bf16;
use std::collections::HashMap;
use trigrad::accumulator::{Config, Format, NonFinite, Scales, Spec};
use trigrad::candle::{Accumulated, AccumulatedConfig, FusedOptimizer, ModelGradients};
use trigrad::training::{LossScale, Options, Outcome};
use trigrad::{Error, Result};

const CPU: Device = Device::Cpu;

/// Numbers in -1..1 from a counter.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn vars(dtype: DType) -> Vec<(String, Var)> {
    let make = |(name, rows, cols): &(&str, usize, usize)| {
        let w = Tensor::from_vec(numbers(1 + *rows as u64, rows * cols), (*rows, *cols), &CPU)?.to_dtype(dtype)?;
        Ok(((*name).to_owned(), Var::from_tensor(&w)?))
    };
    let shapes = [("a.weight", 40, 50), ("b.weight", 33, 33), ("b.norm", 1, 7)];
    shapes.iter().map(make).collect::<Result<_>>().unwrap()
}

fn gradients(vars: &[(String, Var)], micro_batch: u64) -> GradStore {
    let mut store = GradStore::default();
    for (i, (_, var)) in vars.iter().enumerate() {
        let x = numbers(1000 * (i as u64 + 1) + micro_batch, var.elem_count());
        store.insert(var, Tensor::from_vec(x, var.dims(), &CPU).unwrap());
    }
    store
}

fn values(vars: &[(String, Var)]) -> Vec<Vec<f32>> {
    let flat = |v: &Var| v.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    vars.iter().map(|(_, v)| flat(v).unwrap()).collect()
}

fn adaptive(bits: u32) -> Config {
    Config { format: Format::Adaptive { bits }, seed: 3, ..Config::default() }
}

fn options(bits: u32) -> Options {
    Options { config: adaptive(bits), small: 16, ..Options::default() }
}

#[test]
fn fused_adamw_is_candles_bit_for_bit_on_the_same_gradients() -> Result<()> {
    for bits in [2, 4, 8] {
        let (a, b) = (vars(DType::F32), vars(DType::F32));
        let params = ParamsAdamW { lr: 1e-2, weight_decay: 0.1, ..ParamsAdamW::default() };
        let mut candles = AdamW::new(b.iter().map(|(_, v)| v.clone()).collect(), params.clone())?;
        let (mut fused_sum, mut sum) =
            (ModelGradients::from_vars(&a, options(bits))?, ModelGradients::from_vars(&b, options(bits))?);
        let mut fused = FusedOptimizer::adamw(&fused_sum, params)?;
        for step in 0..5 {
            for k in 0..3 {
                fused_sum.consume(gradients(&a, step * 3 + k), 1.0)?;
                sum.consume(gradients(&b, step * 3 + k), 1.0)?;
            }
            assert!(fused.step(&mut fused_sum)?.updated());
            assert!(sum.step(&mut candles)?.updated());
        }
        assert_eq!(values(&a), values(&b), "{bits} bits");
        assert_ne!(values(&a), values(&vars(DType::F32)));
    }
    Ok(())
}

#[test]
fn fused_sgd_is_candles_without_momentum() -> Result<()> {
    let (a, b) = (vars(DType::F32), vars(DType::F32));
    let mut candles = SGD::new(b.iter().map(|(_, v)| v.clone()).collect(), 0.125)?;
    let (mut x, mut y) = (ModelGradients::from_vars(&a, options(4))?, ModelGradients::from_vars(&b, options(4))?);
    let mut fused = FusedOptimizer::sgd(&x, 0.125, 0.0, 0.0, false)?;
    for step in 0..4 {
        x.accumulate(&gradients(&a, step), 1.0)?;
        y.accumulate(&gradients(&b, step), 1.0)?;
        assert!(fused.step(&mut x)?.updated());
        assert!(y.step(&mut candles)?.updated());
    }
    assert_eq!(values(&a), values(&b));
    assert_eq!(fused.bytes_held(), 0);
    Ok(())
}

#[test]
fn momentum_is_pytorchs() -> Result<()> {
    // torch.optim.SGD([w], lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=n), w = 1, gradients 0.5 then -0.25:
    //   d1 = 0.51, b1 = 0.51; n: 0.969, else 0.51
    for (nesterov, want) in [(false, [0.949, 0.9272]), (true, [0.9031, 0.9076])] {
        let v = vec![("w".to_owned(), Var::ones(1, DType::F32, &CPU)?)];
        let mut g = ModelGradients::from_vars(&v, Options::default())?;
        let mut sgd = FusedOptimizer::sgd(&g, 0.1, 0.9, 0.01, nesterov)?;
        let (mut w, mut b) = (1.0f64, 0.0f64);
        for (x, want) in [0.5f64, -0.25].into_iter().zip(want) {
            let store = HashMap::from([("w".to_owned(), Tensor::new(&[x as f32], &CPU)?)]);
            g.accumulate(&store, 1.0)?;
            assert!(sgd.step(&mut g)?.updated());
            let d = x + 0.01 * w;
            b = 0.9 * b + d;
            w -= 0.1 * if nesterov { d + 0.9 * b } else { b };
            let got = f64::from(v[0].1.to_vec1::<f32>()?[0]);
            assert!((got - w).abs() < 1e-6 && (got - want).abs() < 2e-3, "nesterov {nesterov}: {got} {w} {want}");
        }
    }
    Ok(())
}

#[test]
fn bf16_weights_drift_less_than_a_unit_where_rounding_to_nearest_would_stand_still() -> Result<()> {
    // Steps of a sixteenth of a unit in the last place: rounding to nearest never moves.
    let w = Var::from_tensor(&Tensor::ones(4096, DType::BF16, &CPU)?)?;
    let v = vec![("w".to_owned(), w.clone())];
    let mut g = ModelGradients::from_vars(&v, options(8))?;
    let mut sgd = FusedOptimizer::sgd(&g, 1.0, 0.0, 0.0, false)?;
    let unit = 0.0078125f32;
    for _ in 0..16 {
        let x = Tensor::full(-unit / 16.0, 4096, &CPU)?;
        g.accumulate(&HashMap::from([("w".to_owned(), x)]), 1.0)?;
        assert!(sgd.step(&mut g)?.updated());
    }
    let mean = w.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
    assert!((mean - 1.0 - unit).abs() < 0.1 * unit, "{mean}");
    assert!(w.to_vec1::<bf16>()?.iter().any(|x| *x != bf16::ONE));
    Ok(())
}

#[test]
fn uneven_weights_are_a_weighted_mean() -> Result<()> {
    let v = vars(DType::F32);
    let mut g = ModelGradients::from_vars(&v, Options { small: 1 << 20, ..Options::default() })?;
    g.accumulate(&gradients(&v, 0), 3.0)?;
    g.accumulate(&gradients(&v, 1), 0.5)?;
    let (mean, x, y) = (g.read_out()?, numbers(1000, 2000), numbers(1001, 2000));
    let got = mean["a.weight"].flatten_all()?.to_vec1::<f32>()?;
    for i in 0..2000 {
        assert!((got[i] - (3.0 * x[i] + 0.5 * y[i]) / 3.5).abs() < 1e-6);
    }
    assert_eq!(g.weights(), 3.5);
    Ok(())
}

#[test]
fn clipping_cuts_the_global_norm() -> Result<()> {
    for small in [0, 16, 1 << 20] {
        let v = vars(DType::F32);
        let with = |clip_norm| Options { clip_norm, small, ..options(8) };
        let mut g = ModelGradients::from_vars(&v, with(Some(0.5)))?;
        g.accumulate(&gradients(&v, 0), 2.0)?;
        let squares = |store: &HashMap<String, Tensor>| -> Result<f64> {
            let sum = |t: &Tensor| t.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>();
            Ok(store.values().map(|t| sum(t).unwrap()).sum())
        };
        let mut plain = ModelGradients::from_vars(&v, with(None))?;
        plain.accumulate(&gradients(&v, 0), 2.0)?;
        let norm = squares(&plain.read_out()?)?.sqrt();
        assert!((g.norm()? - norm).abs() < 1e-4 * norm);
        assert!((squares(&g.read_out()?)?.sqrt() - 0.5).abs() < 1e-5);
        let mut sgd = FusedOptimizer::sgd(&g, 0.1, 0.0, 0.0, false)?;
        match sgd.step(&mut g)? {
            Outcome::Updated { norm: n, clip, kept } => {
                assert!(kept.is_empty());
                assert!((n - norm).abs() < 1e-4 * norm && (clip - 0.5 / n).abs() < 1e-9);
            }
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

#[test]
fn a_window_with_inf_is_skipped_and_the_loss_scale_halved() -> Result<()> {
    for place in [0, 2] {
        let v = vars(DType::F32);
        let before = values(&v);
        let mut g = ModelGradients::from_vars(&v, Options { loss_scale: LossScale::dynamic(1024.0), ..options(4) })?;
        g.assume_scaled();
        let mut adam = FusedOptimizer::adamw(&g, ParamsAdamW::default())?;
        let mut store = gradients(&v, 0);
        let mut bad = vec![1.0f32; v[place].1.elem_count()];
        bad[5] = f32::INFINITY;
        store.insert(&v[place].1, Tensor::from_vec(bad, v[place].1.dims(), &CPU)?);
        g.consume(store, 1.0)?;
        g.accumulate(&gradients(&v, 1), 1.0)?;
        assert!(matches!(g.read_out().unwrap_err().root(), Error::NonFinite { count: 1, first: 5 }));
        assert_eq!(adam.step(&mut g)?, Outcome::Skipped { tensor: v[place].0.clone(), non_finite: 1 });
        assert_eq!((values(&v), g.skipped(), adam.updates()), (before, 1, 0));
        assert_eq!(g.options().loss_scale.value(), 512.0);
        assert_eq!((g.count(), g.window()), (0, 1));
        g.accumulate(&gradients(&v, 1), 1.0)?;
        assert!(adam.step(&mut g)?.updated());
    }
    Ok(())
}

#[test]
fn the_loss_scale_does_not_reach_the_weights() -> Result<()> {
    let mut all = Vec::new();
    for loss_scale in [LossScale::none(), LossScale::fixed(4096.0)] {
        let v = vars(DType::F32);
        let mut g = ModelGradients::from_vars(&v, Options { loss_scale, clip_norm: Some(1.0), ..options(4) })?;
        let mut sgd = FusedOptimizer::sgd(&g, 0.1, 0.9, 0.0, false)?;
        for _ in 0..3 {
            let loss = (v[0].1.as_tensor().sqr()?.sum_all()? + v[1].1.as_tensor().sqr()?.sum_all()?)?;
            let loss = (loss + v[2].1.as_tensor().sqr()?.sum_all()?)?;
            g.consume(g.scale_loss(&loss)?.backward()?, 1.0)?;
            assert!(sgd.step(&mut g)?.updated());
        }
        all.push(values(&v));
    }
    assert_eq!(all[0], all[1], "a power of two loses nothing");
    Ok(())
}

#[test]
fn policies() -> Result<()> {
    for place in [0, 2] {
        let v = vars(DType::F32);
        let with = |non_finite| Options { config: Config { non_finite, ..adaptive(4) }, ..options(4) };
        let mut store = gradients(&v, 0);
        let mut bad = vec![1.0f32; v[place].1.elem_count()];
        bad[3] = f32::NAN;
        store.insert(&v[place].1, Tensor::from_vec(bad, v[place].1.dims(), &CPU)?);
        let mut reject = ModelGradients::from_vars(&v, with(NonFinite::Reject))?;
        reject.accumulate(&gradients(&v, 1), 1.0)?;
        let before = reject.sums().state()?;
        assert!(matches!(reject.accumulate(&store, 1.0).unwrap_err().root(), Error::NonFinite { count: 1, first: 3 }));
        assert_eq!((reject.count(), reject.sums().state()?), (1, before));
        let mut zero = ModelGradients::from_vars(&v, with(NonFinite::Zero))?;
        zero.accumulate(&store, 1.0)?;
        let mean = zero.read_out()?;
        let got = mean[&v[place].0].flatten_all()?.to_vec1::<f32>()?;
        assert!(got[3] == 0.0 && got.iter().all(|x| x.is_finite()));
        assert_eq!(zero.reports()?[place].non_finite, 1);
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_an_error_and_changes_nothing() -> Result<()> {
    let v = vars(DType::F32);
    let mut g = ModelGradients::from_vars(&v, options(4))?;
    assert!(matches!(g.read_out(), Err(Error::NothingAccumulated { .. })));
    let mut store = gradients(&v, 0);
    store.remove(&v[1].1);
    assert!(matches!(g.accumulate(&store, 1.0), Err(Error::NoGradient { tensor, .. }) if tensor == "b.weight"));
    store.insert(&v[1].1, Tensor::zeros((33, 34), DType::F32, &CPU)?);
    assert!(matches!(g.accumulate(&store, 1.0).unwrap_err().root(), Error::Shape { .. }));
    store.insert(&v[1].1, Tensor::zeros((33, 33), DType::U32, &CPU)?);
    assert!(matches!(g.accumulate(&store, 1.0).unwrap_err().root(), Error::ElementType { .. }));
    assert!(g.accumulate(&gradients(&v, 0), f32::NAN).is_err());
    let unknown = HashMap::from([("nobody".to_owned(), Tensor::zeros(1, DType::F32, &CPU)?)]);
    assert!(matches!(g.accumulate(&unknown, 1.0), Err(Error::UnknownTensor { .. })));
    assert_eq!(g.count(), 0);
    let twice = vec![v[0].clone(), v[0].clone()];
    assert!(matches!(ModelGradients::from_vars(&twice, options(4)), Err(Error::DuplicateTensor { .. })));
    let shared = vec![v[0].clone(), ("other".to_owned(), v[0].1.clone())];
    let e = ModelGradients::from_vars(&shared, options(4)).unwrap_err();
    assert!(matches!(&e, Error::SharedMemory { tensors } if *tensors == ("a.weight".into(), "other".into())), "{e}");
    let f16 = vec![("h".to_owned(), Var::zeros(4, DType::F16, &CPU)?)];
    let h = ModelGradients::from_vars(&f16, options(4))?;
    assert!(matches!(
        FusedOptimizer::sgd(&h, 0.1, 0.0, 0.0, false).map(|_| ()).unwrap_err().root(),
        Error::ElementType { .. }
    ));
    for bad in [
        Options { clip_norm: Some(0.0), ..Options::default() },
        Options { loss_scale: LossScale::fixed(f64::NAN), ..Options::default() },
        Options { residual_bits: Some(2), ..Options::default() },
    ] {
        assert!(bad.validate().is_err());
    }
    Ok(())
}

#[test]
fn the_summary_shows_what_is_kept_in_f32() -> Result<()> {
    let specs = [Spec::new("embed", [1000, 64]), Spec::new("layer.weight", [256, 256]), Spec::new("layer.bias", [256])];
    let options = Options { keep_f32: vec!["embed".into()], ..Options::default() };
    let mut g = ModelGradients::new(&specs, options, &CPU)?;
    let s = g.summary();
    assert_eq!(s.rows.iter().map(|r| r.format.as_str()).collect::<Vec<_>>(), ["f32 (named)", "4 bits", "f32 (small)"]);
    assert_eq!(s.rows[1].bytes, 65536 / 2 + 1024 * 2);
    let text = s.to_string();
    assert!(text.contains("layer.weight") && text.contains("256 x 256") && text.contains("13.3%"), "{text}");
    let ones = |s: &Spec| (s.name.clone(), Tensor::ones(&s.shape[..], DType::F32, &CPU).unwrap());
    g.accumulate(&specs.iter().map(ones).collect::<HashMap<_, _>>(), 1.0)?;
    assert_eq!(g.bytes_held(), s.bytes());
    Ok(())
}

#[test]
fn the_wrapper_steps_every_k_micro_batches() -> Result<()> {
    let v = vars(DType::F32);
    let all: Vec<Var> = v.iter().map(|(_, v)| v.clone()).collect();
    let config = AccumulatedConfig { inner: 0.5, micro_batches: 4, options: options(8) };
    let mut sgd = Accumulated::<SGD>::new(all.clone(), config.clone())?;
    let before = values(&v);
    for k in 0..3 {
        sgd.step(&gradients(&v, k))?;
        assert_eq!(values(&v), before);
        assert!(sgd.outcome().is_none());
    }
    sgd.step(&gradients(&v, 3))?;
    assert_ne!(values(&v), before);
    assert!(sgd.outcome().is_some_and(Outcome::updated));
    sgd.set_learning_rate(0.25);
    assert_eq!(sgd.inner().learning_rate(), 0.25);
    sgd.step(&gradients(&v, 4))?;
    assert!(sgd.flush()?.updated());
    assert!(Accumulated::<SGD>::new(all, AccumulatedConfig { micro_batches: 0, ..config }).is_err());
    Ok(())
}

#[test]
fn error_feedback_lowers_the_error_and_stays_unbiased() -> Result<()> {
    let n = 1 << 14;
    let error = |residual_bits, config: Config| -> Result<f64> {
        let options = Options { config, small: 0, residual_bits, ..Options::default() };
        let mut g = ModelGradients::new(&[Spec::new("w", [n])], options, &CPU)?;
        let mut want = vec![0.0f64; n];
        for k in 0..16 {
            let x = numbers(k, n);
            want.iter_mut().zip(&x).for_each(|(w, x)| *w += f64::from(*x) / 16.0);
            g.accumulate(&HashMap::from([("w".to_owned(), Tensor::from_vec(x, n, &CPU)?)]), 1.0)?;
        }
        let got = g.read_out()?["w"].to_vec1::<f32>()?;
        let differences = || got.iter().zip(&want).map(|(g, w)| f64::from(*g) - w);
        let mean = differences().sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.01, "{mean}");
        Ok(differences().map(|d| d * d).sum::<f64>() / n as f64)
    };
    let (without, with4, with8) =
        (error(None, adaptive(4))?, error(Some(4), adaptive(4))?, error(Some(8), adaptive(4))?);
    assert!(with4 < 0.5 * without && with8 < 0.5 * without, "{without} {with4} {with8}");
    let exact = Format::Exact { bits: 8, scales: Scales::FirstLook { headroom: 2.0 } };
    assert!(error(Some(8), Config { format: exact, ..Config::default() }).is_err());
    Ok(())
}
