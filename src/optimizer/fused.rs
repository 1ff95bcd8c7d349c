//! Optimizers that read levels and scales straight into the weight update.

use super::in_place::{AT_ONCE, Weight, separate, with_weights};
use super::read::Ready;
use super::{ModelGradients, Outcome, Place};
use crate::accumulator::Floats;
use crate::candle::storage::with_views;
use crate::device::{Buffer, Device, ViewMut};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::numerics::update::{AdamWTerms, SgdTerms};
use crate::op::Backend;
use crate::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};
use crate::op::{BlockSize, Draw};
use candle_core::{DType, Tensor};
use candle_nn::ParamsAdamW;
use half::bf16;

/// Plain SGD, with momentum or AdamW, in place on the variables of a model: no dense gradient ever exists. Weights are
/// f32 or bf16 (computed in f32 and rounded stochastically, seeded); moments are f32.
///
/// AdamW is `candle_nn`'s, operation by operation; SGD is PyTorch's with dampening 0.
///
/// # Examples
///
/// ```
/// use candle_core::{DType, Device, Tensor, Var};
/// use trigrad::optimizer::{FusedOptimizer, ModelGradients, Options};
///
/// let w = Var::zeros(64, DType::BF16, &Device::Cpu)?;
/// let mut gradients = ModelGradients::from_vars(&[("w".into(), w.clone())], Options { small: 0, ..Options::default() })?;
/// let mut sgd = FusedOptimizer::sgd(&gradients, 0.5, 0.9, 0.0, true)?;
/// let loss = (w.as_tensor().to_dtype(DType::F32)? - 1.0)?.sqr()?.sum_all()?;
/// gradients.consume(loss.backward()?, 1.0)?;
/// assert!(sgd.step(&mut gradients)?.updated());
/// assert!(w.to_dtype(DType::F32)?.to_vec1::<f32>()?.iter().all(|w| *w > 0.5));
/// # Ok::<(), trigrad::Error>(())
/// ```
pub struct FusedOptimizer {
    pub(super) rule: Rule,
    /// Updates made.
    pub(super) updates: u32,
    /// Buffers of each tensor: the momentum, or the first and second moment.
    pub(super) moments: Vec<Vec<Buffer<f32>>>,
}

/// What is done with a gradient.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    Sgd { learning_rate: f64, momentum: f64, weight_decay: f64, nesterov: bool },
    AdamW(ParamsAdamW),
}

impl Rule {
    /// Buffers a tensor.
    pub(super) fn buffers(&self) -> usize {
        match self {
            Rule::Sgd { momentum, .. } => usize::from(*momentum != 0.0),
            Rule::AdamW(_) => 2,
        }
    }
}

impl FusedOptimizer {
    /// SGD: `d = g + weight_decay w`, `b = momentum b + d`, `w = w - learning_rate b` (Nesterov: `d + momentum b`).
    ///
    /// # Errors
    ///
    /// [`Error::ElementType`] for weights that are not f32 or bf16; [`Error::MissingTensor`] for a model of shapes;
    /// [`Error::Parameter`] for a number that is not finite or negative, or Nesterov without momentum;
    /// [`Error::OutOfMemory`].
    pub fn sgd(
        gradients: &ModelGradients,
        learning_rate: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: bool,
    ) -> Result<Self> {
        Self::new(gradients, Rule::Sgd { learning_rate, momentum, weight_decay, nesterov })
    }

    /// AdamW with candle's parameters.
    ///
    /// # Errors
    ///
    /// As for [`sgd`](Self::sgd).
    pub fn adamw(gradients: &ModelGradients, params: ParamsAdamW) -> Result<Self> {
        Self::new(gradients, Rule::AdamW(params))
    }

    fn new(gradients: &ModelGradients, rule: Rule) -> Result<Self> {
        validate(&rule)?;
        if let (true, Some(spec)) = (gradients.vars.is_empty(), gradients.specs.first()) {
            return Err(Error::MissingTensor { name: format!("variable of {}", spec.name) });
        }
        let mut moments = Vec::with_capacity(gradients.specs.len());
        for (spec, dtype) in gradients.specs.iter().zip(&gradients.dtypes) {
            let make = || {
                if !matches!(dtype, DType::F32 | DType::BF16) {
                    return Err(Error::ElementType { expected: "f32 or bf16 weights", got: dtype.as_str().to_owned() });
                }
                let n = spec.elements()?;
                (0..rule.buffers()).map(|_| gradients.device.zeros(n)).collect()
            };
            moments.push(make().map_err(|e: Error| e.in_tensor(&*spec.name))?);
        }
        Ok(FusedOptimizer { rule, updates: 0, moments })
    }

