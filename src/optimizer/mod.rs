//! Training on candle: a whole model's gradients, held in a few bits from the backward pass to the weight update.
//!
//! [`ModelGradients`] takes the gradients of each micro-batch. What it holds then goes to the weights either through
//! any `candle_nn` optimizer ([`ModelGradients::step`]), or through a [`FusedOptimizer`], which reads levels and
//! scales straight into the update, so that a dense gradient never exists. [`Accumulated`] is the same behind candle's
//! `Optimizer` trait: a training loop changes by one line.
//!
//! # Examples
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{Module, ParamsAdamW, VarBuilder, VarMap};
//! use trigrad::optimizer::{FusedOptimizer, ModelGradients, Options};
//!
//! let vars = VarMap::new();
//! let layer = candle_nn::linear(64, 32, VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))?;
//! let mut gradients = ModelGradients::from_varmap(&vars, Options { small: 64, ..Options::default() })?;
//! let mut adam = FusedOptimizer::adamw(&gradients, ParamsAdamW::default())?;
//! for micro_batch in 0..16 {
//!     let x = Tensor::randn(0f32, 1.0, (16, 64), &Device::Cpu)?;
//!     let loss = layer.forward(&x)?.sqr()?.mean_all()?;
//!     gradients.consume(gradients.scale_loss(&loss)?.backward()?, 1.0)?;
//!     if gradients.count() == 8 {
//!         adam.step(&mut gradients)?;
//!     }
//! }
//! println!("{}", gradients.summary());
//! # Ok::<(), trigrad::Error>(())
//! ```

mod accumulate;
mod checkpoint;
mod feedback;
mod fused;
mod in_place;
mod loss_scale;
mod options;
mod read;
mod summary;
mod wrapper;

pub use fused::FusedOptimizer;
pub use loss_scale::LossScale;
pub use options::Options;
pub use summary::{Row, Summary};
pub use wrapper::{Accumulated, AccumulatedConfig};

use crate::accumulator::{Accumulator, BEING_WRITTEN, Spec};
use crate::candle::storage::device;
use crate::device::{Device, Reports};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::op::Report;
use candle_core::{DType, Tensor, Var};
use candle_nn::VarMap;

/// The gradients of a model over a window of micro-batches; see the [module](self).
pub struct ModelGradients {
    options: Options,
    device: Device,
    home: candle_core::Device,
    specs: Vec<Spec>,
    dtypes: Vec<DType>,
    /// The variables, in order; empty where only shapes were given.
    vars: Vec<Var>,
    /// Where each tensor is held.
    places: Vec<Place>,
    packed: Option<Accumulator<Device>>,
    residual: Option<Accumulator<Device>>,
    /// Sums of the tensors kept in f32, added to in place.
    dense: Vec<Tensor>,
    /// What was found in the tensors kept in f32, one slot each.
    dense_reports: Reports,
    /// What a checkpoint said was found there.
    dense_loaded: Vec<Report>,
    window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The number in the accumulator.
    Packed(usize),
    /// The number among the tensors kept in f32.
    Dense(usize),
}

/// Where the window stands.
#[derive(Clone, Debug, Default, PartialEq)]
struct Window {
    step: u32,
    micro_batch: u32,
    held: u32,
    weights: f64,
    skipped: u64,
    refused: Option<String>,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The weights were updated.
    Updated {
        /// The global norm of the mean gradient before clipping, where clipping is on.
        norm: Option<f64>,
        /// What the gradient was multiplied by to clip it: 1 where it was not.
        clip: f64,
    },
    /// The window had NaN, Inf or magnitudes of 2^126 and above, and was dropped: no weight or moment was touched, and
    /// a dynamic loss scale was lowered.
    Skipped {
        /// The first tensor in which they were found.
        tensor: String,
        /// How many there were in it.
        non_finite: u64,
    },
}

impl Outcome {
    /// Whether the weights were updated.
    #[must_use]
    pub const fn updated(&self) -> bool {
        matches!(self, Outcome::Updated { .. })
    }
}

impl ModelGradients {
    /// For named shapes on a device; read-outs are f32, by name.
    ///
    /// # Errors
    ///
    /// As for [`Accumulator::new`]; [`Error::BitWidth`] or [`Error::Parameter`] for what [`Options`] say;
    /// [`Error::NoDevice`] for a device this build has no backend for.
    pub fn new(tensors: &[Spec], options: Options, home: &candle_core::Device) -> Result<Self> {
        Self::build(tensors.to_vec(), vec![DType::F32; tensors.len()], Vec::new(), options, home)
    }

    /// For named variables, in this order, on their device; read-outs have their types.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new); [`Error::ElementType`] for a variable that is not f32, f16 or bf16;
    /// [`Error::WrongDevice`] for one on another device than the first.
    pub fn from_vars(vars: &[(String, Var)], options: Options) -> Result<Self> {
        let home = crate::candle::home(vars)?;
        let specs = vars.iter().map(|(name, var)| Spec::new(name, var.dims())).collect();
        let dtypes = vars.iter().map(|(_, var)| var.dtype()).collect();
        Self::build(specs, dtypes, vars.iter().map(|(_, var)| var.clone()).collect(), options, &home)
    }

