//! NVIDIA cards: hand-written kernels from `kernels/`, launched through cudarc on the caller's stream.
//!
//! [`Cuda`] is a device, a stream and the loaded kernels. Buffers are [`cudarc::driver::CudaSlice`]; views
//! ([`View`], [`ViewMut`]) come from slices and cudarc's own views without a copy. Operations are queued and return
//! at once; only downloads, reading reports and reductions wait. Nothing is allocated in the steady state: an
//! operation that needs scratch memory keeps it in the [`Cuda`] object for the next call.
//!
//! # CUDA graphs
//!
//! After one run outside of a capture, every queued operation can be captured: tables of tensors travel by value in
//! the kernels' parameters, which the graph keeps. Two things to know. A capture freezes the draws' step too; with
//! [`Cuda::set_step_offset`] the kernels add a counter in device memory to it. And cudarc's event tracking must be
//! off in the captured context ([`cudarc::driver::CudaContext::disable_event_tracking`]), since a captured stream
//! cannot wait for events from outside.
//!
//! # Examples
//!
//! ```no_run
//! use trigrad::backend::{Backend, Memory};
//! use trigrad::cuda::Cuda;
//! use trigrad::op::{Draw, quantize::{Item, Quantize}};
//!
//! let cuda = Cuda::new(0)?;
//! let x = cuda.upload(&[0.5f32, -1.0, 0.25, 3.0])?;
//! let (mut words, mut scales) = (cuda.zeros::<u32>(2)?, cuda.zeros::<u16>(1)?);
//! let mut reports = cuda.reports(1)?;
//! let item = Item {
//!     tensor: 0,
//!     first: 0,
//!     x: Cuda::view(&x),
//!     words: Cuda::view_mut(&mut words),
//!     scales: Cuda::view_mut(&mut scales),
//!     report: 0,
//! };
//! cuda.quantize(&Quantize::stochastic(Draw::new(7, 1)), &mut [item], &mut reports)?;
//! let packed = cuda.download(Cuda::view(&words))?;
//! # Ok::<(), trigrad::Error>(())
//! ```

mod accumulate;
mod check;
mod dequantize;
mod item;
mod launch;
mod memory;
mod pack;
mod quantize;
mod read_out;
mod reduce;
mod scratch;
mod view;

pub use memory::Reports;
pub use view::{View, ViewMut};

use crate::error::{Error, Result};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use launch::{Modules, failed};
use scratch::Scratch;
use std::sync::{Arc, Mutex};

/// A device, a stream on it, and the loaded kernels.
pub struct Cuda {
    stream: Arc<CudaStream>,
    modules: Modules,
    scratch: Mutex<Scratch>,
    step_offset: Option<CudaSlice<u32>>,
    name: String,
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cuda").field("name", &self.name).field("ordinal", &self.ordinal()).finish_non_exhaustive()
    }
}

impl Cuda {
    /// Opens device `ordinal` (the first is 0) on its default stream.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] where there is no driver, no such device, or one older than compute capability 7.5.
    pub fn new(ordinal: usize) -> Result<Self> {
        let no_device = |reason: String| Error::NoDevice { backend: "cuda", reason };
        if !launch::driver_present() {
            return Err(no_device("the NVIDIA driver library (libcuda) is not installed".to_owned()));
        }
        let devices = CudaContext::device_count().map_err(|e| no_device(format!("the driver says: {e}")))?;
        if usize::try_from(devices).is_ok_and(|devices| ordinal >= devices) {
            return Err(no_device(format!("device {ordinal} was asked for, the driver has {devices}")));
        }
        let context = CudaContext::new(ordinal).map_err(|e| no_device(format!("device {ordinal}: {e}")))?;
        Self::with_stream(context.default_stream())
    }

    /// Uses the caller's stream: all work is queued there, in the order of the calls.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] for a device older than compute capability 7.5, or what the driver says when the kernels
    /// are loaded.
    pub fn with_stream(stream: Arc<CudaStream>) -> Result<Self> {
        let context = stream.context();
        let capability = context.compute_capability().map_err(failed("cuDeviceGetAttribute"))?;
        if capability < (7, 5) {
            let (major, minor) = capability;
            let reason = format!("compute capability {major}.{minor} is below 7.5");
            return Err(Error::NoDevice { backend: "cuda", reason });
        }
        let name = format!("cuda:{} ({})", context.ordinal(), context.name().map_err(failed("cuDeviceGetName"))?);
        let modules = Modules::load(context)?;
        Ok(Cuda { stream, modules, scratch: Mutex::default(), step_offset: None, name })
    }

    /// The stream that work is queued on.
    #[must_use]
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The device's number.
    #[must_use]
    pub fn ordinal(&self) -> usize {
        self.stream.context().ordinal()
    }

    /// Adds a counter in device memory to the step of every later draw: `step + counter[0]`, wrapping, read when a
    /// kernel runs. A captured graph draws anew in each replay if the counter is changed in between. `None` turns it
    /// off and gives the counter back.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] for a counter of no elements, [`Error::WrongDevice`] for one from another context. The
    /// counter in use then stays.
    pub fn set_step_offset(&mut self, counter: Option<CudaSlice<u32>>) -> Result<Option<CudaSlice<u32>>> {
        if let Some(counter) = &counter {
            self.same_context(counter.context())?;
            if counter.is_empty() {
                return Err(Error::Length { what: "step counter", expected: 1, got: 0 });
            }
        }
        Ok(std::mem::replace(&mut self.step_offset, counter))
    }

    /// Waits until everything queued has run.
    ///
    /// # Errors
    ///
    /// What the device reports, an asynchronous fault included.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed("cuStreamSynchronize"))
    }

    fn same_context(&self, got: &Arc<CudaContext>) -> Result<()> {
        let own = self.stream.context();
        if own == got {
            return Ok(());
        }
        let describe = |c: &CudaContext| format!("cuda:{} in context {:p}", c.ordinal(), c.cu_ctx());
        Err(Error::WrongDevice { expected: describe(own), got: describe(got) })
    }
}
