//! The gradients of a candle model over a window, and the step that they lead to.

use super::accumulator::{Gradients, by_name, home, in_order, same_device};
use super::in_place::separate;
use super::storage::{Shared, device, tensor, with_views};
use super::{FusedOptimizer, Tensors};
use crate::accumulator::{Accumulator, Floats, Id, Spec};
use crate::checkpoint::Array;
use crate::device::{Buffer, Device, ViewMut};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::op::{Element, Report};
use crate::training::{Counts, Metrics, Options, Outcome, Ready, Summary, Training, all_match, contains_any};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_nn::{Optimizer, VarMap};
use half::{bf16, f16};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The gradients of a candle model over a window of micro-batches: [`Training`] on the variables of a model.
///
/// # Examples
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{Module, ParamsAdamW, VarBuilder, VarMap};
/// use trigrad::candle::{FusedOptimizer, ModelGradients};
/// use trigrad::training::{Options, Outcome};
///
/// let vars = VarMap::new();
/// let layer = candle_nn::linear(64, 32, VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))?;
/// let mut gradients = ModelGradients::from_varmap(&vars, Options { small: 64, ..Options::default() })?;
/// let mut adam = FusedOptimizer::adamw(&gradients, ParamsAdamW::default())?;
/// for micro_batch in 0..16 {
///     let x = Tensor::randn(0f32, 1.0, (16, 64), &Device::Cpu)?;
///     let loss = layer.forward(&x)?.sqr()?.mean_all()?;
///     gradients.consume(gradients.scale_loss(&loss)?.backward()?, 1.0)?;
///     if gradients.count() == 8 {
///         if let Outcome::Skipped { tensor, .. } = adam.step(&mut gradients)? {
///             eprintln!("NaN or Inf in {tensor}: the weights stay as they were");
///         }
///     }
/// }
/// println!("{}", gradients.summary());
/// # Ok::<(), trigrad::Error>(())
/// ```
pub struct ModelGradients {
    pub(super) inner: Training<Device>,
    pub(super) home: candle_core::Device,
    pub(super) dtypes: Vec<DType>,
    /// The variables, in order; empty where only shapes were given.
    pub(super) vars: Vec<Var>,
    /// Losses that were scaled and whose gradients did not come yet.
    scaled: AtomicU64,
    /// Whether gradients are taken to be scaled.
    assume_scaled: bool,
    /// Running statistics of batch norms, left out of the training or not.
    pub(super) statistics: Vec<Var>,
}

impl std::fmt::Debug for ModelGradients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelGradients")
            .field("training", &self.inner)
            .field("device", &self.home)
            .field("variables", &self.vars.len())
            .finish_non_exhaustive()
    }
}

impl ModelGradients {
    /// For named shapes on a device; read-outs are f32, by name.
    ///
    /// # Errors
    ///
    /// As for [`Training::new`]; [`Error::NoDevice`] for a device this build has no backend for.
    pub fn new(tensors: &[Spec], options: Options, home: &candle_core::Device) -> Result<Self> {
        let backend = device(home)?;
        keep_freed_memory(&backend, &options)?;
        Ok(ModelGradients {
            inner: Training::new(backend, tensors, options)?,
            home: home.clone(),
            dtypes: vec![DType::F32; tensors.len()],
            vars: Vec::new(),
            scaled: AtomicU64::new(0),
            assume_scaled: false,
            statistics: Vec::new(),
        })
    }

