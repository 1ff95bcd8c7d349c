//! What a training on candle does with what is usual in a run and wrong in a test: masked micro-batches, overflow, tied
//! and missing variables, rates that are none, readers beside a step. Each of these was silent, lost or a hang once.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Init, Optimizer, ParamsAdamW, SGD, VarMap};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use trigrad::accumulator::{Config, Format, NonFinite};
use trigrad::candle::{Accumulated, AccumulatedConfig, FusedOptimizer, ModelGradients};
use trigrad::training::{LossScale, Missing, Options, Outcome};
use trigrad::{Error, Result, TernaryConfig, TernaryGradientAccumulator};

const CPU: Device = Device::Cpu;

fn var(name: &str, x: &[f32]) -> (String, Var) {
    (name.to_owned(), Var::from_tensor(&Tensor::new(x, &CPU).unwrap()).unwrap())
}

fn values(var: &Var) -> Vec<f32> {
    var.flatten_all().unwrap().to_vec1().unwrap()
}

fn gradient(name: &str, x: &[f32]) -> HashMap<String, Tensor> {
    HashMap::from([(name.to_owned(), Tensor::new(x, &CPU).unwrap())])
}

fn policy(non_finite: NonFinite) -> Options {
    Options { config: Config { non_finite, ..Config::default() }, ..Options::default() }
}

/// Numbers in -1..1 from a counter.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn a_masked_micro_batch_adds_nothing_in_any_format() -> Result<()> {
    for non_finite in [NonFinite::Defer, NonFinite::Reject, NonFinite::Zero] {
        for (small, residual_bits) in [(1024, None), (0, None), (0, Some(4))] {
            let w = var("bias", &[0.0; 4]);
            let options = Options { small, residual_bits, ..policy(non_finite) };
            let mut g = ModelGradients::from_vars(std::slice::from_ref(&w), options)?;
            let mut sgd = FusedOptimizer::sgd(&g, 1.0, 0.0, 0.0, false)?;
            g.accumulate(&gradient("bias", &[7.0; 4]), 1.0)?;
            g.accumulate(&gradient("bias", &[f32::NAN, f32::INFINITY, 1e38, 1.0]), 0.0)?;
            assert_eq!(g.reports()?[0].non_finite, 0);
            assert!(sgd.step(&mut g)?.updated());
            assert_eq!(values(&w.1), [-7.0; 4], "{non_finite:?}, small {small}, residual {residual_bits:?}");
        }
    }
    Ok(())
}

#[test]
fn a_sum_that_leaves_the_range_is_a_skip_and_no_inf() -> Result<()> {
    for clip_norm in [None, Some(1.0)] {
        let w = var("bias", &[1.0; 4]);
        let mut g = ModelGradients::from_vars(std::slice::from_ref(&w), Options { clip_norm, ..Options::default() })?;
        let mut sgd = FusedOptimizer::sgd(&g, 1.0, 0.0, 0.0, false)?;
        for _ in 0..5 {
            g.accumulate(&gradient("bias", &[8e37, 1.0, 1.0, 1.0]), 1.0)?;
        }
        assert!(matches!(g.read_out().unwrap_err().root(), Error::NonFinite { first: 0, .. }));
        assert!(matches!(sgd.step(&mut g)?, Outcome::Skipped { tensor, .. } if tensor == "bias"));
        assert_eq!(values(&w.1), [1.0; 4]);
    }
    Ok(())
}

