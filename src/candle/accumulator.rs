//! Gradient accumulation for a candle model.

use super::storage::{Shared, device, float, tensor, with_views};
use crate::accumulator::{Accumulator, Config, Floats, Id, Reduce, Spec};
use crate::device::{Buffer, Device, ViewMut};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::op::Element;
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_nn::VarMap;
use half::{bf16, f16};
use std::collections::HashMap;

/// The gradients of a model, accumulated over micro-batches where they lie; read out, they feed any optimizer.
///
/// # Examples
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{AdamW, Module, Optimizer, VarBuilder, VarMap};
/// use trigrad::accumulator::{Config, Reduce};
/// use trigrad::candle::GradientAccumulator;
///
/// let vars = VarMap::new();
/// let layer = candle_nn::linear(4, 2, VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))?;
/// let mut adam = AdamW::new_lr(vars.all_vars(), 1e-3)?;
/// let mut gradients = GradientAccumulator::from_varmap(&vars, Config::default())?;
/// for _ in 0..8 {
///     let x = Tensor::randn(0f32, 1.0, (16, 4), &Device::Cpu)?;
///     let loss = layer.forward(&x)?.sqr()?.mean_all()?;
///     gradients.accumulate(&loss.backward()?, 1.0)?;
/// }
/// adam.step(&gradients.read_out_store(Reduce::Mean)?)?;
/// gradients.reset()?;
/// # Ok::<(), trigrad::Error>(())
/// ```
pub struct GradientAccumulator {
    inner: Accumulator<Device>,
    home: candle_core::Device,
    dtypes: Vec<DType>,
    /// The variables the tensors belong to, in order; empty where only shapes were given.
    vars: Vec<Var>,
    #[cfg(feature = "wgpu")]
    uploads: super::wgpu::Uploads,
}

