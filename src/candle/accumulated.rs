//! Any candle optimizer, stepping every K micro-batches behind candle's own trait.

use super::ModelGradients;
use super::accumulator::by_name;
use crate::error::{Error, Result};
use crate::training::{Options, Outcome};
use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId, Var};
use candle_nn::{Optimizer, VarMap};
use std::hash::{Hash, Hasher};
use std::path::Path;

/// An optimizer that accumulates the gradients it is given and steps the inner one every K of them.
///
/// [`backward_step`](Optimizer::backward_step) multiplies the loss by the loss scale itself; whoever calls
/// [`step`](Optimizer::step) with gradients takes them of [`scale_loss`](Self::scale_loss).
///
/// A step that was skipped is no error of candle's trait: look at [`outcome`](Self::outcome) or at
/// [`gradients().counts()`](ModelGradients::counts).
///
/// # Examples
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{Init, Optimizer, SGD, VarMap};
/// use trigrad::candle::{Accumulated, AccumulatedConfig};
/// use trigrad::training::Options;
///
/// let vars = VarMap::new();
/// let w = vars.get(64, "w", Init::Const(0.0), DType::F32, &Device::Cpu)?;
/// let config = AccumulatedConfig { inner: 0.5, micro_batches: 8, options: Options::default() };
/// let mut sgd = Accumulated::<SGD>::from_varmap(&vars, config)?;
/// for micro_batch in 0..8 {
///     let loss = (&w - 1.0)?.sqr()?.sum_all()?;
///     sgd.backward_step(&loss)?; // the eighth moves the weights
/// }
/// assert!(sgd.outcome().is_some_and(|o| o.updated()));
/// assert_eq!(w.to_vec1::<f32>()?[0], 1.0);
/// # Ok::<(), trigrad::Error>(())
/// ```
pub struct Accumulated<O: Optimizer> {
    inner: O,
    micro_batches: u32,
    gradients: ModelGradients,
    last: Option<Outcome>,
    /// A learning rate that was set and can be none: candle's setter can not say so, the next step does.
    wrong_rate: Option<f64>,
}

/// What an [`Accumulated`] optimizer is made from.
#[derive(Clone, Debug)]
pub struct AccumulatedConfig<C> {
    /// The inner optimizer's configuration.
    pub inner: C,
    /// Micro-batches a step, at least 1.
    pub micro_batches: u32,
    /// How the gradients are held.
    pub options: Options,
}

impl<O: Optimizer> std::fmt::Debug for Accumulated<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accumulated")
            .field("micro_batches", &self.micro_batches)
            .field("gradients", &self.gradients)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl<O: Optimizer> Accumulated<O> {
    /// For all variables of a map, under their names and in the order of these.
    ///
    /// # Errors
    ///
    /// As for [`ModelGradients::from_varmap`]; [`Error::Parameter`] for 0 micro-batches; what the inner optimizer says.
    pub fn from_varmap(map: &VarMap, config: AccumulatedConfig<O::Config>) -> Result<Self> {
        Self::from_vars(&by_name(map), config)
    }

    /// For named variables, in this order.
    ///
    /// # Errors
    ///
    /// As for [`from_varmap`](Self::from_varmap).
    pub fn from_vars(vars: &[(String, Var)], config: AccumulatedConfig<O::Config>) -> Result<Self> {
        let AccumulatedConfig { inner, micro_batches, options } = config;
        if micro_batches == 0 {
            return Err(Error::Parameter { name: "micro-batches", got: 0.0, requirement: "at least 1" });
        }
        let gradients = ModelGradients::from_vars(vars, options)?;
        let inner = O::new(gradients.vars.clone(), inner)?;
        Ok(Accumulated { inner, micro_batches, gradients, last: None, wrong_rate: None })
    }

    /// The gradients of the window: summary, counts, norm, weights.
    pub const fn gradients(&self) -> &ModelGradients {
        &self.gradients
    }

    /// The same, to be changed: the metrics hook, the index of the micro-batch, a reset.
    pub const fn gradients_mut(&mut self) -> &mut ModelGradients {
        &mut self.gradients
    }

    /// What the last step came to; `None` before the first, and while a window fills.
    pub const fn outcome(&self) -> Option<&Outcome> {
        self.last.as_ref()
    }

    /// The inner optimizer.
    pub const fn inner(&self) -> &O {
        &self.inner
    }

    /// The inner optimizer, to be changed.
    pub const fn inner_mut(&mut self) -> &mut O {
        &mut self.inner
    }

    /// The loss times the loss scale, for gradients that are given to [`step`](Optimizer::step).
    ///
    /// # Errors
    ///
    /// What candle reports.
    pub fn scale_loss(&self, loss: &Tensor) -> Result<Tensor> {
        self.gradients.scale_loss(loss)
    }

    /// [`backward_step`](Optimizer::backward_step) for a micro-batch of this weight: its share in the mean, the number of
    /// its tokens for instance.
    ///
    /// # Errors
    ///
    /// As for [`ModelGradients::accumulate`] and [`ModelGradients::step`].
    pub fn backward_weighted(&mut self, loss: &Tensor, weight: f32) -> Result<()> {
        self.rate()?;
        let gradients = self.gradients.scale_loss(loss)?.backward()?;
        self.add(&gradients, weight)
    }

    /// Steps with what has come in so far: the last, shorter window of an epoch. Of an empty window nothing comes:
    /// [`Outcome::Nothing`].
    ///
    /// # Errors
    ///
    /// As for [`ModelGradients::step`]; [`Error::Parameter`] for a learning rate that was set and can be none.
    pub fn flush(&mut self) -> Result<Outcome> {
        self.rate()?;
        if self.gradients.count() == 0 {
            return Ok(Outcome::Nothing);
        }
        let outcome = self.gradients.step(&mut self.inner)?;
        self.last = Some(outcome.clone());
        Ok(outcome)
    }

    /// Writes variables, window and place in the run to a file; see [`ModelGradients::save`]. The state of the inner
    /// optimizer can not be reached and is not in it: where it has moments, a run that is loaded does not come to the same
    /// weights. Take a [`super::FusedOptimizer`] where it must.
    ///
    /// # Errors
    ///
    /// As for [`ModelGradients::save`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.gradients.save(path, None)
    }

    /// Takes over what was [saved](Self::save).
    ///
    /// # Errors
    ///
    /// As for [`ModelGradients::load`]. Nothing is then changed.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.gradients.load(path, None)?;
        self.last = None;
        Ok(())
    }

    fn add(&mut self, gradients: &GradStore, weight: f32) -> Result<()> {
        self.rate()?;
        self.last = None;
        self.gradients.accumulate(gradients, weight)?;
        if self.gradients.count() >= self.micro_batches {
            let _kept_in_last = self.flush()?;
        }
        Ok(())
    }

    fn rate(&self) -> Result<()> {
        match self.wrong_rate {
            Some(got) => Err(Error::Parameter { name: "learning rate", got, requirement: "finite and at least 0" }),
            None => Ok(()),
        }
    }
}