#[test]
fn a_moment_that_would_be_infinite_is_kept_and_told() -> Result<()> {
    let w = var("bias", &[1.0; 4]);
    let mut g = ModelGradients::from_vars(std::slice::from_ref(&w), Options::default())?;
    let mut adam = FusedOptimizer::adamw(&g, ParamsAdamW::default())?;
    for _ in 0..2 {
        g.accumulate(&gradient("bias", &[1e30, 1.0, 1e30, 1.0]), 1.0)?; // its square is no f32
        match adam.step(&mut g)? {
            Outcome::Updated { kept, norm, .. } => {
                assert_eq!(kept, [("bias".to_owned(), 2)]);
                assert!((norm / 2f64.sqrt() / 1e30 - 1.0).abs() < 1e-6);
            }
            other => panic!("{other:?}"),
        }
    }
    let w = values(&w.1);
    assert!(w[0] == 1.0 && w[2] == 1.0 && w[1] < 1.0 && w[3] < 1.0, "{w:?}");
    assert_eq!(g.counts().kept, 4);
    assert!(g.summary().to_string().contains("4 elements kept"), "{}", g.summary());
    Ok(())
}

#[test]
fn skips_are_counted_and_the_hook_sees_every_step() -> Result<()> {
    let w = var("w", &[0.0; 4]);
    let mut g = ModelGradients::from_vars(&[w], Options::default())?;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    g.on_step(move |m| log.lock().unwrap().push((m.window, m.micro_batches, m.outcome.clone(), m.counts.skipped)));
    let mut adam = FusedOptimizer::adamw(&g, ParamsAdamW::default())?;
    for x in [1.0, f32::NAN, 1.0, f32::NAN] {
        g.accumulate(&gradient("w", &[x; 4]), 1.0)?;
        let _counted = adam.step(&mut g)?;
    }
    assert_eq!((g.counts().updated, g.counts().skipped, g.skipped()), (2, 2, 2));
    assert!(g.summary().to_string().contains("windows: 2 updated, 2 skipped"), "{}", g.summary());
    let seen = seen.lock().unwrap();
    assert_eq!(
        seen.iter().map(|(w, n, o, s)| (*w, *n, o.updated(), *s)).collect::<Vec<_>>(),
        [(0, 1, true, 0), (1, 1, false, 1), (2, 1, true, 1), (3, 1, false, 2)]
    );
    Ok(())
}

#[test]
fn the_loss_scale_is_the_wrappers_business_and_a_forgotten_one_is_told() -> Result<()> {
    let options = Options { loss_scale: LossScale::fixed(1024.0), ..Options::default() };
    let w = var("w", &[0.0]);
    let config = AccumulatedConfig { inner: 1.0, micro_batches: 1, options: options.clone() };
    let mut sgd = Accumulated::<SGD>::new(vec![w.1.clone()], config)?;
    sgd.backward_step(&w.1.as_tensor().sum_all()?)?;
    assert_eq!(values(&w.1), [-1.0]);
    let e = sgd.step(&w.1.as_tensor().sum_all()?.backward()?).unwrap_err();
    assert!(e.to_string().contains("scale_loss"), "{e}");
    sgd.step(&sgd.scale_loss(&w.1.as_tensor().sum_all()?)?.backward()?)?;
    assert_eq!(values(&w.1), [-2.0]);

    let w = var("w", &[0.0]);
    let mut g = ModelGradients::from_vars(std::slice::from_ref(&w), options)?;
    let mut fused = FusedOptimizer::sgd(&g, 1.0, 0.0, 0.0, false)?;
    let loss = w.1.as_tensor().sum_all()?;
    let e = g.accumulate(&loss.backward()?, 1.0).unwrap_err();
    assert!(matches!(e, Error::Unscaled { scale: 1024.0 }), "{e}");
    g.consume(g.scale_loss(&loss)?.backward()?, 1.0)?;
    assert!(g.consume(loss.backward()?, 1.0).is_err(), "scaled once, taken once");
    assert!(fused.step(&mut g)?.updated());
    g.assume_scaled();
    g.consume((&loss * 1024.0)?.backward()?, 1.0)?;
    assert!(fused.step(&mut g)?.updated());
    assert_eq!(values(&w.1), [-2.0]);
    Ok(())
}

