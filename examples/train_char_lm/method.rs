//! The ways to hold the sum of a step's gradients that are compared.

use crate::train::Plan;
use anyhow::{Context, Result, bail};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_nn::{AdamW, Module, Optimizer, ParamsAdamW, VarMap};
use std::str::FromStr;
use trigrad::accumulator::{Config, Format, Scales};
use trigrad::candle::release::Release;
use trigrad::candle::{Activations, FusedOptimizer, ModelGradients};
use trigrad::training::{AdamW as Adam, OptimizerOptions, Options, Outcome, Rule};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// A sum in f32 or bf16 tensors, as candle users do today.
    Dense(DType),
    /// Adaptive levels of this many bits.
    Adaptive(u32),
    /// The same, with what rounding lost in a residual of 4 bits.
    Feedback(u32),
    /// Exact counts of trits.
    Exact,
}

impl Method {
    pub(crate) const ALL: [Method; 8] = [
        Method::Dense(DType::F32),
        Method::Dense(DType::BF16),
        Method::Adaptive(8),
        Method::Adaptive(4),
        Method::Adaptive(2),
        Method::Exact,
        Method::Feedback(4),
        Method::Feedback(2),
    ];

    /// What it is called on the command line.
    const NAMES: [&str; 8] = ["f32", "bf16", "8", "4", "2", "exact", "4+4", "2+4"];

    pub(crate) fn name(self) -> String {
        match self {
            Method::Dense(dtype) => dtype.as_str().to_owned(),
            Method::Adaptive(bits) => format!("ternary, {bits} bits"),
            Method::Feedback(bits) => format!("ternary, {bits} bits + 4 of residual"),
            Method::Exact => "exact counts".to_owned(),
        }
    }

    fn format(self, micro_batches: usize) -> Option<Format> {
        match self {
            Method::Dense(_) => None,
            Method::Adaptive(bits) | Method::Feedback(bits) => Some(Format::Adaptive { bits }),
            Method::Exact => {
                let bits = if micro_batches <= 7 {
                    4
                } else if micro_batches <= 127 {
                    8
                } else {
                    16
                };
                Some(Format::Exact { bits, scales: Scales::LastWindow { headroom: 1.5 } })
            }
        }
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let at = Method::NAMES.iter().position(|name| *name == s);
        at.map(|i| Method::ALL[i]).ok_or_else(|| format!("one of {}", Method::NAMES.join(", ")))
    }
}

/// A sum of gradients and the optimizer that uses it.
#[expect(clippy::large_enum_variant, reason = "one of these exists a run")]
pub(crate) enum Trainer {
    Dense { vars: Vec<Var>, dtype: DType, sums: Vec<Option<Tensor>>, count: usize, bytes: u64, adam: AdamW },
    Ternary { sum: ModelGradients, adam: FusedOptimizer, bytes: u64 },
}

impl Trainer {
    pub(crate) fn new(method: Method, seed: u64, vars: &VarMap, plan: &Plan<'_>, params: ParamsAdamW) -> Result<Self> {
        Ok(match (method.format(plan.micro_batches), method) {
            (Some(format), method) => {
                let residual_bits = matches!(method, Method::Feedback(_)).then_some(4);
                let config = Config { format, seed, block: plan.block, ..Config::default() };
                let options = Options { config, residual_bits, ..Options::default() };
                let sum = ModelGradients::from_varmap(vars, options)?;
                let ParamsAdamW { lr: learning_rate, beta1, beta2, eps, weight_decay } = params;
                let rule = Rule::AdamW(Adam { learning_rate, beta1, beta2, eps, weight_decay });
                let options = OptimizerOptions { moments: plan.moments, ..OptimizerOptions::default() };
                Trainer::Ternary { adam: FusedOptimizer::with_options(&sum, rule, &options)?, sum, bytes: 0 }
            }
            (None, method) => {
                let vars = vars.all_vars();
                let dtype = if let Method::Dense(dtype) = method { dtype } else { DType::F32 };
                let sums = vec![None; vars.len()];
                Trainer::Dense { adam: AdamW::new(vars.clone(), params)?, sums, vars, dtype, count: 0, bytes: 0 }
            }
        })
    }