    /// Updates the weights with the mean gradient, clipped, free of the loss scale; then starts the next window. A
    /// window with NaN or Inf is dropped instead. Waits for the device once, to see what the window found.
    ///
    /// # Errors
    ///
    /// [`Error::NothingAccumulated`]; [`Error::Length`] where the gradients are another model's, or weights are not
    /// contiguous; [`Error::Limit`] where weights share memory; [`Error::Refused`]. Before anything is written. What
    /// the device reports: weights and moments may then be updated in part, as after a panic, so that the window is
    /// refused and not applied twice.
    pub fn step(&mut self, gradients: &mut ModelGradients) -> Result<Outcome> {
        self.validate_model(gradients)?;
        match gradients.ready()? {
            Ready::Skip { tensor, non_finite } => gradients.skip(tensor, non_finite),
            Ready::Step { factor, norm, clip } => {
                separate(&gradients.vars)?;
                gradients.being_written();
                let updated = self.update_all(gradients, factor);
                gradients.refuse_on_error(updated)?;
                self.updates = self.updates.saturating_add(1);
                gradients.done(norm, clip)
            }
        }
    }

    fn update_all(&mut self, gradients: &ModelGradients, factor: f32) -> Result<()> {
        let indices =
            |dtype| -> Vec<usize> { (0..gradients.specs.len()).filter(|i| gradients.dtypes[*i] == dtype).collect() };
        for part in indices(DType::F32).chunks(AT_ONCE) {
            self.update::<f32>(gradients, part, factor)?;
        }
        for part in indices(DType::BF16).chunks(AT_ONCE) {
            self.update::<bf16>(gradients, part, factor)?;
        }
        Ok(())
    }

    /// The learning rate.
    #[must_use]
    pub const fn learning_rate(&self) -> f64 {
        match &self.rule {
            Rule::Sgd { learning_rate, .. } => *learning_rate,
            Rule::AdamW(params) => params.lr,
        }
    }

    /// Sets the learning rate: what schedules call.
    pub const fn set_learning_rate(&mut self, to: f64) {
        match &mut self.rule {
            Rule::Sgd { learning_rate, .. } => *learning_rate = to,
            Rule::AdamW(params) => params.lr = to,
        }
    }

    /// Updates made: skipped windows do not count.
    #[must_use]
    pub const fn updates(&self) -> u32 {
        self.updates
    }

    /// Bytes of the moments, from the buffers themselves.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.moments.iter().flatten().map(|b| (Device::len(&Device::view(b)) * size_of::<f32>()) as u64).sum()
    }

    fn validate_model(&self, gradients: &ModelGradients) -> Result<()> {
        crate::op::length("tensors", self.moments.len(), gradients.specs.len())?;
        for (buffers, spec) in self.moments.iter().zip(&gradients.specs) {
            for buffer in buffers {
                crate::op::length("moments", spec.elements()?, Device::len(&Device::view(buffer)))
                    .map_err(|e| e.in_tensor(&*spec.name))?;
            }
        }
        Ok(())
    }

    fn update<T: Weight>(&mut self, gradients: &ModelGradients, part: &[usize], factor: f32) -> Result<()> {
        let vars: Vec<&Tensor> = part.iter().map(|&i| gradients.vars[i].as_tensor()).collect();
        let dense: Vec<&Tensor> = part.iter().filter_map(|&i| gradients.dense_sum(i)).collect();
        let config = gradients.options.config;
        let draw = Draw::new(config.seed, gradients.window.step);
        let source = Source { bits: config.bits(), block: config.block, factor, draw };
        with_views(&dense, |sums| {
            let mut sums = sums.iter();
            let sources = part.iter().map(|&i| gradients.source(i, &mut sums)).collect::<Result<Vec<_>>>()?;
            with_weights::<T>(&vars, &mut |weights| self.run(&gradients.device, source, part, &sources, weights))
        })
    }

    fn run<T: Weight>(
        &mut self,
        device: &Device,
        source: Source,
        part: &[usize],
        gradients: &[Gradient<'_, Device>],
        mut weights: Vec<ViewMut<'_, T>>,
    ) -> Result<()> {
        let mut buffers: Vec<&mut Vec<Buffer<f32>>> = Vec::with_capacity(part.len());
        for (i, b) in self.moments.iter_mut().enumerate() {
            if part.binary_search(&i).is_ok() {
                buffers.push(b);
            }
        }
        let each = part.iter().zip(gradients).zip(&mut weights).zip(buffers);
        match &self.rule {
            Rule::Sgd { learning_rate, momentum, weight_decay, nesterov } => {
                let terms = SgdTerms {
                    learning_rate: *learning_rate as f32,
                    momentum: *momentum as f32,
                    weight_decay: *weight_decay as f32,
                };
                let mut items: Vec<SgdItem<'_, Device, T>> = Vec::with_capacity(part.len());
                for (((&i, gradient), weights), buffers) in each {
                    items.push(SgdItem {
                        tensor: i as u32,
                        first: 0,
                        gradient: gradient.shorten(),
                        weights: Device::reborrow(weights),
                        momentum: buffers.first_mut().map(Device::view_mut),
                    });
                }
                device.update_sgd(&Sgd { source, terms, nesterov: *nesterov }, &mut items, None)
            }
            Rule::AdamW(p) => {
                let t = self.updates.saturating_add(1);
                let terms = AdamWTerms::new(p.lr, (p.beta1, p.beta2), p.eps, p.weight_decay, t);
                let mut items: Vec<AdamWItem<'_, Device, T>> = Vec::with_capacity(part.len());
                for (((&i, gradient), weights), buffers) in each {
                    if let [first, second] = &mut buffers[..] {
                        items.push(AdamWItem {
                            tensor: i as u32,
                            first: 0,
                            gradient: gradient.shorten(),
                            weights: Device::reborrow(weights),
                            first_moment: Device::view_mut(first),
                            second_moment: Device::view_mut(second),
                        });
                    }
                }
                device.update_adamw(&AdamW { source, terms }, &mut items, None)
            }
        }
    }
}

