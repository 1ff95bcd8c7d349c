//! The CUDA backend: hand-written kernels on NVIDIA cards of compute capability 7.5 and above, through cudarc.
//!
//! | file | what |
//! |---|---|
//! | `launch.rs`, `view.rs`, `pool.rs` | the launch floor: all `unsafe` of this backend |
//! | `item.rs`, `draw.rs`, `modules.rs`, `scratch.rs`, `error.rs` | tables of tensors, draws, kernels, scratch memory, driver errors |
//! | `memory.rs` | buffers are `CudaSlice<T>`, transfers are queued |
//! | `quantize.rs`, `dequantize.rs`, `accumulate.rs`, `read_out.rs`, `check.rs`, `pack.rs`, `reduce.rs`, `update.rs` | one file an operation: checks, and its launch; the kernels are in `kernels/`, under the same names |
//!
//! Operations are queued on one stream and return at once; only downloads, reading reports and the reductions that
//! return a number wait. Nothing is copied to the device for a launch: a list of tensors travels in the kernel's
//! parameters.
//!
//! # Streams
//!
//! Views of buffers that live on other streams of the same context are ordered by cudarc's events. In a context with
//! one stream there are none to record, which is the fastest.
//!
//! # Graph capture
//!
//! Quantize, dequantize, accumulate, look, window scales, merge, read out, check, the updates, and the transfers within the
//! device neither wait nor allocate once they have run with the same sizes, so a stream may capture them and replay the
//! graph on the same buffers. The operations become kernels and fills (a copy is a copy), whose number does not grow with
//! the list, up to 380 tensors (`tests/cuda_graph.rs`).
//! The caller must
//!
//! 1. use a stream that can be captured ([`Cuda::with_stream`]; the default stream cannot),
//! 2. run the same calls once before, so that kernels are loaded and scratch memory is there,
//! 3. have the context's event tracking off while capturing ([`cudarc::driver::CudaContext::disable_event_tracking`]):
//!    a captured stream may not wait for events from outside; order between streams is the caller's then,
//! 4. keep the buffers and the [`Cuda`] for as long as the graph is replayed.
//!
//! A capture freezes the step of the draws; with [`Cuda::set_step_offset`] kernels add a counter to it.

mod accumulate;
mod check;
mod dequantize;
mod draw;
mod error;
mod item;
mod launch;
mod memory;
mod modules;
mod pack;
mod pool;
mod quantize;
mod read_out;
mod reduce;
mod scratch;
mod update;
mod view;
mod window;

pub use memory::Reports;
pub use pool::InUse;
pub use view::{View, ViewMut};

use crate::error::{Error, Result};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DriverError};
use error::Driver;
use modules::Kernels;
use std::sync::{Arc, Mutex};

/// The CUDA backend on one stream. Clones share it.
#[derive(Clone, Debug)]
pub struct Cuda {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    stream: Arc<CudaStream>,
    kernels: Arc<Kernels>,
    scratch: Mutex<Vec<CudaSlice<u64>>>,
    step_offset: Mutex<Option<CudaSlice<u32>>>,
}

/// The least compute capability that kernels are compiled for.
const CAPABILITY: (i32, i32) = (7, 5);

impl Cuda {
    /// The card with this number, on the default stream of its primary context.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] where there is no driver, no such card, or one below compute capability 7.5.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use trigrad::memory::Memory;
    /// let cuda = trigrad::cuda::Cuda::new(0)?;
    /// let x = cuda.upload(&[1.0f32, -2.0])?;
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn new(ordinal: usize) -> Result<Self> {
        if !launch::driver_present() {
            return Err(no_device("the driver library (libcuda) is not there".to_owned()));
        }
        let missing = |e: DriverError| no_device(format!("card {ordinal}: {}", error::text(e)));
        let context = CudaContext::new(ordinal).map_err(missing)?;
        Cuda::with_stream(context.default_stream())
    }

    /// A caller's stream: work is queued there, and buffers are allocated there.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] for a card below compute capability 7.5.
    pub fn with_stream(stream: Arc<CudaStream>) -> Result<Self> {
        let context = stream.context();
        let (major, minor) = context.compute_capability().during("cuDeviceGetAttribute")?;
        if (major, minor) < CAPABILITY {
            let name = error::describe(context);
            return Err(no_device(format!("{name} has compute capability {major}.{minor}; 7.5 is the least")));
        }
        let kernels = Kernels::of(context);
        Ok(Cuda {
            inner: Arc::new(Inner { stream, kernels, scratch: Mutex::default(), step_offset: Mutex::default() }),
        })
    }

    /// The stream that all work is queued on.
    #[must_use]
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.inner.stream
    }

    /// Waits for all that is queued.
    ///
    /// # Errors
    ///
    /// What the device reports, faults of earlier work included.
    pub fn synchronize(&self) -> Result<()> {
        self.stream().synchronize().during("cuStreamSynchronize")
    }

    fn kernels(&self) -> &Kernels {
        &self.inner.kernels
    }

    fn scratch_buffers(&self) -> &Mutex<Vec<CudaSlice<u64>>> {
        &self.inner.scratch
    }

    /// Checks that memory allocated on a stream can be used here.
    fn holds(&self, stream: &CudaStream) -> Result<()> {
        if stream.context() == self.stream().context() { Ok(()) } else { Err(self.foreign(stream.context())) }
    }
}

fn no_device(reason: String) -> Error {
    Error::NoDevice { backend: "cuda", reason }
}
