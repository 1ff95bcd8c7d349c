//! Checkpoints of a training: 100 steps are 50, a file, and 50 more.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::ParamsAdamW;
use std::collections::HashMap;
use std::path::PathBuf;
use trigrad::accumulator::{Config, Format, Scales};
use trigrad::candle::{FusedOptimizer, ModelGradients};
use trigrad::training::{LossScale, Options};
use trigrad::{Error, Result};

const CPU: Device = Device::Cpu;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn gradient(seed: u64, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

struct Run {
    vars: Vec<(String, Var)>,
    sum: ModelGradients,
    optimizer: FusedOptimizer,
}

fn start(options: &Options, adam: bool) -> Result<Run> {
    let make = |(name, n, dtype): (&str, usize, DType)| -> Result<(String, Var)> {
        let w = Tensor::from_vec(gradient(n as u64, n), n, &CPU)?.to_dtype(dtype)?;
        Ok((name.to_owned(), Var::from_tensor(&w)?))
    };
    let shapes = [("w", 700, DType::F32), ("h", 130, DType::BF16), ("b", 9, DType::F32)];
    let vars = shapes.into_iter().map(make).collect::<Result<Vec<_>>>()?;
    let sum = ModelGradients::from_vars(&vars, options.clone())?;
    let optimizer = if adam {
        FusedOptimizer::adamw(&sum, ParamsAdamW::default())?
    } else {
        FusedOptimizer::sgd(&sum, 0.01, 0.9, 0.01, true)?
    };
    Ok(Run { vars, sum, optimizer })
}

impl Run {
    /// Micro-batches `from..to` of a recording, three a step.
    fn go(&mut self, from: u64, to: u64) -> Result<()> {
        for k in from..to {
            let make = |(i, (name, v)): (usize, &(String, Var))| {
                let x = gradient(k * 10 + i as u64, v.elem_count());
                (name.clone(), Tensor::from_vec(x, v.elem_count(), &CPU).unwrap())
            };
            self.sum.accumulate(&self.vars.iter().enumerate().map(make).collect::<HashMap<_, _>>(), 1.0)?;
            if self.sum.count() == 3 {
                assert!(self.optimizer.step(&mut self.sum)?.updated());
            }
        }
        Ok(())
    }

    fn weights(&self) -> Vec<Vec<f32>> {
        self.vars.iter().map(|(_, v)| v.to_dtype(DType::F32).unwrap().to_vec1().unwrap()).collect()
    }

    fn file(&self, name: &str) -> Result<PathBuf> {
        let at = path(name);
        self.sum.save(&at, Some(&self.optimizer))?;
        Ok(at)
    }
}

fn all_options() -> Vec<Options> {
    let of = |format| Config { format, seed: 11, ..Config::default() };
    let base = Options { small: 16, ..Options::default() };
    vec![
        Options { config: of(Format::Adaptive { bits: 4 }), ..base.clone() },
        Options { config: of(Format::Adaptive { bits: 2 }), residual_bits: Some(4), ..base.clone() },
        Options {
            config: of(Format::Exact { bits: 4, scales: Scales::LastWindow { headroom: 1.5 } }),
            loss_scale: LossScale::dynamic(8.0),
            clip_norm: Some(1.0),
            ..base
        },
    ]
}

#[test]
fn a_hundred_steps_are_fifty_a_file_and_fifty_more() -> Result<()> {
    for (i, options) in all_options().iter().enumerate() {
        for adam in [true, false] {
            // Cut in the middle of a window: 151 is no multiple of 3.
            let mut whole = start(options, adam)?;
            whole.go(0, 301)?;
            let mut first = start(options, adam)?;
            first.go(0, 151)?;
            let file = first.file(&format!("half-{i}-{adam}.safetensors"))?;
            let mut second = start(options, adam)?;
            second.sum.load(&file, Some(&mut second.optimizer))?;
            assert_eq!(second.optimizer.updates(), 50);
            second.go(151, 301)?;
            assert_eq!(whole.weights(), second.weights());
            let (a, b) = (whole.file("whole.safetensors")?, second.file("second.safetensors")?);
            let (mut x, mut y) = (start(options, adam)?, start(options, adam)?);
            x.sum.load(&a, Some(&mut x.optimizer))?;
            y.sum.load(&b, Some(&mut y.optimizer))?;
            assert_eq!(x.sum.sums().state()?, y.sum.sums().state()?);
            assert_eq!(std::fs::metadata(&a).unwrap().len(), std::fs::metadata(&b).unwrap().len());
        }
    }
    Ok(())
}

#[test]
fn another_model_or_optimizer_is_refused_and_nothing_changes() -> Result<()> {
    let options = &all_options()[0];
    let mut run = start(options, true)?;
    run.go(0, 4)?;
    let file = run.file("model.safetensors")?;
    let before = |r: &Run| r.sum.sums().state();
    let mut other = start(options, false)?;
    other.go(0, 5)?;
    let was = before(&other)?;
    let mismatch = |e: Error| match e.root() {
        Error::CheckpointMismatch { field, .. } => field.clone(),
        _ => e.to_string(),
    };
    assert_eq!(mismatch(other.sum.load(&file, Some(&mut other.optimizer)).unwrap_err()), "optimizer");
    assert_eq!(mismatch(other.sum.load(&file, None).unwrap_err()), "optimizer");
    assert_eq!((before(&other)?, other.sum.count()), (was, 2));
    let kept = Options { keep_f32: vec!["h".into()], ..options.clone() };
    let mut kept = start(&kept, true)?;
    assert_eq!(mismatch(kept.sum.load(&file, Some(&mut kept.optimizer)).unwrap_err()), "tensor.1.format");
    Ok(())
}

#[test]
fn every_byte_changed_and_every_truncation_is_refused() -> Result<()> {
    let options = &Options { residual_bits: Some(4), small: 20, ..all_options()[0].clone() };
    let mut run = start(options, true)?;
    run.go(0, 4)?;
    let good = std::fs::read(run.file("damaged-training.safetensors")?).unwrap();
    let mut other = start(options, true)?;
    other.go(5, 7)?;
    let before = std::fs::read(other.file("other-training.safetensors")?).unwrap();
    let file = path("damage.safetensors");
    let mut refused = |bytes: &[u8], what: &str| {
        std::fs::write(&file, bytes).unwrap();
        assert!(other.sum.load(&file, Some(&mut other.optimizer)).is_err(), "{what} was taken");
    };
    // The arrays are most of the file, and one byte of them is as good as another: a prime step takes some of each.
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let places = || (0..header).chain((header..good.len()).step_by(7));
    for i in places() {
        let mut bad = good.clone();
        bad[i] ^= 1 << (i % 8);
        refused(&bad, &format!("byte {i}"));
    }
    for n in places() {
        refused(&good[..n], &format!("a file of {n} bytes"));
    }
    assert!(before == std::fs::read(other.file("other-training.safetensors")?).unwrap());
    std::fs::write(&file, &good).unwrap();
    other.sum.load(&file, Some(&mut other.optimizer))?;
    assert!(good == std::fs::read(other.file("other-training.safetensors")?).unwrap());
    Ok(())
}

/// An optimizer of the caller's that panics: the window is as it was, and the next step takes it.
#[test]
fn a_panic_in_the_callers_optimizer_leaves_the_window() -> Result<()> {
    struct Panics(bool, Vec<Var>);
    impl candle_nn::Optimizer for Panics {
        type Config = ();
        fn new(vars: Vec<Var>, (): ()) -> candle_core::Result<Self> {
            Ok(Panics(true, vars))
        }
        fn step(&mut self, gradients: &candle_core::backprop::GradStore) -> candle_core::Result<()> {
            if std::mem::take(&mut self.0) {
                panic!("an optimizer of the caller's");
            }
            for var in &self.1 {
                if let Some(g) = gradients.get(var) {
                    var.set(&(var.as_tensor() - g)?)?;
                }
            }
            Ok(())
        }
        fn learning_rate(&self) -> f64 {
            1.0
        }
        fn set_learning_rate(&mut self, _: f64) {}
    }
    let options = &all_options()[0];
    let (mut run, mut same) = (start(options, true)?, start(options, true)?);
    run.go(0, 2)?;
    same.go(0, 2)?;
    let vars = |r: &Run| r.vars.iter().map(|(_, v)| v.clone()).collect::<Vec<_>>();
    let (weights, mut optimizer) = (run.weights(), Panics(true, vars(&run)));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.sum.step(&mut optimizer)));
    assert!(caught.is_err());
    assert_eq!((run.weights(), run.sum.count()), (weights, 2));
    assert!(run.sum.step(&mut optimizer)?.updated());
    assert!(same.sum.step(&mut Panics(false, vars(&same)))?.updated());
    assert_eq!(run.weights(), same.weights());
    Ok(())
}