#[test]
fn an_eps_that_is_0_in_f32_is_refused() -> Result<()> {
    let w = var("w", &[0.0; 4]);
    let g = ModelGradients::from_vars(&[w], Options::default())?;
    for eps in [0.0, 1e-50, 1e-40, f64::NAN] {
        let e = FusedOptimizer::adamw(&g, ParamsAdamW { eps, ..ParamsAdamW::default() }).unwrap_err();
        assert!(matches!(e, Error::Parameter { name: "eps", .. }), "{e}");
    }
    Ok(())
}

#[test]
fn tied_weights_are_refused_with_both_names() -> Result<()> {
    let (name, w) = var("embed", &[3.0; 32]);
    let tied = [(name, w.clone()), var("other", &[1.0; 4]), ("head".to_owned(), w.clone())];
    let names = |e: Error| match e {
        Error::SharedMemory { tensors } => tensors,
        e => panic!("{e}"),
    };
    let both = ("embed".to_owned(), "head".to_owned());
    assert_eq!(names(ModelGradients::from_vars(&tied, Options::default()).unwrap_err()), both);
    let config = Config::default();
    assert_eq!(names(trigrad::candle::GradientAccumulator::from_vars(&tied, config).unwrap_err()), both);
    // Counted once, where the second name is left out.
    let options = Options { leave_out: vec!["head".into()], ..Options::default() };
    let mut g = ModelGradients::from_vars(&tied, options)?;
    g.accumulate(&w.as_tensor().sum_all()?.affine(1.0, 0.0)?.backward()?, 1.0).unwrap_err(); // `other` has none
    let mut store = GradStore::default();
    store.insert(&w, Tensor::full(4f32, 32, &CPU)?);
    store.insert(&tied[1].1, Tensor::zeros(4, DType::F32, &CPU)?);
    g.accumulate(&store, 1.0)?;
    assert!((g.norm()? - 4.0 * 32f64.sqrt()).abs() < 1e-6);
    Ok(())
}

#[test]
fn variables_without_names_have_one_order() -> Result<()> {
    let run = |reverse: bool| -> Result<Vec<Vec<f32>>> {
        let vars: Vec<Var> = (0..5).map(|i| var("", &numbers(i, 96)).1).collect();
        let mut given = vars.clone();
        if reverse {
            given.reverse();
        }
        let options = Options { small: 0, ..Options::default() };
        let config = AccumulatedConfig { inner: 0.5, micro_batches: 2, options };
        let mut sgd = Accumulated::<SGD>::new(given, config)?;
        for k in 0..4 {
            let mut store = GradStore::default();
            for (i, v) in vars.iter().enumerate() {
                store.insert(v, Tensor::new(numbers(100 * k + i as u64, 96), &CPU)?);
            }
            sgd.step(&store)?;
        }
        Ok(vars.iter().map(values).collect())
    };
    assert_eq!(run(false)?, run(true)?);
    Ok(())
}

#[test]
fn a_map_gives_names_and_a_wrapper_gives_access() -> Result<()> {
    let map = VarMap::new();
    for name in ["layer.weight", "layer.bias", "a"] {
        map.get(8, name, Init::Const(1.0), DType::F32, &CPU)?;
    }
    let config = AccumulatedConfig { inner: 0.5, micro_batches: 4, options: Options::default() };
    let mut sgd = Accumulated::<SGD>::from_varmap(&map, config)?;
    let names: Vec<&str> = sgd.gradients().specs().iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["a", "layer.bias", "layer.weight"]);
    assert_eq!(sgd.flush()?, Outcome::Nothing, "an empty window is no error");
    let loss = || -> Result<Tensor> {
        let data = map.data().lock().unwrap();
        let sum =
            data.values().try_fold(Tensor::zeros((), DType::F32, &CPU)?, |s, v| s + v.as_tensor().sum_all()?)?;
        Ok(sum)
    };
    sgd.backward_weighted(&loss()?, 3.0)?;
    sgd.backward_weighted(&loss()?, 1.0)?;
    assert_eq!(sgd.gradients().weights(), 4.0);
    assert!(sgd.flush()?.updated() && sgd.outcome().is_some_and(Outcome::updated));
    sgd.gradients_mut().training_mut().set_clip_norm(Some(1.0))?;
    assert_eq!(sgd.inner_mut().learning_rate(), 0.5);
    assert!(format!("{sgd:?} {:?}", sgd.gradients()).contains("layer.bias"));
    assert_eq!(values(&map.data().lock().unwrap()["a"]), [0.5; 8]);
    Ok(())
}