    /// For named variables, in this order, on their device; read-outs have their types. Those that
    /// [`Options::leave_out`] names are no part of it.
    ///
    /// # Errors
    ///
    /// As for [`Training::new`]; [`Error::ElementType`] for a variable that is not f32, f16 or bf16;
    /// [`Error::WrongDevice`] for one on another device than the first; [`Error::SharedMemory`] for tied weights: one
    /// variable, or the same memory, under two names.
    pub fn from_vars(vars: &[(String, Var)], options: Options) -> Result<Self> {
        all_match("leave_out", &options.leave_out, vars.iter().map(|(name, _)| name.as_str()))?;
        let moved = |name: &str| name.ends_with("running_mean") || name.ends_with("running_var");
        let statistics = vars.iter().filter(|(name, _)| moved(name)).map(|(_, var)| var.clone()).collect();
        let kept = vars.iter().filter(|(name, _)| !contains_any(name, &options.leave_out));
        let vars: Vec<(String, Var)> = kept.cloned().collect();
        let home = home(&vars)?;
        separate(&vars)?;
        let specs: Vec<Spec> = vars.iter().map(|(name, var)| Spec::new(name, var.dims())).collect();
        let backend = device(&home)?;
        keep_freed_memory(&backend, &options)?;
        Ok(ModelGradients {
            inner: Training::build(backend, &specs, options)?,
            home,
            dtypes: vars.iter().map(|(_, var)| var.dtype()).collect(),
            vars: vars.into_iter().map(|(_, var)| var).collect(),
            scaled: AtomicU64::new(0),
            assume_scaled: false,
            statistics,
        })
    }

    /// For all variables of a map, in the order of their names.
    ///
    /// # Errors
    ///
    /// As for [`from_vars`](Self::from_vars).
    pub fn from_varmap(map: &VarMap, options: Options) -> Result<Self> {
        Self::from_vars(&by_name(map), options)
    }

    /// The training underneath, which knows no candle.
    #[must_use]
    pub const fn training(&self) -> &Training<Device> {
        &self.inner
    }

    /// The training underneath: clipping, scales, the metrics hook.
    #[must_use]
    pub const fn training_mut(&mut self) -> &mut Training<Device> {
        &mut self.inner
    }

    /// The choices; the loss scale in them moves with the training.
    #[must_use]
    pub const fn options(&self) -> &Options {
        self.inner.options()
    }

    /// The tensors, in order.
    #[must_use]
    pub fn specs(&self) -> &[Spec] {
        self.inner.specs()
    }

