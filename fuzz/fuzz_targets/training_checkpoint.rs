//! Any file as the checkpoint of a training, and sound ones damaged behind a right checksum: it is taken or refused, a
//! refusal changes nothing, and the training goes on.
#![no_main]

use candle_core::{Device, Tensor, Var};
use candle_nn::ParamsAdamW;
use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;
use std::fs;
use std::sync::OnceLock;
use trigrad::accumulator::{Config, Format};
use trigrad::candle::{FusedOptimizer, ModelGradients};
use trigrad::training::{LossScale, Options};
use trigrad_fuzz::{Bytes, damaged, file};

struct Run {
    vars: Vec<(String, Var)>,
    sum: ModelGradients,
    optimizer: FusedOptimizer,
}

impl Run {
    fn new(kind: usize) -> trigrad::Result<Run> {
        let make = |(name, n): (&str, usize)| -> trigrad::Result<(String, Var)> {
            Ok((name.to_owned(), Var::from_tensor(&Tensor::full(0.5f32, n, &Device::Cpu)?)?))
        };
        let vars = [("w", 40), ("b", 3)].into_iter().map(make).collect::<trigrad::Result<Vec<_>>>()?;
        let config = Config { format: Format::Adaptive { bits: 4 }, seed: 11, ..Config::default() };
        let base = Options { small: 8, config, ..Options::default() };
        let options = match kind {
            0 => base,
            _ => Options { residual_bits: Some(4), loss_scale: LossScale::dynamic(8.0), ..base },
        };
        let sum = ModelGradients::from_vars(&vars, options)?;
        let optimizer = match kind {
            0 => FusedOptimizer::adamw(&sum, ParamsAdamW::default())?,
            _ => FusedOptimizer::sgd(&sum, 0.01, 0.9, 0.01, true)?,
        };
        Ok(Run { vars, sum, optimizer })
    }

    fn micro_batch(&mut self, k: usize) -> trigrad::Result<()> {
        let make = |(name, v): &(String, Var)| {
            let n = v.elem_count();
            let x = (0..n).map(|i| ((i * 7 + k * 5) % 13) as f32 - 6.0).collect();
            Ok((name.clone(), Tensor::from_vec(x, n, &Device::Cpu)?))
        };
        let gradients = self.vars.iter().map(make).collect::<trigrad::Result<HashMap<_, _>>>()?;
        self.sum.accumulate(&gradients, 1.0)
    }
}

/// A sound file of each kind, in the middle of a window.
fn good(kind: usize) -> &'static [u8] {
    static FILES: [OnceLock<Vec<u8>>; 2] = [OnceLock::new(), OnceLock::new()];
    FILES[kind].get_or_init(|| {
        let mut run = Run::new(kind).expect("sound choices");
        let path = file("good");
        for k in 0..3 {
            run.micro_batch(k).expect("sound gradients");
            if k == 1 {
                let _any = run.optimizer.step(&mut run.sum).expect("a step");
            }
        }
        run.sum.save(&path, Some(&run.optimizer)).expect("a file that can be written");
        let bytes = fs::read(&path).expect("a file that was written");
        fs::remove_file(&path).ok();
        bytes
    })
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let kind = bytes.below(2);
    let path = file("training");
    let saved = |run: &Run| {
        run.sum.save(&path, Some(&run.optimizer)).expect("a file that can be written");
        fs::read(&path).expect("a file that was written")
    };
    let mut run = Run::new(kind).expect("sound choices");
    run.micro_batch(9).expect("sound gradients");
    let before = saved(&run);
    fs::write(&path, damaged(&mut bytes, good(kind))).expect("a file that can be written");
    match run.sum.load(&path, Some(&mut run.optimizer)) {
        Err(_) => assert_eq!(saved(&run), before),
        Ok(()) => {
            let taken = saved(&run);
            let mut other = Run::new(kind).expect("sound choices");
            other.sum.load(&path, Some(&mut other.optimizer)).expect("its own file");
            assert_eq!(saved(&other), taken);
            run.micro_batch(1).ok();
            let _any = run.optimizer.step(&mut run.sum).ok();
        }
    }
    fs::remove_file(&path).ok();
});