#[test]
fn accumulators_without_a_seed_do_not_round_in_step() -> Result<()> {
    let gradient = gradient("w", &[0.3; 64]);
    let mut mean = 0.0;
    let (runs, mut all) = (400, Vec::new());
    for _ in 0..runs {
        let shapes = [("w".to_owned(), vec![64])];
        let mut sum = TernaryGradientAccumulator::new(&shapes, TernaryConfig::default(), &CPU)?;
        let mut with_max = gradient.clone();
        let mut x = vec![0.3f32; 64];
        x[0] = 1.0;
        with_max.insert("w".to_owned(), Tensor::new(x, &CPU)?);
        sum.accumulate(&with_max)?;
        let got = sum.get_accumulated()?["w"].to_vec1::<f32>()?;
        mean += f64::from(got[1..].iter().sum::<f32>()) / 63.0 / f64::from(runs);
        all.push(got.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
    }
    all.sort();
    all.dedup();
    assert!(all.len() > runs as usize / 2, "{} different roundings", all.len());
    // One draw of 63 elements has a standard deviation of 0.058; the mean of 400 of 0.003.
    assert!((mean - 0.3).abs() < 0.015, "{mean}");
    Ok(())
}

/// Readers of the weights in the same pool as the step: a thread that waits for work must not take up a reader of a
/// tensor whose lock it holds.
#[test]
fn steps_in_a_pool_beside_readers_of_the_weights_come_to_an_end() -> Result<()> {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let vars: Vec<(String, Var)> = (0..3).map(|i| var(&format!("w{i}"), &numbers(i, 60_000))).collect();
        let mut g = ModelGradients::from_vars(&vars, Options { clip_norm: Some(1.0), ..Options::default() }).unwrap();
        let mut adam = FusedOptimizer::adamw(&g, ParamsAdamW::default()).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        pool.scope(|scope| {
            fn read<'s>(
                scope: &rayon::Scope<'s>,
                vars: &'s [(String, Var)],
                stop: &'s AtomicBool,
                reads: &'s AtomicU64,
            ) {
                let sum: Vec<Tensor> = vars.iter().map(|(_, v)| v.as_tensor().sum_all().unwrap()).collect();
                assert_eq!(sum.len(), 3);
                reads.fetch_add(1, Ordering::Relaxed);
                if !stop.load(Ordering::Relaxed) {
                    scope.spawn(move |scope| read(scope, vars, stop, reads));
                }
            }
            for _ in 0..4 {
                scope.spawn(|scope| read(scope, &vars, &stop, &reads));
            }
            scope.spawn(|_| {
                for step in 0..200 {
                    let make = |(name, v): &(String, Var)| (name.clone(), (v.as_tensor() * 0.5).unwrap());
                    g.accumulate(&vars.iter().map(make).collect::<HashMap<_, _>>(), 1.0).unwrap();
                    assert!(adam.step(&mut g).unwrap().updated(), "step {step}");
                }
                stop.store(true, Ordering::Relaxed);
            });
        });
        done.send((adam.updates(), reads.load(Ordering::Relaxed))).unwrap();
    });
    let (updates, reads) = wait.recv_timeout(Duration::from_secs(240)).expect("200 steps, not a deadlock");
    assert_eq!(updates, 200);
    assert!(reads > 0);
    Ok(())
}