impl<O: Optimizer> Optimizer for Accumulated<O> {
    type Config = AccumulatedConfig<O::Config>;

    /// For variables without names, in the order in which they were made, whatever the order given: that of
    /// [`VarMap::all_vars`] is another in every run, and draws depend on the order. They are named by their place, `0`,
    /// `1`, ...; [`Accumulated::from_varmap`] takes the real names.
    fn new(mut vars: Vec<Var>, config: Self::Config) -> candle_core::Result<Self> {
        let make = || {
            let mut keyed = vars.drain(..).map(|v| Ok((age(v.id())?, v))).collect::<Result<Vec<_>>>()?;
            keyed.sort_by_key(|(age, _)| *age);
            let named: Vec<(String, Var)> =
                keyed.into_iter().enumerate().map(|(i, (_, var))| (i.to_string(), var)).collect();
            Self::from_vars(&named, config)
        };
        make().map_err(candle_core::Error::wrap)
    }

    /// Adds a micro-batch; every K-th steps the inner optimizer. The gradients are of [`Accumulated::scale_loss`].
    fn step(&mut self, gradients: &GradStore) -> candle_core::Result<()> {
        self.add(gradients, 1.0).map_err(candle_core::Error::wrap)
    }

    /// Multiplies the loss by the loss scale, and adds its gradients.
    fn backward_step(&mut self, loss: &Tensor) -> candle_core::Result<()> {
        self.backward_weighted(loss, 1.0).map_err(candle_core::Error::wrap)
    }

    fn learning_rate(&self) -> f64 {
        self.wrong_rate.unwrap_or_else(|| self.inner.learning_rate())
    }

    /// Sets the inner optimizer's rate. One that can be none is not set: the next step is an error, before anything is
    /// added, until it is set again.
    fn set_learning_rate(&mut self, lr: f64) {
        if lr.is_finite() && lr >= 0.0 {
            self.inner.set_learning_rate(lr);
            self.wrong_rate = None;
        } else {
            self.wrong_rate = Some(lr);
        }
    }
}

/// The number of a tensor in the order in which tensors were made. candle keeps it to itself, but hashes it.
fn age(id: TensorId) -> Result<u64> {
    let mut number = Number(None);
    id.hash(&mut number);
    number
        .0
        .ok_or(Error::Unsupported { operation: "variables without names", device: "this version of candle".to_owned() })
}

/// Takes the one number that is hashed; nothing if there is another.
struct Number(Option<u64>);

impl Hasher for Number {
    fn finish(&self) -> u64 {
        self.0.unwrap_or_default()
    }

    fn write(&mut self, _: &[u8]) {
        self.0 = None;
    }

    fn write_usize(&mut self, i: usize) {
        self.0 = Some(i as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn variables_are_numbered_as_they_are_made() -> Result<()> {
        let make = |_| Var::zeros(1, DType::F32, &Device::Cpu).map(|v| age(v.id()));
        let ages = (0..5).map(make).collect::<candle_core::Result<Result<Vec<u64>>>>()??;
        assert!(ages.is_sorted_by(|a, b| a < b), "{ages:?}");
        Ok(())
    }
}
