//! Checkpoints of every version of the format, kept as files: each loads, with what it held when it was written, or is
//! refused by a sentence that says what to do. tests/fixtures/README.md says how they were made.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use trigrad::accumulator::{Accumulator, Config, Format, Reduce, Scales, Spec};
use trigrad::checkpoint::{OLDEST, VERSION};
use trigrad::cpu::Cpu;
use trigrad::{Error, Result};

fn fixture(name: &str, version: u32, ending: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v{version}-{name}.{ending}"))
}

fn gradient(k: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 31 + k * 17 + i * k) % 23) as f32 / 4.0 - 2.75).collect()
}

/// What a checkpoint held, as text: numbers in hexadecimal, so that a difference of one bit shows.
#[derive(Default)]
struct Held(String);

impl Held {
    fn number(&mut self, name: &str, x: impl std::fmt::Display) {
        writeln!(self.0, "{name} {x}").unwrap();
    }

    fn values(&mut self, name: &str, x: &[f32]) {
        let bits: Vec<String> = x.iter().map(|v| format!("{:08x}", v.to_bits())).collect();
        writeln!(self.0, "{name} {}", bits.join(" ")).unwrap();
    }
}

/// A kind of checkpoint: how it is written, and how it is loaded and read out again.
struct Kind {
    name: &'static str,
    /// The first version that has it.
    since: u32,
    save: fn(&PathBuf) -> Result<String>,
    load: fn(&PathBuf) -> Result<String>,
}

fn kinds() -> Vec<Kind> {
    vec![
        sums::kind!("adaptive", 1, sums::ADAPTIVE, None),
        sums::kind!("exact", 1, sums::EXACT, None),
        sums::kind!("adaptive-and-f32", 2, sums::ADAPTIVE, Some(Format::F32)),
        sums::kind!("exact-and-wide", 2, sums::EXACT, Some(sums::WIDE)),
        #[cfg(feature = "candle")]
        Kind {
            name: "training-adamw",
            since: 1,
            save: |at| training::save(at, true),
            load: |at| training::load(at, true),
        },
        #[cfg(feature = "candle")]
        Kind {
            name: "training-sgd",
            since: 1,
            save: |at| training::save(at, false),
            load: |at| training::load(at, false),
        },
    ]
}

/// Checkpoints of an accumulator.
mod sums {
    use super::*;

    pub(super) const ADAPTIVE: Format = Format::Adaptive { bits: 4 };
    pub(super) const EXACT: Format = Format::Exact { bits: 8, scales: Scales::LastWindow { headroom: 1.5 } };

    pub(super) const WIDE: Format = Format::Exact { bits: 32, scales: Scales::LastWindow { headroom: 1.5 } };

    macro_rules! kind {
        ($name:literal, $since:literal, $format:expr, $bias:expr) => {
            Kind {
                name: $name,
                since: $since,
                save: |at| sums::save(at, $format, $bias),
                load: |at| sums::load(at, $format, $bias),
            }
        };
    }
    pub(super) use kind;

    fn new(format: Format, bias: Option<Format>) -> Result<Accumulator<Cpu>> {
        let bias = Spec { format: bias, ..Spec::new("bias", [5]) };
        let tensors = [Spec::new("layer \"one\".weight", [6, 11]), bias, Spec::new("empty", [0])];
        Accumulator::new(Cpu::new(), &tensors, Config { format, seed: u64::MAX - 1, ..Config::default() })
    }

    /// Two windows of three micro-batches each, cut in the second.
    pub(super) fn save(at: &PathBuf, format: Format, bias: Option<Format>) -> Result<String> {
        let mut sum = new(format, bias)?;
        for k in 0..5 {
            if k == 3 {
                sum.reset()?;
            }
            let (w, b) = (gradient(k, 66), gradient(k + 9, 5));
            sum.accumulate(&[(0usize, w[..].into()), (1, b[..].into()), (2, [0f32; 0][..].into())], 0.5 + k as f32)?;
        }
        sum.save(at)?;
        held(&sum)
    }

    pub(super) fn load(at: &PathBuf, format: Format, bias: Option<Format>) -> Result<String> {
        let mut sum = new(format, bias)?;
        sum.load(at)?;
        held(&sum)
    }

    fn held(sum: &Accumulator<Cpu>) -> Result<String> {
        let mut held = Held::default();
        held.number("step", sum.step());
        held.number("micro_batch", sum.micro_batch());
        held.number("count", sum.count());
        held.number("weights", sum.weights());
        for report in sum.reports()? {
            held.number("report", format_args!("{report:?}"));
        }
        for tensor in 0..3usize {
            held.values("sum", &sum.to_vec::<f32>(tensor, Reduce::Sum)?);
        }
        Ok(held.0)
    }
}

/// Checkpoints of a training on candle.
#[cfg(feature = "candle")]
mod training {
    use super::*;
    use candle_core::{DType, Device, Tensor, Var};
    use candle_nn::ParamsAdamW;
    use std::collections::HashMap;
    use trigrad::candle::{FusedOptimizer, ModelGradients};
    use trigrad::training::{LossScale, Options};

    struct Run {
        vars: Vec<(String, Var)>,
        sum: ModelGradients,
        optimizer: FusedOptimizer,
    }

