//! Any candle optimizer, stepping every K micro-batches behind candle's own trait.

use super::{ModelGradients, Options, Outcome};
use crate::error::{Error, Result};
use candle_core::Var;
use candle_core::backprop::GradStore;
use candle_nn::Optimizer;

/// An optimizer that accumulates the gradients it is given and steps the inner one every K of them.
///
/// # Examples
///
/// ```
/// use candle_core::{DType, Device, Tensor, Var};
/// use candle_nn::{Optimizer, SGD};
/// use trigrad::optimizer::{Accumulated, AccumulatedConfig, Options};
///
/// let w = Var::zeros(64, DType::F32, &Device::Cpu)?;
/// let config = AccumulatedConfig { inner: 0.5, micro_batches: 8, options: Options::default() };
/// let mut sgd = Accumulated::<SGD>::new(vec![w.clone()], config)?;
/// for micro_batch in 0..8 {
///     let loss = (w.as_tensor() - 1.0)?.sqr()?.sum_all()?;
///     sgd.backward_step(&loss)?; // the eighth moves the weights
/// }
/// assert_eq!(w.to_vec1::<f32>()?[0], 1.0);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub struct Accumulated<O: Optimizer> {
    inner: O,
    micro_batches: u32,
    gradients: ModelGradients,
    last: Option<Outcome>,
}

/// What an [`Accumulated`] optimizer is made from.
#[derive(Clone, Debug)]
pub struct AccumulatedConfig<C> {
    /// The inner optimizer's configuration.
    pub inner: C,
    /// Micro-batches a step, at least 1.
    pub micro_batches: u32,
    /// How the gradients are held. Variables are named by their place in the list: `0`, `1`, ...
    pub options: Options,
}

impl<O: Optimizer> Accumulated<O> {
    /// The gradients of the window.
    pub const fn gradients(&self) -> &ModelGradients {
        &self.gradients
    }

    /// What the last step came to; `None` before the first, and while a window fills.
    pub const fn outcome(&self) -> Option<&Outcome> {
        self.last.as_ref()
    }

    /// The inner optimizer.
    pub const fn inner(&self) -> &O {
        &self.inner
    }

    /// Steps with what has come in so far: the last, shorter window of an epoch.
    ///
    /// # Errors
    ///
    /// As for [`ModelGradients::step`].
    pub fn flush(&mut self) -> Result<Outcome> {
        let outcome = self.gradients.step(&mut self.inner)?;
        self.last = Some(outcome.clone());
        Ok(outcome)
    }

    fn add(&mut self, gradients: &GradStore) -> Result<()> {
        self.last = None;
        self.gradients.accumulate(gradients, 1.0)?;
        if self.gradients.count() >= self.micro_batches {
            self.flush()?;
        }
        Ok(())
    }
}

impl<O: Optimizer> Optimizer for Accumulated<O> {
    type Config = AccumulatedConfig<O::Config>;

    fn new(vars: Vec<Var>, config: Self::Config) -> candle_core::Result<Self> {
        let make = || {
            if config.micro_batches == 0 {
                return Err(Error::Parameter { name: "micro-batches", got: 0.0, requirement: "at least 1" });
            }
            let named: Vec<(String, Var)> = vars
                .iter()
                .filter(|v| v.dtype().is_float())
                .enumerate()
                .map(|(i, v)| (i.to_string(), v.clone()))
                .collect();
            ModelGradients::from_vars(&named, config.options.clone())
        };
        let gradients = make().map_err(candle_core::Error::wrap)?;
        Ok(Accumulated {
            inner: O::new(vars, config.inner)?,
            micro_batches: config.micro_batches,
            gradients,
            last: None,
        })
    }

    /// Adds a micro-batch; every K-th steps the inner optimizer.
    fn step(&mut self, gradients: &GradStore) -> candle_core::Result<()> {
        self.add(gradients).map_err(candle_core::Error::wrap)
    }

    fn learning_rate(&self) -> f64 {
        self.inner.learning_rate()
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.inner.set_learning_rate(lr);
    }
}

impl ModelGradients {
    /// The loss times the loss scale: what the backward pass starts from.
    ///
    /// # Errors
    ///
    /// What candle reports.
    pub fn scale_loss(&self, loss: &candle_core::Tensor) -> Result<candle_core::Tensor> {
        let scale = self.options.loss_scale.value();
        if scale == 1.0 { Ok(loss.clone()) } else { Ok(loss.affine(scale, 0.0)?) }
    }
}
