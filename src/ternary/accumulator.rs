//! The ternary gradient accumulator of the seed API.

use super::{TernaryConfig, next_object};
use crate::accumulator::{Config, Format, NonFinite, Reduce, Spec};
use crate::candle::{GradientAccumulator, quantize};
use crate::error::{Error, Result};
use crate::op::quantize::{Quantize, Threshold};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;

/// Accumulates gradients over micro-batches as packed trits under block scales, 2 bits an element unless
/// [`with_bits`](Self::with_bits) says otherwise.
///
/// With stochastic rounding each micro-batch is added to what is held and the sum rounded stochastically
/// ([`Format::Adaptive`]): the mean read out is unbiased at any number of micro-batches. 2 bits are the most that can
/// be saved and the most noise; at 4 bits the noise is some seventy times smaller (squared, over 8 micro-batches)
/// and the savings are 87%. Without stochastic rounding each gradient is first cut to trits by the threshold times the
/// mean magnitude of its block, with the least-squares magnitude (this holds one dense copy meanwhile, and is
/// biased, as thresholds are), then added the same way.
///
/// # Examples
///
/// ```
/// use candle_core::{Device, Tensor};
/// use std::collections::HashMap;
/// use trigrad::{TernaryConfig, TernaryGradientAccumulator};
///
/// let shapes = [("w".to_string(), vec![2, 2])];
/// let mut sum = TernaryGradientAccumulator::new(&shapes, TernaryConfig::default(), &Device::Cpu)?
///     .with_seed(7)?
///     .with_bits(4)?;
/// let g = Tensor::new(&[[1f32, -1.0], [0.0, 1.0]], &Device::Cpu)?;
/// sum.accumulate(&HashMap::from([("w".to_string(), g)]))?;
/// assert_eq!(sum.get_accumulated()?["w"].dims(), [2, 2]);
/// # Ok::<(), trigrad::Error>(())
/// ```
pub struct TernaryGradientAccumulator {
    config: TernaryConfig,
    device: Device,
    specs: Vec<Spec>,
    inner: GradientAccumulator,
}

impl TernaryGradientAccumulator {
    /// An empty accumulator for named shapes, with a seed of its own ([the rule](super#seeds)).
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for 0 accumulation steps, for a threshold that is negative or not finite, or for an empty
    /// list; [`Error::DuplicateTensor`]; [`Error::NoDevice`].
    pub fn new(param_shapes: &[(String, Vec<usize>)], config: TernaryConfig, device: &Device) -> Result<Self> {
        if config.accumulation_steps == 0 {
            return Err(Error::Parameter { name: "accumulation_steps", got: 0.0, requirement: "at least 1" });
        }
        threshold(&config).validate()?;
        let specs: Vec<Spec> = param_shapes.iter().map(|(name, shape)| Spec::new(name, &shape[..])).collect();
        let inner = Self::inner(&specs, 2, next_object(), device)?;
        Ok(TernaryGradientAccumulator { config, device: device.clone(), specs, inner })
    }

    /// The same with another seed; empties the accumulator.
    ///
    /// A draw depends on the seed, the number of resets, the number of the micro-batch since, the tensor's place in the
    /// list and the element's, and on nothing else. So two accumulators of one seed draw the same numbers for the same
    /// tensor, and the errors of their roundings do not average out between them.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] or what the device reports.
    pub fn with_seed(self, seed: u64) -> Result<Self> {
        let inner = Self::inner(&self.specs, self.inner.inner().config().bits(), seed, &self.device)?;
        Ok(TernaryGradientAccumulator { inner, ..self })
    }

    /// The same with 2, 4 or 8 bits an element; empties the accumulator.
    ///
    /// # Errors
    ///
    /// [`Error::BitWidth`] for another width, [`Error::OutOfMemory`] or what the device reports.
    pub fn with_bits(self, bits: u32) -> Result<Self> {
        let inner = Self::inner(&self.specs, bits, self.inner.inner().config().seed, &self.device)?;
        Ok(TernaryGradientAccumulator { inner, ..self })
    }

    fn inner(specs: &[Spec], bits: u32, seed: u64, device: &Device) -> Result<GradientAccumulator> {
        let format = Format::Adaptive { bits };
        let config = Config { format, seed, non_finite: NonFinite::Reject, ..Config::default() };
        GradientAccumulator::new(specs, config, device)
    }

    /// Adds the gradients of one micro-batch: every tensor once.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`] or [`Error::MissingTensor`]; [`Error::Shape`], [`Error::ElementType`] or
    /// [`Error::NonFinite`] within the tensor. The state is then as it was. Where more than one thing is wrong, an
    /// unknown name comes first, with stochastic rounding or without; then, in the order of the shapes given, a tensor
    /// that is missing or has the wrong shape or type; values are looked at when all that is right.
    pub fn accumulate(&mut self, gradients: &HashMap<String, Tensor>) -> Result<()> {
        if self.config.use_stochastic_rounding {
            return self.inner.accumulate(gradients, 1.0);
        }
        let op = threshold(&self.config);
        let mut cut = HashMap::with_capacity(gradients.len());
        for (spec, gradient) in self.specs.iter().zip(self.inner.in_order(gradients)?) {
            let trits = quantize(gradient, &op).map_err(|e| e.in_tensor(&*spec.name))?;
            cut.insert(spec.name.clone(), trits.dequantize(DType::F32)?);
        }
        self.inner.accumulate(&cut, 1.0)
    }

    /// The mean of the gradients, by name, f32; zeros where nothing was accumulated.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] where a sum of gradients, each in range, came to 2^126 and above: from then on every
    /// read-out fails until [`reset`](Self::reset), which drops what was accumulated. Or what the device reports.
    pub fn get_accumulated(&self) -> Result<HashMap<String, Tensor>> {
        let reduce = if self.count() == 0 { Reduce::Sum } else { Reduce::Mean };
        self.inner.read_out(reduce)
    }

    /// Empties the accumulator for the next cycle.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn reset(&mut self) -> Result<()> {
        self.inner.reset()
    }

    /// Micro-batches accumulated since the last reset.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.inner.inner().count() as usize
    }

    /// The share of memory saved against f32, from the bytes held; 0 where there are no elements.
    #[must_use]
    pub fn memory_savings(&self) -> f32 {
        let (held, elements) = (self.inner.inner().bytes_held(), self.inner.inner().elements());
        if elements == 0 { 0.0 } else { (1.0 - held as f64 / (4.0 * elements as f64)) as f32 }
    }

    /// Whether `accumulation_steps` micro-batches are in.
    #[must_use]
    pub const fn ready_for_update(&self) -> bool {
        self.count() >= self.config.accumulation_steps
    }
}

fn threshold(config: &TernaryConfig) -> Quantize {
    Quantize::threshold(Threshold::Mean(config.ternary_threshold))
}