    /// Micro-batches in this window.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.inner.count()
    }

    /// The sum of the weights of this window.
    #[must_use]
    pub const fn weights(&self) -> f64 {
        self.inner.weights()
    }

    /// The number of this window: steps taken and skipped before it.
    #[must_use]
    pub const fn window(&self) -> u32 {
        self.inner.window()
    }

    /// What was counted over the run: windows updated and skipped, elements kept.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.inner.counts()
    }

    /// Windows that were skipped.
    #[must_use]
    pub const fn skipped(&self) -> u64 {
        self.inner.counts().skipped
    }

    /// The accumulator underneath: scales, state, read-outs of sums.
    #[must_use]
    pub const fn sums(&self) -> &Accumulator<Device> {
        self.inner.sums()
    }

    /// The accumulator underneath, which holds all tensors since version 0.2.0.
    #[must_use]
    #[deprecated(since = "0.2.0", note = "`sums` gives it, for every tensor")]
    pub const fn packed(&self) -> Option<&Accumulator<Device>> {
        Some(self.inner.sums())
    }

    /// Sets the index that the next micro-batch draws under, where workers share a step and a seed: the global number
    /// of the micro-batch. With the same index they draw the same numbers for the same tensor.
    pub const fn set_micro_batch(&mut self, index: u32) {
        self.inner.set_micro_batch(index);
    }

    /// Calls `hook` after every step, skipped ones included: for logs and metrics.
    ///
    /// # Examples
    ///
    /// ```
    /// # use trigrad::{accumulator::Spec, candle::ModelGradients, training::Options};
    /// # let mut gradients = ModelGradients::new(&[Spec::new("w", [4])], Options::default(), &candle_core::Device::Cpu)?;
    /// gradients.on_step(|m| {
    ///     if m.outcome.skipped() {
    ///         eprintln!("window {} skipped, {} so far: {:?}", m.window, m.counts.skipped, m.outcome);
    ///     }
    /// });
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn on_step(&mut self, hook: impl FnMut(&Metrics<'_>) + Send + Sync + 'static) {
        self.inner.on_step(hook);
    }

    /// The loss times the loss scale: what the backward pass starts from.
    ///
    /// # Errors
    ///
    /// What candle reports.
    pub fn scale_loss(&self, loss: &Tensor) -> Result<Tensor> {
        let loss = self.scaled_loss(loss)?;
        self.scaled.fetch_add(1, Ordering::Relaxed);
        Ok(loss)
    }

    /// The same, for a backward pass that is made here.
    pub(super) fn scaled_loss(&self, loss: &Tensor) -> Result<Tensor> {
        let scale = self.inner.loss_scale();
        Ok(if scale == 1.0 { loss.clone() } else { loss.affine(scale, 0.0)? })
    }

    /// Takes gradients as those of a loss that was multiplied by the loss scale, from now on: for whoever multiplies it
    /// without [`scale_loss`](Self::scale_loss).
    pub const fn assume_scaled(&mut self) {
        self.assume_scaled = true;
    }

    /// Adds `weight` times the gradients of one micro-batch: a `GradStore` (of a model of variables), or a map of names
    /// to tensors. Every tensor must be there, unless [`Options::missing`] says otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`], [`Error::NoGradient`]; [`Error::Shape`], [`Error::ElementType`] or
    /// [`Error::WrongDevice`] within the tensor; [`Error::Unscaled`] for the gradients of a loss that was not multiplied by
    /// the loss scale; [`Error::Parameter`] for a weight that is not finite; [`Error::Limit`] where exact counts are full
    /// or the micro-batch index is at its limit; [`Error::NonFinite`] under [`crate::accumulator::NonFinite::Reject`]. The
    /// state is then as it was. After a failure of the device, or a panic, in the middle of a call the window is refused
    /// until reset ([`Error::Refused`]).
    pub fn accumulate<G: Gradients + ?Sized>(&mut self, gradients: &G, weight: f32) -> Result<()> {
        self.scaled_if(gradients.of_a_backward_pass())?;
        let inner = &mut self.inner;
        let given = in_order_at(inner, &self.home, gradients.given(&self.vars))?;
        with_places(&given, |list| inner.accumulate(list, weight))?;
        self.gradients_came();
        Ok(())
    }

    /// Takes down that the gradients of a loss came.
    pub(super) fn gradients_came(&mut self) {
        let scaled = self.scaled.get_mut();
        *scaled = scaled.saturating_sub(1);
    }

    /// The same, taking the gradients: their memory is free when this returns.
    ///
    /// # Errors
    ///
    /// As for [`accumulate`](Self::accumulate).
    #[expect(clippy::needless_pass_by_value, reason = "freeing the gradients is what it is for")]
    pub fn consume(&mut self, gradients: GradStore, weight: f32) -> Result<()> {
        self.accumulate(&gradients, weight)
    }

    /// Checks that gradients of a backward pass can be of a loss that was multiplied by the loss scale.
    pub(super) fn scaled_if(&self, of_a_backward_pass: bool) -> Result<()> {
        let checked = of_a_backward_pass && self.inner.loss_scale() != 1.0 && !self.assume_scaled;
        if checked && self.scaled.load(Ordering::Relaxed) == 0 {
            return Err(Error::Unscaled { scale: self.inner.loss_scale() });
        }
        Ok(())
    }

    /// Steps an optimizer over the same variables with the mean gradient, clipped, free of the loss scale; then starts
    /// the next window. A window with NaN or Inf is dropped instead (except under
    /// [`crate::accumulator::NonFinite::Zero`]). Waits for the device. Learning-rate schedules are the optimizer's own
    /// business. A tensor that [`crate::training::Missing::Leave`] leaves has no gradient in what the optimizer gets.
    ///
    /// # Errors
    ///
    /// [`Error::NothingAccumulated`]; [`Error::NoVariable`] for a model of shapes; [`Error::Refused`]; what the optimizer
    /// or the device reports.
    pub fn step<O: Optimizer>(&mut self, optimizer: &mut O) -> Result<Outcome> {
        let ready = self.inner.ready()?;
        if let Ready::Step { factor, .. } = ready {
            optimizer.step(&self.store(factor)?)?;
        }
        self.inner.finish(ready)
    }

    /// The mean gradient as a `GradStore`, clipped, free of the loss scale. The window stays.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] within the first tensor that has any; [`Error::NoVariable`] where only shapes were given;
    /// as for [`step`](Self::step).
    pub fn read_out_store(&self) -> Result<GradStore> {
        self.store(self.inner.checked_factor()?)
    }

    /// The same by name.
    ///
    /// # Errors
    ///
    /// As for [`read_out_store`](Self::read_out_store).
    pub fn read_out(&self) -> Result<HashMap<String, Tensor>> {
        let tensors = self.tensors(self.inner.checked_factor()?)?;
        Ok(self.specs().iter().map(|s| s.name.clone()).zip(tensors).collect())
    }

    /// The global norm of the mean gradient, free of the loss scale, from levels and scales; waits for the device.
    ///
    /// # Errors
    ///
    /// As for [`Training::norm`].
    pub fn norm(&self) -> Result<f64> {
        self.inner.norm()
    }

    /// What was found in this window, one report a tensor, in order; waits for the device.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn reports(&self) -> Result<Vec<Report>> {
        self.inner.reports()
    }

    /// What is held of each tensor, and what was counted.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.inner.summary()
    }

    /// Bytes of the buffers that hold the window, from the buffers themselves.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.inner.bytes_held()
    }

    /// Drops what was accumulated and starts the next window. What rounding lost ([`Options::residual_bits`]) is
    /// carried on, except where the window was refused.
    ///
    /// # Errors
    ///
    /// What the device reports; the window is then refused until a reset succeeds.
    pub fn reset(&mut self) -> Result<()> {
        *self.scaled.get_mut() = 0;
        self.inner.reset()
    }

    /// Writes the whole run to a file, at once or not at all, under one checksum: the variables, what is held of their
    /// gradients, the place in the run and, where it is given, the fused optimizer with its moments. See
    /// [`crate::training`] for what the file decides on load, and what the caller decides.
    ///
    /// The state of candle's own optimizers can not be reached: a run with one of them goes on with moments of 0 after a
    /// load, and does not come to the same weights. A [`FusedOptimizer`] does, bit for bit.
    ///
    /// # Errors
    ///
    /// As for [`Training::save`].
    pub fn save(&self, path: impl AsRef<Path>, optimizer: Option<&FusedOptimizer>) -> Result<()> {
        let vars: Vec<&Tensor> = self.vars.iter().map(Var::as_tensor).collect();
        let backend = self.inner.backend().clone();
        let arrays = with_views(&vars, |views| {
            views.iter().map(|view| crate::training::download(&backend, view)).collect::<Result<Vec<_>>>()
        })?;
        self.inner.save_arrays(path.as_ref(), optimizer.map(|o| &o.inner), arrays)
    }

    /// Takes over a run in a file, which any device may have saved: the variables are set, and the fused optimizer takes
    /// its moments if it is given. See [`crate::training`] for what the file decides, and what the caller decides.
    ///
    /// # Errors
    ///
    /// As for [`Training::load`]. Nothing is then changed.
    pub fn load(&mut self, path: impl AsRef<Path>, optimizer: Option<&mut FusedOptimizer>) -> Result<()> {
        let types = self.dtypes.iter().map(|d| array_type(*d)).take(self.vars.len()).collect::<Vec<_>>();
        let mut loaded = self.inner.loaded(path.as_ref(), optimizer.as_deref().map(|o| &o.inner), &types)?;
        let weights = std::mem::take(&mut loaded.weights);
        let new = weights.into_iter().zip(self.specs()).map(|(w, spec)| of_array(w, &spec.shape, &self.home));
        let new: Vec<Tensor> = new.collect::<Result<_>>()?;
        self.inner.take_over(loaded, optimizer.map(|o| &mut o.inner))?;
        *self.scaled.get_mut() = 0;
        let set = self.vars.iter().zip(&new).try_for_each(|(var, new)| var.set(new));
        set.map_err(|e| Error::UpdatedInPart { source: Box::new(e.into()) })
    }

    fn store(&self, factor: f32) -> Result<GradStore> {
        self.has_variables()?;
        let mut store = GradStore::default();
        for (i, (var, gradient)) in self.vars.iter().zip(self.tensors(factor)?).enumerate() {
            if self.inner.takes_part(i) {
                store.insert(var, gradient);
            }
        }
        Ok(store)
    }

    pub(super) fn has_variables(&self) -> Result<()> {
        match (self.vars.is_empty(), self.specs().first()) {
            (true, Some(spec)) => Err(Error::NoVariable { tensor: spec.name.clone() }),
            _ => Ok(()),
        }
    }

    /// Sums times a factor, in the order of the tensors.
    fn tensors(&self, factor: f32) -> Result<Vec<Tensor>> {
        let mut out: Tensors = Tensors::new();
        self.of_type::<f32>(factor, &mut out)?;
        self.of_type::<f16>(factor, &mut out)?;
        self.of_type::<bf16>(factor, &mut out)?;
        Ok(out.into_values().collect())
    }

    fn of_type<T: Element + Shared>(&self, factor: f32, out: &mut Tensors) -> Result<()> {
        let mut buffers: Vec<(usize, Buffer<T>)> = Vec::new();
        for (i, (dtype, spec)) in self.dtypes.iter().zip(self.specs()).enumerate() {
            if *dtype == T::DTYPE {
                buffers.push((i, self.inner.backend().zeros(spec.elements()?)?));
            }
        }
        if !buffers.is_empty() {
            let mut views: Vec<(usize, ViewMut<'_, T>)> =
                buffers.iter_mut().map(|(i, b)| (*i, Device::view_mut(b))).collect();
            self.inner.read_out_times(factor, &mut views)?;
        }
        for (i, buffer) in buffers {
            out.insert(i, tensor(buffer, &self.specs()[i].shape, &self.home)?);
        }
        Ok(())
    }
}

