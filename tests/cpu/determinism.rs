//! The same training gives the same bits: run twice, on one thread and on two, on plain and on vector code, on the raw
//! API and through candle, and in processes of its own.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use crate::training::{FORMATS, sound, train};
use trigrad::cpu::Cpu;

fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn a_training_on_the_raw_api() {
    for (i, format) in FORMATS.into_iter().enumerate() {
        let adam = i % 2 == 0;
        let once = on_threads(1, || train(&Cpu::new(), format, adam)).unwrap();
        assert!(sound(&once));
        assert_eq!(once, on_threads(1, || train(&Cpu::new(), format, adam)).unwrap(), "{format:?} twice");
        assert_eq!(once, on_threads(2, || train(&Cpu::new(), format, adam)).unwrap(), "{format:?} on two threads");
        for cpu in Cpu::kinds() {
            assert_eq!(once, on_threads(2, || train(&cpu, format, adam)).unwrap(), "{format:?}, other code");
        }
    }
}

#[cfg(feature = "candle")]
mod candle {
    use candle_core::{DType, Device, Tensor};
    use candle_nn::{Module, ParamsAdamW, VarBuilder, VarMap};
    use std::process::Command;
    use trigrad::Result;
    use trigrad::accumulator::{Config, Format};
    use trigrad::candle::{FusedOptimizer, ModelGradients};
    use trigrad::training::{LossScale, Options};

    /// A model trained on a fixed task, forward and backward by candle: the bits of all weights after each step, and
    /// the bytes of the checkpoint at the end.
    fn train() -> Result<(Vec<u32>, Vec<u8>)> {
        let vars = VarMap::new();
        let builder = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        let (hidden, out) = (candle_nn::linear(24, 64, builder.pp("a"))?, candle_nn::linear(64, 3, builder.pp("b"))?);
        // candle initializes at random: weights of our own.
        let mut named: Vec<_> = vars.data().lock().unwrap().clone().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        for (_, var) in &named {
            let w = (0..var.elem_count()).map(|i| ((i * 37 % 101) as f32 - 50.0) / 200.0).collect();
            var.set(&Tensor::from_vec(w, var.dims(), &Device::Cpu)?)?;
        }
        let options = Options {
            config: Config { format: Format::Adaptive { bits: 4 }, seed: 5, ..Config::default() },
            small: 100,
            clip_norm: Some(1.0),
            loss_scale: LossScale::dynamic(1024.0),
            residual_bits: Some(4),
            ..Options::default()
        };
        let mut gradients = ModelGradients::from_varmap(&vars, options)?;
        let mut adam = FusedOptimizer::adamw(&gradients, ParamsAdamW { lr: 0.01, ..ParamsAdamW::default() })?;
        let mut bits = Vec::new();
        for micro_batch in 0..24usize {
            let x = (0..32 * 24).map(|i| ((i * 13 + micro_batch * 7) % 31) as f32 / 31.0 - 0.5).collect();
            let x = Tensor::from_vec(x, (32, 24), &Device::Cpu)?;
            let y = Tensor::from_vec((0..32).map(|i| (i + micro_batch) as u32 % 3).collect(), 32, &Device::Cpu)?;
            let loss = candle_nn::loss::cross_entropy(&out.forward(&hidden.forward(&x)?.relu()?)?, &y)?;
            gradients.consume(gradients.scale_loss(&loss)?.backward()?, 1.0)?;
            if gradients.count() == 4 {
                assert!(adam.step(&mut gradients)?.updated());
                for (_, var) in &named {
                    bits.extend(var.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits));
                }
            }
        }
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("determinism-{}.safetensors", std::process::id()));
        gradients.save(&path, Some(&adam))?;
        let file = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        Ok((bits, file))
    }

    /// Not a test of its own: trains and writes the bits to the file that it is told.
    #[test]
    fn child() {
        let Some(path) = std::env::var_os("TRIGRAD_DETERMINISM_TO") else { return };
        let (bits, file) = train().unwrap();
        std::fs::write(path, [&bits.iter().flat_map(|b| b.to_le_bytes()).collect::<Vec<u8>>()[..], &file].concat())
            .unwrap();
    }

    #[test]
    fn a_training_through_candle_in_processes_of_its_own() {
        let run = |name: &str, threads: &str| {
            let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("determinism-{name}"));
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["determinism::candle::child", "--exact"])
                .env("TRIGRAD_DETERMINISM_TO", &path)
                .env("RAYON_NUM_THREADS", threads)
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap();
            assert!(status.success());
            let bytes = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            bytes
        };
        let once = run("once", "1");
        assert!(once.len() > 6 * 4 * (24 * 64 + 64 + 64 * 3 + 3));
        assert!(once == run("twice", "1"), "the same run twice");
        assert!(once == run("threads", "2"), "on two threads");
    }
}
