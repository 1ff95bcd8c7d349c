//! Fused optimizers on candle's variables.

use super::ModelGradients;
use super::in_place::{AT_ONCE, contiguous, no_weights, with_weights};
use crate::device::Device;
use crate::error::Result;
use crate::training::{AdamW, Begun, Optimizer, OptimizerOptions, Outcome, Rule, Sgd};
use candle_core::{DType, Tensor};
use candle_nn::ParamsAdamW;

/// Plain SGD, with momentum or AdamW, in place on the variables of a model: no dense gradient ever exists. Weights are
/// f32 or bf16 (computed in f32 and rounded stochastically, seeded); moments are f32, or in
/// 8 bits where [`OptimizerOptions`] say so.
///
/// AdamW is `candle_nn`'s, operation by operation; SGD is PyTorch's with dampening 0.
///
/// # Examples
///
/// ```
/// use candle_core::{DType, Device, Tensor, Var};
/// use trigrad::candle::{FusedOptimizer, ModelGradients};
/// use trigrad::training::Options;
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
#[derive(Debug)]
pub struct FusedOptimizer {
    pub(super) inner: Optimizer<Device>,
}

impl FusedOptimizer {
    /// SGD: `d = g + weight_decay w`, `b = momentum b + d`, `w = w - learning_rate b` (Nesterov: `d + momentum b`).
    ///
    /// # Errors
    ///
    /// [`crate::Error::ElementType`] for weights that are not f32 or bf16; [`crate::Error::NoVariable`] for a model of shapes;
    /// [`crate::Error::Parameter`] for a number that is not finite or negative, or Nesterov without momentum;
    /// [`crate::Error::OutOfMemory`].
    pub fn sgd(
        gradients: &ModelGradients,
        learning_rate: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: bool,
    ) -> Result<Self> {
        Self::new(gradients, Rule::Sgd(Sgd { learning_rate, momentum, weight_decay, nesterov }))
    }

    /// AdamW with candle's parameters.
    ///
    /// # Errors
    ///
    /// As for [`sgd`](Self::sgd).
    #[expect(clippy::needless_pass_by_value, reason = "as candle's own constructors take them")]
    pub fn adamw(gradients: &ModelGradients, params: ParamsAdamW) -> Result<Self> {
        let ParamsAdamW { lr: learning_rate, beta1, beta2, eps, weight_decay } = params;
        Self::new(gradients, Rule::AdamW(AdamW { learning_rate, beta1, beta2, eps, weight_decay }))
    }

    /// Any rule.
    ///
    /// # Errors
    ///
    /// As for [`sgd`](Self::sgd).
    pub fn new(gradients: &ModelGradients, rule: Rule) -> Result<Self> {
        Self::with_options(gradients, rule, &OptimizerOptions::default())
    }

    /// Any rule, with parameter groups and a format of the moments.
    ///
    /// # Errors
    ///
    /// As for [`sgd`](Self::sgd) and [`Optimizer::with_options`].
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_core::{DType, Device, Var};
    /// use trigrad::candle::{FusedOptimizer, ModelGradients};
    /// use trigrad::training::{AdamW, Group, MomentFormat, OptimizerOptions, Options, Rule};
    ///
    /// let w = Var::zeros((64, 64), DType::F32, &Device::Cpu)?;
    /// let b = Var::zeros(64, DType::F32, &Device::Cpu)?;
    /// let gradients = ModelGradients::from_vars(&[("w".into(), w), ("b".into(), b)], Options::default())?;
    /// let options = OptimizerOptions { moments: MomentFormat::Bits8, groups: vec![Group::no_decay()] };
    /// let adam = FusedOptimizer::with_options(&gradients, Rule::AdamW(AdamW::default()), &options)?;
    /// assert_eq!(adam.optimizer().moments_of(0), Some(MomentFormat::Bits8));
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn with_options(gradients: &ModelGradients, rule: Rule, options: &OptimizerOptions) -> Result<Self> {
        gradients.has_variables()?;
        for (spec, dtype) in gradients.specs().iter().zip(&gradients.dtypes) {
            if !matches!(dtype, DType::F32 | DType::BF16) {
                return Err(no_weights(*dtype).in_tensor(&*spec.name));
            }
        }
        Ok(FusedOptimizer { inner: Optimizer::with_options(&gradients.inner, rule, options)? })
    }

    /// Updates the weights with the mean gradient, clipped, free of the loss scale; then starts the next window. A
    /// window with NaN or Inf is dropped instead: look at the outcome. Waits for the device, to see what the window found
    /// and what the update did.
    ///
    /// # Errors
    ///
    /// As for [`crate::training::Training::step`]; [`crate::Error::NotContiguous`] within the tensor.
    pub fn step(&mut self, gradients: &mut ModelGradients) -> Result<Outcome> {
        let named = gradients.inner.specs().iter().map(|s| s.name.as_str()).zip(&gradients.vars);
        contiguous(named)?;
        gradients.has_variables()?;
        let plan = match gradients.inner.begin(&mut self.inner)? {
            Begun::Over(outcome) => return Ok(outcome),
            Begun::Update(plan) => plan,
        };
        let places: Vec<usize> = (0..gradients.vars.len()).collect();
        for places in places.chunks(AT_ONCE) {
            let vars: Vec<&Tensor> = places.iter().map(|&i| gradients.vars[i].as_tensor()).collect();
            let (training, optimizer) = (&mut gradients.inner, &mut self.inner);
            let entered = with_weights(&vars, &mut |weights| training.update(optimizer, &plan, places, weights));
            entered.map_err(|e| gradients.inner.in_part(e))?;
        }
        gradients.inner.updated(&mut self.inner, &plan)
    }

    /// The optimizer underneath, which knows no candle.
    #[must_use]
    pub const fn optimizer(&self) -> &Optimizer<Device> {
        &self.inner
    }

    /// What is done with a gradient.
    #[must_use]
    pub const fn rule(&self) -> &Rule {
        self.inner.rule()
    }

    /// Sets the numbers of the rule: betas, eps, decay.
    ///
    /// # Errors
    ///
    /// As for [`Optimizer::set_rule`].
    pub fn set_rule(&mut self, rule: Rule) -> Result<()> {
        self.inner.set_rule(rule)
    }

    /// The learning rate.
    #[must_use]
    pub const fn learning_rate(&self) -> f64 {
        self.inner.learning_rate()
    }

    /// Sets the learning rate: what schedules call.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Parameter`] unless it is finite and at least 0; the rate is then as it was.
    pub fn set_learning_rate(&mut self, to: f64) -> Result<()> {
        self.inner.set_learning_rate(to)
    }

    /// The learning rate is this function of the updates made from now on; see [`Optimizer::set_schedule`].
    ///
    /// # Errors
    ///
    /// As for [`set_learning_rate`](Self::set_learning_rate), for the rate of the next step.
    pub fn set_schedule(&mut self, schedule: impl Fn(u32) -> f64 + Send + Sync + 'static) -> Result<()> {
        self.inner.set_schedule(schedule)
    }

    /// Updates made: skipped windows do not count.
    #[must_use]
    pub const fn updates(&self) -> u32 {
        self.inner.updates()
    }

    /// Bytes of the moments, from the buffers themselves.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.inner.bytes_held()
    }
}