#[test]
fn a_rate_that_is_none_leaves_the_window() -> Result<()> {
    let w = var("w", &[0.0; 4]);
    let mut g = ModelGradients::from_vars(std::slice::from_ref(&w), Options::default())?;
    let mut sgd = FusedOptimizer::sgd(&g, 1.0, 0.0, 0.0, false)?;
    for _ in 0..8 {
        g.accumulate(&gradient("w", &[1.0; 4]), 1.0)?;
    }
    for bad in [f64::NAN, f64::INFINITY, -1.0, 1e39] {
        assert!(matches!(sgd.set_learning_rate(bad), Err(Error::Parameter { name: "learning rate", .. })));
        assert_eq!((sgd.learning_rate(), g.count()), (1.0, 8));
    }
    sgd.set_learning_rate(0.5)?;
    assert!(sgd.step(&mut g)?.updated());
    assert_eq!(values(&w.1), [-0.5; 4]);

    let config = AccumulatedConfig { inner: 1.0, micro_batches: 2, options: Options::default() };
    let mut wrapped = Accumulated::<SGD>::from_vars(std::slice::from_ref(&w), config)?;
    let loss = || w.1.as_tensor().sum_all();
    wrapped.backward_step(&loss()?)?;
    wrapped.set_learning_rate(f64::NAN);
    assert!(wrapped.backward_step(&loss()?).is_err() && wrapped.flush().is_err());
    assert_eq!(wrapped.gradients().count(), 1);
    wrapped.set_learning_rate(0.25);
    wrapped.backward_step(&loss()?)?;
    assert_eq!(values(&w.1), [-0.75; 4]);
    Ok(())
}

#[test]
fn an_optimizer_steps_the_model_it_was_made_for() -> Result<()> {
    let of = |names: &[(&str, usize)]| -> Result<ModelGradients> {
        let vars: Vec<_> = names.iter().map(|(name, n)| var(name, &vec![0.0; *n])).collect();
        ModelGradients::from_vars(&vars, Options::default())
    };
    let mut sgd = FusedOptimizer::sgd(&of(&[("a", 4), ("b", 4)])?, 1.0, 0.0, 0.0, false)?;
    for other in [&[("a", 4)][..], &[("b", 4), ("a", 4)], &[("a", 4), ("b", 5)]] {
        let mut g = of(other)?;
        let all = other.iter().map(|(name, n)| ((*name).to_owned(), Tensor::ones(*n, DType::F32, &CPU).unwrap()));
        g.accumulate(&all.collect::<HashMap<_, _>>(), 1.0)?;
        let e = sgd.step(&mut g).unwrap_err();
        assert!(!matches!(e, Error::UpdatedInPart { .. }), "{e}");
        assert_eq!(g.count(), 1, "the window goes on");
        g.read_out()?;
    }
    Ok(())
}

#[test]
fn a_variable_that_no_gradient_reached_is_a_choice() -> Result<()> {
    let vars = || vec![var("bn.running_mean", &[5.0; 4]), var("w", &[1.0; 4])];
    let with = |missing| Options { missing, ..Options::default() };
    let v = vars();
    let mut g = ModelGradients::from_vars(&v, with(Missing::Error))?;
    let e = g.accumulate(&v[1].1.as_tensor().sum_all()?.backward()?, 1.0).unwrap_err().to_string();
    for word in ["bn.running_mean", "no gradient reached", "Missing::Zero", "Missing::Leave", "leave_out"] {
        assert!(e.contains(word), "{word}: {e}");
    }
    assert_eq!(g.count(), 0);
    // Weight decay tells zero from left alone.
    for (missing, statistic) in [(Missing::Zero, 4.5f32), (Missing::Leave, 5.0)] {
        for candles in [false, true] {
            let v = vars();
            let mut g = ModelGradients::from_vars(&v, with(missing))?;
            g.accumulate(&v[1].1.as_tensor().sum_all()?.backward()?, 1.0)?;
            if candles {
                let params = ParamsAdamW { lr: 0.1, weight_decay: 1.0, ..ParamsAdamW::default() };
                let mut adam = AdamW::new(v.iter().map(|(_, v)| v.clone()).collect(), params)?;
                assert!(g.step(&mut adam)?.updated());
            } else {
                let mut sgd = FusedOptimizer::sgd(&g, 0.1, 0.0, 1.0, false)?;
                assert!(sgd.step(&mut g)?.updated());
            }
            assert_eq!(values(&v[0].1), [statistic; 4], "{missing:?}, candle's {candles}");
            assert_ne!(values(&v[1].1), [1.0; 4]);
        }
    }
    // An expert that one micro-batch of two reached has half its gradient.
    let v = vars();
    let mut g = ModelGradients::from_vars(&v, with(Missing::Leave))?;
    let mut sgd = FusedOptimizer::sgd(&g, 1.0, 0.0, 0.0, false)?;
    g.accumulate(&(v[1].1.as_tensor().sum_all()? + v[0].1.as_tensor().sum_all()?)?.backward()?, 1.0)?;
    g.accumulate(&v[1].1.as_tensor().sum_all()?.backward()?, 1.0)?;
    assert!(sgd.step(&mut g)?.updated());
    assert_eq!((values(&v[0].1), values(&v[1].1)), (vec![4.5; 4], vec![0.0; 4]));
    Ok(())
}