    /// For all variables of a map, in the order of their names.
    ///
    /// # Errors
    ///
    /// As for [`from_vars`](Self::from_vars).
    pub fn from_varmap(map: &VarMap, options: Options) -> Result<Self> {
        Self::from_vars(&crate::candle::by_name(map), options)
    }

    fn build(
        specs: Vec<Spec>,
        dtypes: Vec<DType>,
        vars: Vec<Var>,
        options: Options,
        home: &candle_core::Device,
    ) -> Result<Self> {
        options.validate()?;
        let device = device(home)?;
        let (mut places, mut packed, mut dense) = (Vec::new(), Vec::new(), Vec::new());
        let mut names = std::collections::HashSet::new();
        for spec in &specs {
            if !names.insert(&spec.name) {
                return Err(Error::DuplicateTensor { name: spec.name.clone() });
            }
            if options.keeps_f32(&spec.name, spec.elements()?) {
                places.push(Place::Dense(dense.len()));
                dense.push(Tensor::zeros(spec.shape.as_slice(), DType::F32, home)?);
            } else {
                places.push(Place::Packed(packed.len()));
                packed.push(spec.clone());
            }
        }
        let make = |config| {
            if packed.is_empty() { Ok(None) } else { Accumulator::new(device.clone(), &packed, config).map(Some) }
        };
        let residual = match options.residual_config() {
            Some(config) => make(config)?,
            None => None,
        };
        Ok(ModelGradients {
            packed: make(options.config)?,
            residual,
            dense_reports: device.reports(dense.len())?,
            dense_loaded: vec![Report::default(); dense.len()],
            dense,
            options,
            device,
            home: home.clone(),
            specs,
            dtypes,
            vars,
            places,
            window: Window::default(),
        })
    }

    /// The choices; the loss scale in them moves with the training.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// The tensors, in order.
    #[must_use]
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }

    /// Micro-batches in this window.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.window.held
    }

    /// The sum of the weights of this window.
    #[must_use]
    pub const fn weights(&self) -> f64 {
        self.window.weights
    }

    /// The number of this window: steps taken and skipped before it.
    #[must_use]
    pub const fn window(&self) -> u32 {
        self.window.step
    }

    /// Windows that were skipped.
    #[must_use]
    pub const fn skipped(&self) -> u64 {
        self.window.skipped
    }

    /// The accumulator underneath; `None` where every tensor is kept in f32.
    #[must_use]
    pub const fn packed(&self) -> Option<&Accumulator<Device>> {
        self.packed.as_ref()
    }

    /// Sets the index that the next micro-batch draws under, where workers share a step and a seed: the global number
    /// of the micro-batch. With the same index they draw the same numbers for the same tensor.
    pub fn set_micro_batch(&mut self, index: u32) {
        self.window.micro_batch = index;
        for accumulator in [&mut self.packed, &mut self.residual].into_iter().flatten() {
            accumulator.set_micro_batch(index);
        }
    }

    /// Drops what was accumulated and starts the next window. What rounding lost ([`Options::residual_bits`]) is
    /// carried on, except where the window was refused.
    ///
    /// # Errors
    ///
    /// What the device reports; the window is then refused until a reset succeeds.
    pub fn reset(&mut self) -> Result<()> {
        let step = self.window.step.wrapping_add(1);
        let refused = self.window.refused.is_some();
        self.being_written();
        let cleared = self.clear_to(step, refused);
        self.refuse_on_error(cleared)?;
        self.window = Window { step, skipped: self.window.skipped, ..Window::default() };
        Ok(())
    }

    fn clear_to(&mut self, step: u32, refused: bool) -> Result<()> {
        if let Some(packed) = &mut self.packed {
            packed.reset_to(step)?;
        }
        if let Some(residual) = &mut self.residual {
            if refused { residual.reset_to(step)? } else { residual.carry_to(step)? }
        }
        if self.window.held > 0 || refused {
            self.dense = self.dense.iter().map(Tensor::zeros_like).collect::<candle_core::Result<_>>()?;
        }
        self.device.clear_reports(&mut self.dense_reports)?;
        self.dense_loaded.fill(Report::default());
        Ok(())
    }

    /// Before anything is written: packed and f32 sums, reports and weights are written one after the other, and are
    /// out of step if a call fails or panics in between. The window is refused until the call ends well.
    fn being_written(&mut self) {
        self.window.refused = Some(BEING_WRITTEN.to_owned());
    }

    /// After a call that [writes](Self::being_written): a failure is the reason to refuse, if anything was written.
    fn refuse_on_error<T>(&mut self, result: Result<T>) -> Result<T> {
        match (&result, &mut self.window.refused) {
            (Ok(_), refused) => *refused = None,
            (Err(e), Some(reason)) => *reason = e.to_string(),
            (Err(_), None) => {}
        }
        result
    }

    fn usable(&self) -> Result<()> {
        match &self.window.refused {
            Some(reason) => Err(Error::Refused { reason: reason.clone() }),
            None => Ok(()),
        }
    }
}