impl std::fmt::Debug for GradientAccumulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GradientAccumulator").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl GradientAccumulator {
    /// An accumulator for named shapes on a device; read-outs are f32.
    ///
    /// # Errors
    ///
    /// As for [`Accumulator::new`]; [`Error::NoDevice`] for a device this build has no backend for.
    pub fn new(tensors: &[Spec], config: Config, home: &candle_core::Device) -> Result<Self> {
        let inner = Accumulator::new(device(home)?, tensors, config)?;
        Ok(GradientAccumulator {
            inner,
            home: home.clone(),
            dtypes: vec![DType::F32; tensors.len()],
            vars: Vec::new(),
            #[cfg(feature = "wgpu")]
            uploads: super::wgpu::Uploads::default(),
        })
    }

    /// An accumulator for named variables, in this order, on their device; read-outs have their types.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new); [`Error::ElementType`] for a variable that is not f32, f16 or bf16;
    /// [`Error::WrongDevice`] for one on another device than the first; [`Error::SharedMemory`] for tied weights: one
    /// variable, or the same memory, under two names.
    pub fn from_vars(vars: &[(String, Var)], config: Config) -> Result<Self> {
        Self::of_vars(vars, config, None)
    }

    fn of_vars(vars: &[(String, Var)], config: Config, on: Option<Device>) -> Result<Self> {
        let home = home(vars)?;
        super::in_place::separate(vars)?;
        let specs: Vec<Spec> = vars.iter().map(|(name, var)| Spec::new(name, var.dims())).collect();
        let on = on.map_or_else(|| device(&home), Ok)?;
        Ok(GradientAccumulator {
            inner: Accumulator::new(on, &specs, config)?,
            home,
            dtypes: vars.iter().map(|(_, var)| var.dtype()).collect(),
            vars: vars.iter().map(|(_, var)| var.clone()).collect(),
            #[cfg(feature = "wgpu")]
            uploads: super::wgpu::Uploads::default(),
        })
    }

    /// An accumulator for all variables of a map, in the order of their names.
    ///
    /// # Errors
    ///
    /// As for [`from_vars`](Self::from_vars).
    pub fn from_varmap(map: &VarMap, config: Config) -> Result<Self> {
        Self::from_vars(&by_name(map), config)
    }

    /// The same for variables on the CPU, accumulated on a GPU that candle does not know: each gradient is uploaded
    /// once, through staging buffers and into buffers that are kept; levels and scales stay on the GPU; a read-out is
    /// downloaded once. Variables on candle's Metal device come by way of the CPU (this has not been run on a Mac).
    ///
    /// # Errors
    ///
    /// As for [`from_vars`](Self::from_vars).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use trigrad::{accumulator::Config, candle::GradientAccumulator, webgpu::Wgpu};
    /// let vars = candle_nn::VarMap::new();
    /// let gradients = GradientAccumulator::from_varmap_on_wgpu(&vars, Config::default(), Wgpu::new()?)?;
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    #[cfg(feature = "wgpu")]
    pub fn from_varmap_on_wgpu(map: &VarMap, config: Config, gpu: crate::webgpu::Wgpu) -> Result<Self> {
        Self::of_vars(&by_name(map), config, Some(gpu.into()))
    }

    /// Adds `weight` times the gradients of one micro-batch: a `GradStore` (of an accumulator made from variables), or
    /// a map of names to tensors.
    ///
    /// # Errors
    ///
    /// As for [`Accumulator::accumulate`]; [`Error::Shape`] or [`Error::ElementType`] within the tensor. The state is
    /// then as it was. Where more than one thing is wrong, an unknown name comes first; then, tensor by tensor in the
    /// order of the list, what is missing or has the wrong shape or type; then [`Error::NonFinite`].
    pub fn accumulate<G: Gradients + ?Sized>(&mut self, gradients: &G, weight: f32) -> Result<()> {
        let tensors = self.in_order(gradients)?;
        let inner = &mut self.inner;
        #[cfg(feature = "wgpu")]
        let gpu = if let Device::Wgpu(gpu) = inner.backend() { Some(gpu.clone()) } else { None };
        let add = |views: &[Floats<'_, Device>]| {
            let list: Vec<(Id<'_>, Floats<'_, Device>)> =
                views.iter().enumerate().map(|(i, v)| (Id::Index(i), *v)).collect();
            inner.accumulate(&list, weight)
        };
        #[cfg(feature = "wgpu")]
        if let Some(gpu) = gpu {
            return self.uploads.with(&gpu, &tensors, add);
        }
        with_views(&tensors, add)
    }

    /// The sum or mean of every tensor, by name, on the device.
    ///
    /// # Errors
    ///
    /// As for [`Accumulator::read_out`].
    pub fn read_out(&self, reduce: Reduce) -> Result<HashMap<String, Tensor>> {
        let tensors = self.read_out_in_order(reduce)?;
        Ok(self.inner.specs().iter().map(|spec| spec.name.clone()).zip(tensors).collect())
    }

    /// The same as a `GradStore` for an optimizer over the variables.
    ///
    /// # Errors
    ///
    /// As for [`read_out`](Self::read_out); [`Error::NoVariable`] where only shapes were given.
    pub fn read_out_store(&self, reduce: Reduce) -> Result<GradStore> {
        if let (true, Some(spec)) = (self.vars.is_empty(), self.inner.specs().first()) {
            return Err(Error::NoVariable { tensor: spec.name.clone() });
        }
        let mut store = GradStore::default();
        for (var, gradient) in self.vars.iter().zip(self.read_out_in_order(reduce)?) {
            store.insert(var, gradient);
        }
        Ok(store)
    }

    /// Empties the accumulator and starts the next window.
    ///
    /// # Errors
    ///
    /// As for [`Accumulator::reset`].
    pub fn reset(&mut self) -> Result<()> {
        self.inner.reset()
    }

    /// The accumulator underneath: counts, reports, bytes, norms.
    #[must_use]
    pub const fn inner(&self) -> &Accumulator<Device> {
        &self.inner
    }

    /// The accumulator underneath: micro-batch index, scales, merging.
    #[must_use]
    pub const fn inner_mut(&mut self) -> &mut Accumulator<Device> {
        &mut self.inner
    }

    /// The gradients in the order of the tensors, every one there, of the right shape, and of floats.
    pub(crate) fn in_order<'g, G: Gradients + ?Sized>(&self, gradients: &'g G) -> Result<Vec<&'g Tensor>> {
        let missing = |spec: &Spec| Err(Error::MissingTensor { name: spec.name.clone() });
        let given = gradients.given(&self.vars);
        let ordered = in_order(self.inner.specs(), given, |id| self.inner.index(id), missing)?;
        Ok(ordered.into_iter().flatten().collect())
    }

    fn read_out_in_order(&self, reduce: Reduce) -> Result<Vec<Tensor>> {
        self.inner.checked()?; // once for all types: it waits for the device
        let mut tensors: Vec<(usize, Tensor)> = self.read_type::<f32>(reduce)?;
        tensors.extend(self.read_type::<f16>(reduce)?);
        tensors.extend(self.read_type::<bf16>(reduce)?);
        tensors.sort_by_key(|(i, _)| *i);
        Ok(tensors.into_iter().map(|(_, t)| t).collect())
    }

    fn read_type<T: Element + Shared>(&self, reduce: Reduce) -> Result<Vec<(usize, Tensor)>> {
        let specs = self.inner.specs();
        let mut buffers: Vec<(usize, Buffer<T>)> = Vec::new();
        for (i, _) in self.dtypes.iter().enumerate().filter(|(_, d)| **d == T::DTYPE) {
            buffers.push((i, self.inner.backend().zeros(specs[i].elements()?)?));
        }
        if !buffers.is_empty() {
            let mut outputs: Vec<(usize, ViewMut<'_, T>)> =
                buffers.iter_mut().map(|(i, b)| (*i, Device::view_mut(b))).collect();
            self.inner.read_out_marked(reduce, &mut outputs)?;
        }
        let held = |b: Buffer<T>| -> Result<Buffer<T>> {
            match b {
                // candle cannot hold it where it lies.
                #[cfg(feature = "wgpu")]
                Buffer::Wgpu(_) => self.inner.backend().download(Device::view(&b)).map(Buffer::Cpu),
                other => Ok(other),
            }
        };
        buffers.into_iter().map(|(i, b)| Ok((i, tensor(held(b)?, &specs[i].shape, &self.home)?))).collect()
    }
}