#[test]
fn integers_and_doubles_are_left_out_by_name() -> Result<()> {
    for dtype in [DType::U32, DType::I64, DType::F64] {
        let odd = ("positions".to_owned(), Var::zeros(4, dtype, &CPU)?);
        let v = vec![odd, var("w", &[1.0; 4])];
        let e = ModelGradients::from_vars(&v, Options::default()).unwrap_err();
        assert!(matches!(e.root(), Error::ElementType { .. }));
        assert!(e.to_string().contains("positions") && e.to_string().contains("to_dtype"), "{e}");
        let options = Options { leave_out: vec!["position".into()], ..Options::default() };
        let mut g = ModelGradients::from_vars(&v, options)?;
        assert_eq!(g.options().leave_out, ["position"]);
        g.accumulate(&v[1].1.as_tensor().sum_all()?.backward()?, 1.0)?;
        let mut sgd = FusedOptimizer::sgd(&g, 1.0, 0.0, 0.0, false)?;
        assert!(sgd.step(&mut g)?.updated());
        assert_eq!(values(&v[1].1), [0.0; 4]);
    }
    Ok(())
}

#[test]
fn names_that_match_nothing_are_told() {
    let v = [var("layer.norm", &[0.0; 4])];
    let keep = Options { keep_f32: vec!["norm".into(), "nrom".into()], ..Options::default() };
    let e = ModelGradients::from_vars(&v, keep).unwrap_err();
    assert!(matches!(&e, Error::NothingMatches { option: "keep_f32", rule, tensors: 1 } if rule == "nrom"), "{e}");
    let out = Options { leave_out: vec!["buffer".into()], ..Options::default() };
    let e = ModelGradients::from_vars(&v, out).unwrap_err();
    assert!(matches!(&e, Error::NothingMatches { option: "leave_out", .. }), "{e}");
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("training-candle-{name}"))
}