    /// AdamW with error feedback, or SGD with a moving loss scale; both with a tensor kept in f32 and one in bf16.
    fn new(adamw: bool) -> Result<Run> {
        let make = |(name, n, dtype): (&str, usize, DType)| -> Result<(String, Var)> {
            let w = Tensor::from_vec(gradient(n, n), n, &Device::Cpu)?.to_dtype(dtype)?;
            Ok((name.to_owned(), Var::from_tensor(&w)?))
        };
        let shapes = [("w", 70, DType::F32), ("h", 40, DType::BF16), ("b", 3, DType::F32)];
        let vars = shapes.into_iter().map(make).collect::<Result<Vec<_>>>()?;
        let config = Config { format: Format::Adaptive { bits: 4 }, seed: 11, ..Config::default() };
        let options = Options { small: 8, config, ..Options::default() };
        let options = if adamw {
            Options { residual_bits: Some(4), ..options }
        } else {
            Options { loss_scale: LossScale::dynamic(8.0), clip_norm: Some(1.0), ..options }
        };
        let sum = ModelGradients::from_vars(&vars, options)?;
        let optimizer = if adamw {
            FusedOptimizer::adamw(&sum, ParamsAdamW::default())?
        } else {
            FusedOptimizer::sgd(&sum, 0.01, 0.9, 0.01, true)?
        };
        Ok(Run { vars, sum, optimizer })
    }

    /// Two steps of two micro-batches each, and one micro-batch of the third.
    pub(super) fn save(at: &PathBuf, adamw: bool) -> Result<String> {
        let mut run = new(adamw)?;
        for k in 0..5 {
            let make = |(i, (name, v)): (usize, &(String, Var))| -> Result<(String, Tensor)> {
                let n = v.elem_count();
                Ok((name.clone(), Tensor::from_vec(gradient(k * 7 + i, n), n, &Device::Cpu)?))
            };
            let gradients = run.vars.iter().enumerate().map(make).collect::<Result<HashMap<_, _>>>()?;
            run.sum.accumulate(&gradients, 1.0)?;
            if k % 2 == 1 {
                let outcome = run.optimizer.step(&mut run.sum)?;
                assert!(outcome.updated());
            }
        }
        run.sum.save(at, Some(&run.optimizer))?;
        held(&mut run)
    }

    pub(super) fn load(at: &PathBuf, adamw: bool) -> Result<String> {
        let mut run = new(adamw)?;
        run.sum.load(at, Some(&mut run.optimizer))?;
        held(&mut run)
    }

    /// What is held of the gradients, and what the next step makes of weights of 0 with it and the moments.
    fn held(run: &mut Run) -> Result<String> {
        let mut held = Held::default();
        held.number("window", run.sum.window());
        held.number("count", run.sum.count());
        held.number("weights", run.sum.weights());
        held.number("skipped", run.sum.skipped());
        held.number("updates", run.optimizer.updates());
        held.number("learning_rate", run.optimizer.learning_rate());
        held.number("loss_scale", run.sum.options().loss_scale.value());
        let read = run.sum.read_out()?;
        for (name, var) in &run.vars {
            held.values(name, &read[name].to_dtype(DType::F32)?.to_vec1::<f32>()?);
            var.set(&var.zeros_like()?)?;
        }
        let outcome = run.optimizer.step(&mut run.sum)?;
        assert!(outcome.updated());
        for (name, var) in &run.vars {
            held.values(&format!("{name} after a step"), &var.to_dtype(DType::F32)?.to_vec1::<f32>()?);
        }
        Ok(held.0)
    }
}

#[test]
fn files_of_every_version_load_or_say_what_to_do() {
    for version in 1..=VERSION {
        for Kind { name, load, .. } in kinds().into_iter().filter(|kind| kind.since <= version) {
            let file = fixture(name, version, "safetensors");
            assert!(file.exists(), "{} is missing: see tests/fixtures/README.md", file.display());
            let before = fs::read(&file).unwrap();
            let loaded = load(&file).map_err(|e| match e {
                Error::InFile { source, .. } => *source,
                e => e,
            });
            match loaded {
                Ok(held) => {
                    let expected = fs::read_to_string(fixture(name, version, "txt")).unwrap();
                    assert_eq!(held, expected, "version {version}, {name}");
                    assert!(version >= OLDEST, "version {version} is read and {OLDEST} is said to be the earliest");
                }
                Err(Error::CheckpointVersion { got, oldest, known, .. }) => {
                    assert_eq!((got, oldest, known), (version.to_string(), OLDEST, VERSION));
                    assert!(version < OLDEST, "version {version} is refused and {OLDEST} is said to be the earliest");
                }
                Err(e) => panic!("version {version}, {name}: {e}"),
            }
            assert!(before == fs::read(&file).unwrap());
        }
    }
}

#[test]
#[ignore = "writes the files of the present version: once for each version, before anything of it can change"]
fn write_the_files_of_this_version() {
    for Kind { name, save, .. } in kinds() {
        let held = save(&fixture(name, VERSION, "safetensors")).unwrap();
        fs::write(fixture(name, VERSION, "txt"), held).unwrap();
    }
}