/// Gradients in the order of the tensors, those that are there: first every name is looked up; then, tensor by tensor,
/// what is there must be of the right shape and of floats, and `missing` says whether it may be missing.
pub(crate) fn in_order<'g>(
    specs: &[Spec],
    given: Vec<(Id<'g>, &'g Tensor)>,
    index: impl Fn(Id<'g>) -> Result<usize>,
    missing: impl Fn(&Spec) -> Result<()>,
) -> Result<Vec<Option<&'g Tensor>>> {
    let mut ordered: Vec<Option<&Tensor>> = vec![None; specs.len()];
    for (id, tensor) in given {
        ordered[index(id)?] = Some(tensor);
    }
    for (tensor, spec) in ordered.iter().zip(specs) {
        let Some(tensor) = tensor else {
            missing(spec)?;
            continue;
        };
        if tensor.dims() != spec.shape {
            let shape = Error::Shape { expected: spec.shape.clone(), got: tensor.dims().to_vec() };
            return Err(shape.in_tensor(&*spec.name));
        }
        float(tensor.dtype()).map_err(|e| e.in_tensor(&*spec.name))?;
    }
    Ok(ordered)
}

/// The device of variables, which must be of floats and all on the same; the CPU where there are none.
pub(crate) fn home(vars: &[(String, Var)]) -> Result<candle_core::Device> {
    let home = vars.first().map_or(candle_core::Device::Cpu, |(_, var)| var.device().clone());
    for (name, var) in vars {
        float(var.dtype()).map_err(|e| e.in_tensor(name))?;
        same_device(&home, var).map_err(|e| e.in_tensor(name))?;
    }
    Ok(home)
}

/// Checks that a tensor is on a device.
pub(crate) fn same_device(home: &candle_core::Device, tensor: &Tensor) -> Result<()> {
    if home.same_device(tensor.device()) {
        return Ok(());
    }
    let (expected, got) = (format!("{:?}", home.location()), format!("{:?}", tensor.device().location()));
    Err(Error::WrongDevice { expected, got })
}

/// The variables of a map in the order of their names.
pub(crate) fn by_name(map: &VarMap) -> Vec<(String, Var)> {
    let data = map.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut vars: Vec<(String, Var)> = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    drop(data);
    vars.sort_by(|a, b| a.0.cmp(&b.0));
    vars
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::collections::HashMap<String, candle_core::Tensor> {}
    impl Sealed for candle_core::backprop::GradStore {}
}

/// Where gradients come from: a `GradStore`, or a map of names to tensors.
pub trait Gradients: sealed::Sealed {
    /// Whether candle's backward pass made them.
    #[doc(hidden)]
    fn of_a_backward_pass(&self) -> bool;

    /// The gradients that are there, for the variables of a model in order.
    #[doc(hidden)]
    fn given<'g>(&'g self, vars: &[Var]) -> Vec<(Id<'g>, &'g Tensor)>;
}

impl Gradients for HashMap<String, Tensor> {
    fn of_a_backward_pass(&self) -> bool {
        false
    }

    fn given<'g>(&'g self, _: &[Var]) -> Vec<(Id<'g>, &'g Tensor)> {
        let mut given: Vec<(&String, &Tensor)> = self.iter().collect();
        given.sort_unstable_by_key(|(name, _)| *name); // the first error is then the same in every run
        given.into_iter().map(|(name, tensor)| (Id::Name(name), tensor)).collect()
    }
}

impl Gradients for GradStore {
    fn of_a_backward_pass(&self) -> bool {
        true
    }

    fn given<'g>(&'g self, vars: &[Var]) -> Vec<(Id<'g>, &'g Tensor)> {
        vars.iter().enumerate().filter_map(|(i, var)| Some((Id::Index(i), self.get(var)?))).collect()
    }
}
