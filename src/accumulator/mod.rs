//! Accumulators: the sum of a window of micro-batches, for every tensor of a model, in 2 to 32 bits an element.
//!
//! A *window* is what lies between two resets: the micro-batches of one optimizer step. Each
//! [`accumulate`](Accumulator::accumulate) adds one micro-batch of gradients, for all tensors, in one call of the
//! backend for each format and element type; [`read_out`](Accumulator::read_out) gives the sum or mean; and
//! [`reset`](Accumulator::reset) starts the next window.
//!
//! A tensor may name a [`Format`] of its own ([`Spec::format`]): small ones are best held in [`Format::F32`] beside
//! adaptive sums, or in [`Format::Exact`] of 32 bits beside exact counts.
//!
//! The bits depend on the gradients, the weights, the seed, the step, the micro-batch index and the order of the
//! tensors, and on nothing else: not on the backend, threads or launch shape.
//!
//! A micro-batch may also come in parts ([`begin_micro_batch`](Accumulator::begin_micro_batch),
//! [`add_part`](Accumulator::add_part), [`finish_micro_batch`](Accumulator::finish_micro_batch)), so that a gradient can
//! be freed as soon as it is there: the bits are those of the whole micro-batch, in any order of the parts.
//!
//! An error leaves the accumulator as it was. If the device itself fails in a call that writes, or the call panics, the
//! window is refused until reset ([`Error::Refused`]): it can not be read half-updated.
//!
//! # Examples
//!
//! ```
//! use trigrad::accumulator::{Accumulator, Config, Reduce, Spec};
//! use trigrad::cpu::Cpu;
//!
//! let tensors = [Spec::new("weight", [2, 3]), Spec::new("bias", [2])];
//! let mut sum = Accumulator::new(Cpu::default(), &tensors, Config::default())?;
//! for micro_batch in 0..8 {
//!     let weight: Vec<f32> = (0..6).map(|i| (i + micro_batch) as f32).collect();
//!     let bias = [0.5f32, -0.5];
//!     sum.accumulate(&[("weight", weight[..].into()), ("bias", bias[..].into())], 1.0)?;
//! }
//! let mean: Vec<f32> = sum.to_vec("bias", Reduce::Mean)?;
//! assert!((mean[0] - 0.5).abs() < 0.1);
//! sum.reset()?;
//! # Ok::<(), trigrad::Error>(())
//! ```

mod accumulate;
mod config;
mod gradients;
mod merge;
mod norm;
mod one;
mod parts;
mod read;
mod some;
mod state;
mod tensor;

pub(crate) use config::format_text;
pub use config::{Config, Format, NonFinite, Reduce, Scales, Spec};
#[cfg(feature = "candle")]
pub(crate) use gradients::Typed;
pub use gradients::{Floats, Id};
pub(crate) use some::valid_adaptive;
pub use state::{State, TensorState};
pub use tensor::Held;

use crate::error::{Error, Result};
use crate::op::window::{WindowScales, WindowScalesItem};
use crate::op::{Backend, Draw, Report};
use parts::Parts;
use std::collections::HashMap;
use tensor::{Cleared, Sum, Tensor};

/// The sum of a window of micro-batches for a list of named tensors; see the [module](self).
pub struct Accumulator<B: Backend> {
    backend: B,
    config: Config,
    specs: Vec<Spec>,
    names: HashMap<String, usize>,
    /// The formats of the tensors, each once.
    formats: Vec<Format>,
    tensors: Vec<Tensor<B>>,
    /// What the window found, one slot a tensor.
    reports: B::Reports,
    /// What a pass that does not write found: checks, and scales compared.
    scan: B::Reports,
    /// What merged windows found, one a tensor.
    merged: Vec<Report>,
    window: Window,
    /// The micro-batch that is open, of which parts come one by one.
    parts: Option<Parts>,
    /// Whether the call that writes has written: see [`Accumulator::write`].
    written: bool,
}

/// Why a window is refused that is being written, until the call that writes it returns.
pub(crate) const BEING_WRITTEN: &str = "a call that wrote to the state did not return";

/// Where the window stands.
#[derive(Clone, Debug, Default)]
struct Window {
    step: u32,
    micro_batch: u32,
    held: u32,
    weights: f64,
    refused: Option<String>,
}

