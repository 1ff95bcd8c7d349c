//! A run that can be killed at any time, by `kill -9` too, and goes on to the same bits when it is started again.
//!
//! ```text
//! cargo run --release --example resume -- run.safetensors
//! ```
//! The checkpoint is one file: weights, moments, the gradients of the window so far, the place in the run. It is written
//! every few micro-batches, in the middle of a window, and a file takes the place of the last one whole or not at all.
//! At the end a digest of the weights is printed: it is the same, however often the run was killed. Remove the file to
//! start anew.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use candle_core::{D, DType, Device, Tensor, Var};
use std::path::{Path, PathBuf};
use trigrad::Result;
use trigrad::candle::{FusedOptimizer, ModelGradients};
use trigrad::training::{AdamW, Group, MomentFormat, OptimizerOptions, Options, Outcome, Rule};

/// Micro-batches of a window, of the run, and from checkpoint to checkpoint.
const WINDOW: u32 = 8;
const RUN: u32 = 320;
const EVERY: u32 = 3;

fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("resume.safetensors"), PathBuf::from);
    println!("digest {:016x}", run(&path)?);
    Ok(())
}

/// The training: from the start, or from where the file says that it is.
pub(crate) fn run(path: &Path) -> Result<u64> {
    let vars = variables()?;
    let mut gradients = ModelGradients::from_vars(&vars, Options { clip_norm: Some(1.0), ..Options::window(WINDOW) })?;
    let choices = OptimizerOptions { moments: MomentFormat::Bits8, groups: vec![Group::no_decay()] };
    let mut adam = FusedOptimizer::with_options(&gradients, Rule::AdamW(AdamW::default()), &choices)?;
    adam.set_schedule(|updates| 0.01 / (1.0 + f64::from(updates) / 20.0))?;
    if path.exists() {
        gradients.load(path, Some(&mut adam))?;
    }
    // What comes next follows from the place in the run alone: so do the data.
    let next = gradients.window() * WINDOW + gradients.count();
    println!("begins at micro-batch {next}");
    for micro_batch in next..RUN {
        let loss = loss(&vars, micro_batch)?;
        gradients.consume(loss.backward()?, 1.0)?;
        if gradients.count() == WINDOW {
            match adam.step(&mut gradients)? {
                Outcome::Updated { norm, .. } => println!("loss {:.4}, norm {norm:.4}", loss.to_scalar::<f32>()?),
                skipped => println!("{skipped:?}"),
            }
        }
        if (micro_batch + 1) % EVERY == 0 || micro_batch + 1 == RUN {
            gradients.save(path, Some(&adam))?;
        }
    }
    digest(&vars)
}

/// Two layers: 64 inputs, 96 hidden units, 10 classes.
fn variables() -> Result<Vec<(String, Var)>> {
    let shapes: [(&str, &[usize]); 4] =
        [("a.weight", &[64, 96]), ("a.bias", &[96]), ("b.weight", &[96, 10]), ("b.bias", &[10])];
    let make = |(i, (name, shape)): (usize, (&str, &[usize]))| {
        let x = noise(i as u64, shape.iter().product());
        let w = (Tensor::from_vec(x, shape, &Device::Cpu)? * 0.1)?;
        Ok((name.to_owned(), Var::from_tensor(&w)?))
    };
    shapes.into_iter().enumerate().map(make).collect()
}

/// The cross entropy of a micro-batch: which of the first ten inputs is the largest?
fn loss(vars: &[(String, Var)], micro_batch: u32) -> Result<Tensor> {
    let x = Tensor::from_vec(noise(1000 + u64::from(micro_batch), 32 * 64), (32, 64), &Device::Cpu)?;
    let labels = x.narrow(1, 0, 10)?.argmax(D::Minus1)?;
    let hidden = x.matmul(&vars[0].1)?.broadcast_add(&vars[1].1)?.relu()?;
    let scores = hidden.matmul(&vars[2].1)?.broadcast_add(&vars[3].1)?;
    Ok(candle_nn::loss::cross_entropy(&scores, &labels)?)
}

/// Numbers in -1..1 that are a function of their place, by SplitMix64.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let of = |i: u64| {
        let mut z = (seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n as u64).map(of).collect()
}

/// FNV-1a of the bits of all weights.
fn digest(vars: &[(String, Var)]) -> Result<u64> {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for (_, var) in vars {
        for w in var.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()? {
            for byte in w.to_bits().to_le_bytes() {
                digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    Ok(digest)
}