/// Lets a card's pool keep what is freed, unless the options say otherwise.
#[cfg_attr(
    not(feature = "cuda"),
    expect(unused_variables, clippy::unnecessary_wraps, reason = "no other device has a pool")
)]
fn keep_freed_memory(backend: &Device, options: &Options) -> Result<()> {
    match backend {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) if options.keep_freed_memory => cuda.keep_freed_memory(u64::MAX).map(drop),
        _ => Ok(()),
    }
}

/// Gradients with their places, on the device of a training.
pub(super) fn in_order_at<'g>(
    training: &Training<Device>,
    home: &candle_core::Device,
    given: Vec<(Id<'g>, &'g Tensor)>,
) -> Result<Vec<(usize, &'g Tensor)>> {
    let ordered = in_order(training.specs(), given, |id| training.sums().index(id), |_| Ok(()))?;
    for (tensor, spec) in ordered.iter().zip(training.specs()) {
        tensor.map_or(Ok(()), |t| same_device(home, t)).map_err(|e| e.in_tensor(&*spec.name))?;
    }
    Ok(ordered.into_iter().enumerate().filter_map(|(i, t)| Some((i, t?))).collect())
}

/// Calls `f` with the elements of tensors where they lie, each with its place.
pub(super) fn with_places<R: Send>(
    given: &[(usize, &Tensor)],
    f: impl FnOnce(&[(usize, Floats<'_, Device>)]) -> Result<R> + Send,
) -> Result<R> {
    let tensors: Vec<&Tensor> = given.iter().map(|(_, t)| *t).collect();
    with_views(&tensors, |views| {
        let list: Vec<_> = given.iter().map(|(i, _)| *i).zip(views.iter().copied()).collect();
        f(&list)
    })
}

/// A type as safetensors names it.
fn array_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        _ => "F32",
    }
}

fn of_array(array: Array, shape: &[usize], home: &candle_core::Device) -> Result<Tensor> {
    Ok(match array {
        Array::F32(x) => Tensor::from_vec(x, shape, home)?,
        Array::F16(x) => Tensor::from_vec(x.into_iter().map(f16::from_bits).collect::<Vec<_>>(), shape, home)?,
        Array::Bf16(x) => Tensor::from_vec(x.into_iter().map(bf16::from_bits).collect::<Vec<_>>(), shape, home)?,
        other => {
            return Err(Error::ElementType { expected: "f32, f16 or bf16 weights", got: other.dtype().to_lowercase() });
        }
    })
}