impl<B: Backend> std::fmt::Debug for Accumulator<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accumulator")
            .field("device", &self.backend.name())
            .field("config", &self.config)
            .field("tensors", &self.specs)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Accumulator<B> {
    /// An empty accumulator at step 0. The order of the tensors is part of what the draws depend on.
    ///
    /// # Errors
    ///
    /// What [`Config::validate`] and [`Format::validate`] say; [`Error::Parameter`] for an empty list;
    /// [`Error::DuplicateTensor`]; [`Error::Conflict`] for exact counts beside other formats; [`Error::Limit`] for a
    /// tensor above 2^37 elements; [`Error::OutOfMemory`] or what the device reports.
    pub fn new(backend: B, tensors: &[Spec], config: Config) -> Result<Self> {
        config.validate()?;
        if tensors.is_empty() {
            return Err(Error::Parameter { name: "tensors", got: 0.0, requirement: "at least 1" });
        }
        if u32::try_from(tensors.len()).is_err() {
            return Err(Error::Limit { what: "tensors", got: tensors.len() as u64, limit: u64::from(u32::MAX) });
        }
        let mut names = HashMap::with_capacity(tensors.len());
        for (i, spec) in tensors.iter().enumerate() {
            if names.insert(spec.name.clone(), i).is_some() {
                return Err(Error::DuplicateTensor { name: spec.name.clone() });
            }
        }
        let formats = config::formats(tensors, &config)?;
        let held = tensors.iter().map(|spec| Tensor::new(&backend, spec, &config)).collect::<Result<_>>()?;
        Ok(Accumulator {
            reports: backend.reports(tensors.len())?,
            scan: backend.reports(tensors.len())?,
            merged: vec![Report::default(); tensors.len()],
            backend,
            config,
            specs: tensors.to_vec(),
            names,
            formats,
            tensors: held,
            window: Window::default(),
            parts: None,
            written: false,
        })
    }

    /// The backend this lives on.
    #[must_use]
    pub const fn backend(&self) -> &B {
        &self.backend
    }

    /// The choices it was made with.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The tensors, in order.
    #[must_use]
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }

    /// The optimizer step of this window: the number of resets, unless set.
    #[must_use]
    pub const fn step(&self) -> u32 {
        self.window.step
    }

    /// The index that the next micro-batch draws under.
    #[must_use]
    pub const fn micro_batch(&self) -> u32 {
        self.window.micro_batch
    }

    /// Sets the index that the next micro-batch draws under, below 2^24 (checked when it is added); each one after it
    /// takes the next. Workers that share a step need indices of their own: the global number of the micro-batch.
    pub const fn set_micro_batch(&mut self, index: u32) {
        self.window.micro_batch = index;
    }

    /// Micro-batches in this window, merged ones included.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.window.held
    }

    /// The sum of the weights of this window.
    #[must_use]
    pub const fn weights(&self) -> f64 {
        self.window.weights
    }

    /// Bytes of the buffers that hold levels, scales, maxima and floats, from the buffers themselves.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.tensors.iter().map(Tensor::bytes).sum()
    }

    /// Elements of all tensors.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.len as u64).sum()
    }

    /// What is held of a tensor, where it lies. Unchecked: a marked window can be seen through it.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`] or [`Error::Refused`].
    pub fn held<'i>(&self, id: impl Into<Id<'i>>) -> Result<Held<'_, B>> {
        let tensor = &self.tensors[self.index(id)?];
        self.usable()?;
        Ok(tensor.held())
    }

    /// What was found in this window, one report a tensor, in order; waits for the device.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn reports(&self) -> Result<Vec<Report>> {
        let mut found = self.backend.read_reports(&self.reports)?;
        for (report, merged) in found.iter_mut().zip(&self.merged) {
            report.merge(*merged);
        }
        Ok(found)
    }

    /// Empties the accumulator and starts the next window: the step goes up by 1 (after 2^32 - 1 comes 0), the
    /// micro-batch index back to 0. Under [`Scales::LastWindow`] the maxima of the window that ends become scales; a block
    /// that was not seen keeps the one it had.
    ///
    /// # Errors
    ///
    /// What the device reports; the accumulator is then refused until a reset succeeds.
    pub fn reset(&mut self) -> Result<()> {
        self.reset_to(self.window.step.wrapping_add(1))
    }

    /// The same as [`reset`](Self::reset), to a given step.
    ///
    /// # Errors
    ///
    /// As for [`reset`](Self::reset).
    pub fn reset_to(&mut self, step: u32) -> Result<()> {
        let refused = self.window.refused.is_some();
        self.write(|this| this.clear(refused))?;
        self.window = Window { step, ..Window::default() };
        self.parts = None;
        self.merged.fill(Report::default());
        Ok(())
    }

    fn clear(&mut self, refused: bool) -> Result<()> {
        self.written = true;
        if !refused {
            for format in self.formats.clone() {
                self.next_scales(format)?;
            }
        }
        Cleared::clear(&self.backend, &mut self.tensors, refused)?;
        self.backend.clear_reports(&mut self.reports)
    }

    /// The scales of the next window from the maxima of this one, for the tensors of a format that takes them so.
    fn next_scales(&mut self, format: Format) -> Result<()> {
        let Format::Exact { bits, scales: Scales::LastWindow { headroom } } = format else { return Ok(()) };
        let mut items = Vec::new();
        for tensor in self.tensors.iter_mut().filter(|t| t.format == format) {
            if let Sum::Exact { scales, seen, .. } = &mut tensor.sum {
                items.push(WindowScalesItem { seen: B::view(seen), scales: B::view_mut(scales) });
            }
        }
        self.backend.window_scales(&WindowScales { headroom, bits }, &mut items)
    }

    /// What the micro-batch that is open draws under, or the next.
    pub(crate) fn draw(&self) -> Draw {
        let index = self.parts.as_ref().map_or(self.window.micro_batch, Parts::index);
        Draw::new(self.config.seed, self.window.step).micro_batch(index)
    }

    /// Whether the window can be used, and holds whole micro-batches only.
    pub(crate) fn usable(&self) -> Result<()> {
        self.not_refused()?;
        self.whole()
    }

    fn not_refused(&self) -> Result<()> {
        match &self.window.refused {
            Some(reason) => Err(Error::Refused { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Writes to the state of a usable window, or resets it. If the work fails after it may have written, or does not
    /// return at all because it panics, the window is no longer what it says it is, and is refused.
    ///
    /// `work` sets `written` once a call has written: until then a call that was refused by what it was
    /// given, and so never ran, leaves the window as it was.
    fn write<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = self.window.refused.replace(BEING_WRITTEN.to_owned());
        self.written = false;
        let result = work(self);
        self.window.refused = match &result {
            Ok(_) => None,
            Err(e) if !self.written && never_ran(e) => before,
            Err(e) => Some(e.to_string()),
        };
        result
    }
}

/// Whether an error says that a call was refused by what it was given: such a call never ran.
fn never_ran(e: &Error) -> bool {
    !matches!(e.root(), Error::Backend { .. } | Error::OutOfMemory { .. } | Error::Refused { .. })
}
