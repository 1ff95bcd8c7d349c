//! The ways to hold the sum of a step's gradients that are compared.

use anyhow::{Context, Result};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use candle_nn::VarMap;
use trigrad::accumulator::{Config, Format, Reduce, Scales};
use trigrad::candle::GradientAccumulator;

/// Where the network is, and which GPU holds ternary sums if candle's device does not.
pub(crate) struct Place {
    pub(crate) device: Device,
    #[cfg(feature = "wgpu")]
    pub(crate) gpu: Option<trigrad::webgpu::Wgpu>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// f32 tensors, as candle users do today.
    F32,
    /// Adaptive levels of this many bits.
    Adaptive(u32),
    /// Exact counts of trits.
    Exact,
}

impl Method {
    pub(crate) const ALL: [Method; 5] =
        [Method::F32, Method::Adaptive(8), Method::Adaptive(4), Method::Adaptive(2), Method::Exact];

    pub(crate) fn name(self) -> String {
        match self {
            Method::F32 => "f32".to_owned(),
            Method::Adaptive(bits) => format!("ternary, {bits} bits"),
            Method::Exact => "exact counts".to_owned(),
        }
    }

    fn format(self) -> Option<Format> {
        match self {
            Method::F32 => None,
            Method::Adaptive(bits) => Some(Format::Adaptive { bits }),
            // A step has 8 micro-batches, one more than 4-bit counts hold.
            Method::Exact => Some(Format::Exact { bits: 8, scales: Scales::LastWindow { headroom: 1.0 } }),
        }
    }
}

/// A sum of gradients, one way or another.
pub(crate) enum Sum {
    F32 { vars: Vec<Var>, sums: Vec<Option<Tensor>>, count: usize, bytes: usize },
    Ternary { sum: Box<GradientAccumulator>, clipped: u64, added: u64 },
}

impl Sum {
    #[cfg_attr(not(feature = "wgpu"), expect(unused_variables, reason = "candle's device is the only place"))]
    pub(crate) fn new(method: Method, seed: u64, vars: &VarMap, place: &Place) -> Result<Self> {
        Ok(match method.format() {
            None => {
                let vars = vars.all_vars();
                Sum::F32 { sums: vec![None; vars.len()], vars, count: 0, bytes: 0 }
            }
            Some(format) => {
                let config = Config { format, seed, ..Config::default() };
                #[cfg(feature = "wgpu")]
                if let Some(gpu) = &place.gpu {
                    let sum = GradientAccumulator::from_varmap_on_wgpu(vars, config, gpu.clone())?;
                    return Ok(Sum::Ternary { sum: Box::new(sum), clipped: 0, added: 0 });
                }
                Sum::Ternary { sum: Box::new(GradientAccumulator::from_varmap(vars, config)?), clipped: 0, added: 0 }
            }
        })
    }

    /// Adds the gradients of a micro-batch.
    pub(crate) fn add(&mut self, gradients: &GradStore) -> Result<()> {
        match self {
            Sum::F32 { vars, sums, count, bytes } => {
                *bytes = 0;
                for (var, sum) in vars.iter().zip(sums) {
                    // Detached: a gradient that remembers how it came about keeps every activation.
                    let gradient = gradients.get(var).context("a variable without a gradient")?.detach();
                    let next = match sum.take() {
                        Some(sum) => (sum + gradient)?,
                        None => gradient,
                    };
                    *bytes += next.elem_count() * next.dtype().size_in_bytes();
                    *sum = Some(next);
                }
                *count += 1;
            }
            Sum::Ternary { sum, added, .. } => {
                sum.accumulate(gradients, 1.0)?;
                *added += sum.inner().elements();
            }
        }
        Ok(())
    }

    /// The mean over the micro-batches of the step; the next step starts at zero.
    pub(crate) fn take_mean(&mut self) -> Result<GradStore> {
        match self {
            Sum::F32 { vars, sums, count, .. } => {
                let mut store = GradStore::default();
                for (var, sum) in vars.iter().zip(sums) {
                    let sum = sum.take().context("nothing accumulated")?;
                    store.insert(var, (sum / *count as f64)?);
                }
                *count = 0;
                Ok(store)
            }
            Sum::Ternary { sum, clipped, .. } => {
                let mean = sum.read_out_store(Reduce::Mean)?;
                *clipped += sum.inner().found()?.clipped;
                sum.reset()?;
                Ok(mean)
            }
        }
    }

    /// Bytes held for each parameter: of the tensors that were summed, or of the accumulator's buffers.
    pub(crate) fn bytes_per_parameter(&self) -> f64 {
        match self {
            Sum::F32 { vars, bytes, .. } => {
                *bytes as f64 / vars.iter().map(|v| v.elem_count()).sum::<usize>().max(1) as f64
            }
            Sum::Ternary { sum, .. } => sum.inner().bytes_held() as f64 / sum.inner().elements().max(1) as f64,
        }
    }

    /// The share of added elements that were cut to their scale.
    pub(crate) fn clipped(&self) -> f64 {
        match self {
            Sum::F32 { .. } => 0.0,
            Sum::Ternary { clipped, added, .. } => *clipped as f64 / (*added).max(1) as f64,
        }
    }
}