pub(super) fn validate(rule: &Rule) -> Result<()> {
    let at_least_zero = |name, got: f64| {
        if got >= 0.0 && (got as f32).is_finite() {
            Ok(())
        } else {
            Err(Error::Parameter { name, got, requirement: "finite and at least 0" })
        }
    };
    match rule {
        Rule::Sgd { learning_rate, momentum, weight_decay, nesterov } => {
            at_least_zero("learning rate", *learning_rate)?;
            at_least_zero("momentum", *momentum)?;
            at_least_zero("weight decay", *weight_decay)?;
            if *nesterov && *momentum as f32 == 0.0 {
                return Err(Error::Parameter {
                    name: "momentum",
                    got: *momentum,
                    requirement: "above 0 with Nesterov",
                });
            }
            Ok(())
        }
        Rule::AdamW(p) => {
            at_least_zero("learning rate", p.lr)?;
            at_least_zero("weight decay", p.weight_decay)?;
            at_least_zero("eps", p.eps)?;
            for (name, beta) in [("beta 1", p.beta1), ("beta 2", p.beta2)] {
                if !(0.0..1.0).contains(&beta) {
                    return Err(Error::Parameter { name, got: beta, requirement: "at least 0 and below 1" });
                }
            }
            Ok(())
        }
    }
}

impl ModelGradients {
    fn dense_sum(&self, i: usize) -> Option<&Tensor> {
        match self.places[i] {
            Place::Dense(d) => self.dense.get(d),
            Place::Packed(_) => None,
        }
    }

    /// Where the sum of a tensor lies; those kept in f32 come next in `sums`.
    fn source<'s, 'l: 's>(
        &'s self,
        i: usize,
        sums: &mut std::slice::Iter<'_, Floats<'l, Device>>,
    ) -> Result<Gradient<'s, Device>> {
        match self.places[i] {
            Place::Packed(p) => match &self.packed {
                Some(packed) => {
                    let held = packed.held(p)?;
                    Ok(Gradient::Packed { levels: held.levels, scales: held.scales })
                }
                None => Err(Error::MissingTensor { name: self.specs[i].name.clone() }),
            },
            Place::Dense(_) => match sums.next() {
                Some(Floats::F32(x)) => Ok(Gradient::Dense(Device::shorten(*x))),
                _ => Err(Error::MissingTensor { name: self.specs[i].name.clone() }),
            },
        }
    }
}

/// Bytes of a block's share: levels, scales.
#[must_use]
pub(super) fn packed_bytes(n: usize, bits: u32, block: BlockSize, exact: bool) -> u64 {
    let scales = block.blocks(n) * size_of::<u16>() * (1 + usize::from(exact));
    (crate::numerics::pack::words(n, bits) * size_of::<u32>() + scales) as u64
}