    /// Adds the gradients of a micro-batch.
    pub(crate) fn add(&mut self, gradients: GradStore) -> Result<()> {
        match self {
            Trainer::Dense { vars, dtype, sums, count, bytes, .. } => {
                *bytes = 0;
                for (var, sum) in vars.iter().zip(sums) {
                    let gradient = gradients.get(var).context("a variable without a gradient")?;
                    // Detached: a gradient that remembers how it came about keeps every activation.
                    let gradient = gradient.detach().to_dtype(*dtype)?;
                    let next = match sum.take() {
                        Some(sum) => (sum + gradient)?,
                        None => gradient,
                    };
                    *bytes += (next.elem_count() * next.dtype().size_in_bytes()) as u64;
                    *sum = Some(next);
                }
                *count += 1;
            }
            Trainer::Ternary { sum, bytes, .. } => {
                sum.consume(gradients, 1.0)?;
                *bytes = sum.bytes_held();
            }
        }
        Ok(())
    }

    /// A backward pass whose gradients are added on the way, of a model of release layers.
    pub(crate) fn backward(&mut self, release: &Release, loss: &Tensor) -> Result<()> {
        match self {
            Trainer::Dense { .. } => bail!("a sum in f32 or bf16 takes whole gradients"),
            Trainer::Ternary { sum, bytes, .. } => {
                sum.backward(release, loss, 1.0)?;
                *bytes = sum.bytes_held();
                Ok(())
            }
        }
    }

    /// The same in segments, of any layers.
    pub(crate) fn in_segments(
        &mut self,
        release: &Release,
        segments: &[&dyn Module],
        x: &Tensor,
        activations: Activations,
    ) -> Result<()> {
        match self {
            Trainer::Dense { .. } => bail!("a sum in f32 or bf16 takes whole gradients"),
            Trainer::Ternary { sum, bytes, .. } => {
                sum.backward_in_segments(release, segments, x, activations, 1.0)?;
                *bytes = sum.bytes_held();
                Ok(())
            }
        }
    }

    /// Updates the weights with the mean; the next step starts at zero.
    pub(crate) fn step(&mut self, learning_rate: f64) -> Result<()> {
        match self {
            Trainer::Dense { vars, sums, count, adam, .. } => {
                let mut store = GradStore::default();
                for (var, sum) in vars.iter().zip(sums) {
                    let sum = sum.take().context("nothing accumulated")?.to_dtype(DType::F32)?;
                    store.insert(var, (sum / *count as f64)?.to_dtype(var.dtype())?);
                }
                *count = 0;
                adam.set_learning_rate(learning_rate);
                adam.step(&store)?;
            }
            Trainer::Ternary { sum, adam, .. } => {
                adam.set_learning_rate(learning_rate)?;
                if let Outcome::Skipped { tensor, non_finite } = adam.step(sum)? {
                    bail!("{non_finite} gradients of {tensor} are NaN or Inf");
                }
            }
        }
        Ok(())
    }

    /// Bytes of the moments.
    pub(crate) fn moments(&self) -> u64 {
        match self {
            // candle's have the types of the variables.
            Trainer::Dense { vars, .. } => {
                vars.iter().map(|v| 2 * (v.elem_count() * v.dtype().size_in_bytes()) as u64).sum()
            }
            Trainer::Ternary { adam, .. } => adam.bytes_held(),
        }
    }

    /// Bytes that hold the sum: of the tensors that were summed, or of the accumulator's buffers.
    pub(crate) const fn bytes(&self) -> u64 {
        match self {
            Trainer::Dense { bytes, .. } | Trainer::Ternary { bytes, .. } => *bytes,
        }
    }
}