#[test]
fn one_file_has_the_weights_and_a_changed_byte_is_found() -> Result<()> {
    let v = [var("w", &numbers(1, 200)), var("b", &[1.0; 4])];
    let mut g = ModelGradients::from_vars(&v, Options { small: 16, ..Options::default() })?;
    let mut adam = FusedOptimizer::adamw(&g, ParamsAdamW::default())?;
    let micro_batch = |k| {
        let of = |(name, v): &(String, Var)| (name.clone(), Tensor::new(numbers(k, v.elem_count()), &CPU).unwrap());
        v.iter().map(of).collect::<HashMap<_, _>>()
    };
    for k in 0..5 {
        g.accumulate(&micro_batch(k), 1.0)?;
        if k % 2 == 1 {
            assert!(adam.step(&mut g)?.updated());
        }
    }
    let at = file("whole");
    g.save(&at, Some(&adam))?;
    let saved: Vec<Vec<f32>> = v.iter().map(|(_, v)| values(v)).collect();
    g.accumulate(&micro_batch(5), 1.0)?;
    assert!(adam.step(&mut g)?.updated());
    let after: Vec<Vec<f32>> = v.iter().map(|(_, v)| values(v)).collect();
    assert_ne!(saved, after);
    g.load(&at, Some(&mut adam))?;
    assert_eq!(v.iter().map(|(_, v)| values(v)).collect::<Vec<_>>(), saved);
    g.accumulate(&micro_batch(5), 1.0)?;
    assert!(adam.step(&mut g)?.updated());
    assert_eq!(v.iter().map(|(_, v)| values(v)).collect::<Vec<_>>(), after);
    let mut bytes = std::fs::read(&at).unwrap();
    let needle: Vec<u8> = saved[0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let weights = bytes.windows(needle.len()).position(|w| w == needle).expect("the weights are in the file");
    bytes[weights + 5] ^= 1;
    std::fs::write(&at, &bytes).unwrap();
    let e = g.load(&at, Some(&mut adam)).unwrap_err();
    assert!(matches!(e.root(), Error::CheckpointCorrupted { .. }), "{e}");
    assert_eq!(v.iter().map(|(_, v)| values(v)).collect::<Vec<_>>(), after, "nothing changed");
    Ok(())
}

#[test]
fn the_file_has_the_state_and_the_caller_the_choices() -> Result<()> {
    let config =
        |seed, non_finite| Config { format: Format::Adaptive { bits: 4 }, seed, non_finite, ..Config::default() };
    let v = [var("w", &numbers(1, 200))];
    let options = Options {
        config: config(5, NonFinite::Defer),
        small: 0,
        loss_scale: LossScale::dynamic(8.0).growth_interval(1),
        ..Options::default()
    };
    let mut g = ModelGradients::from_vars(&v, options)?;
    let mut adam = FusedOptimizer::adamw(&g, ParamsAdamW { lr: 0.001, ..ParamsAdamW::default() })?;
    let x = Tensor::new(numbers(3, 200), &CPU)?;
    for _ in 0..2 {
        g.accumulate(&HashMap::from([("w".to_owned(), x.clone())]), 1.0)?;
        assert!(adam.step(&mut g)?.updated());
    }
    assert_eq!(g.options().loss_scale.value(), 32.0);
    let at = file("choices");
    g.save(&at, Some(&adam))?;

    let other = [var("w", &[0.0; 200])];
    let options = Options {
        config: config(6, NonFinite::Zero),
        small: 0,
        clip_norm: Some(2.0),
        loss_scale: LossScale::dynamic(1.0).growth_interval(7),
        ..Options::default()
    };
    let mut h = ModelGradients::from_vars(&other, options.clone())?;
    let params = ParamsAdamW { lr: 7.0, beta1: 0.5, eps: 1e-3, weight_decay: 0.3, ..ParamsAdamW::default() };
    let mut asked = FusedOptimizer::adamw(&h, params)?;
    let rule = *asked.rule();
    h.load(&at, Some(&mut asked))?;
    // The state is the file's.
    assert_eq!((values(&other[0].1), asked.updates(), h.window()), (values(&v[0].1), 2, 2));
    assert_eq!((h.options().config.seed, h.options().loss_scale.value(), h.counts()), (5, 32.0, g.counts()));
    assert_eq!(h.sums().state()?, g.sums().state()?);
    // The choices are the caller's.
    assert_eq!((*asked.rule(), h.options().clip_norm), (rule, Some(2.0)));
    assert_eq!(h.options().config.non_finite, NonFinite::Zero);
    let e = h.load(&at, None).unwrap_err().to_string();
    assert!(e.contains("training-candle-choices") && e.contains("optimizer"), "the file and the field: {e}");
    let mut fixed = ModelGradients::from_vars(&other, Options { loss_scale: LossScale::none(), ..options })?;
    let e = fixed.load(&at, Some(&mut asked)).unwrap_err();
    assert!(matches!(e.root(), Error::CheckpointMismatch { field, .. } if field == "loss_scale.dynamic"), "{e}");
    Ok(())
}
