//! The CUDA backend: hand-written kernels on NVIDIA cards of compute capability 7.5 and above, through cudarc.
//!
//! | file | what |
//! |---|---|
//! | `launch.rs`, `order.rs`, `view.rs`, `pool.rs` | the launch floor: all `unsafe` of this backend |
//! | `item.rs`, `draw.rs`, `modules.rs`, `scratch.rs`, `error.rs` | tables of tensors, draws, kernels, scratch memory, driver errors |
//! | `memory.rs`, `buffer.rs` | buffers are cudarc's slices, transfers are queued |
//! | `quantize.rs`, `dequantize.rs`, `accumulate.rs`, `window.rs`, `read_out.rs`, `check.rs`, `pack.rs`, `reduce.rs`, `update.rs` | the operations of a family: their items and their launches; the kernels are in `kernels/`, under the same names |
//!
//! Operations are queued on one stream and return at once; only downloads, of reports and sums too, wait. Nothing is
//! copied to the device for a launch: a list of tensors travels in the kernel's parameters.
//!
//! # Streams and threads
//!
//! Work is ordered whoever calls: from any thread, through any number of handles, on any streams of a context, with
//! buffers dropped anywhere. A buffer's uses come in the order of the stream it was allocated on. A handle on that stream
//! needs no event for it, which is the fastest; one on another stream puts its call behind all that is on the buffer's
//! stream then, and what comes there later behind its call. Nothing waits on the host but what says so.
//!
//! - **Context objects** of a card's primary context are one context, whichever `CudaContext::new` they came from. Memory
//!   of another context is [`Error::WrongDevice`].
//! - **Per-thread streams**, as that of candle's default device, are never queued on, for state lives longer than a call
//!   of one thread: the context's null stream stands for them, which the driver orders with those of all threads.
//! - **Raw users** of the same buffers are ordered with where they use the buffer's own stream, or cudarc's events.
//! - **Errors** while something was dropped (cudarc notes them) are returned by [`Cuda::synchronize`], never by an
//!   operation that has nothing to do with them.
//!
//! # Graph capture
//!
//! No operation, nor a transfer within the device, waits, or allocates once it has run with the same sizes; so a stream may
//! capture them and replay the graph on the same buffers. The operations become kernels and fills (a copy is a copy), whose number does not grow with
//! the list, up to 380 tensors (`tests/cuda_graph.rs`).
//! The caller must
//!
//! 1. use a stream that can be captured ([`Cuda::with_stream`]; the default stream cannot; of a per-thread stream the
//!    calling thread's is captured),
//! 2. run the same calls once before, so that kernels are loaded and scratch memory is there,
//! 3. have the context's event tracking off while capturing ([`cudarc::driver::CudaContext::disable_event_tracking`]):
//!    a captured stream may not wait for events from outside,
//! 4. keep the buffers and the [`Cuda`] for as long as the graph is replayed, and replay the graphs of one handle one
//!    after the other: they share its scratch memory. The order of replays with other streams is the caller's.
//!
//! What can not be captured is refused before it reaches the driver ([`Error::Capture`]) and leaves the capture as it was:
//! calls of which 2 or 3 is missing, and all that allocates or waits (`upload`, `zeros`, `reports`, `download`,
//! `read_reports`, [`Cuda::synchronize`]).
//!
//! A capture freezes the parameters of its calls, the step of the draws among them. Calls that follow a state in device memory
//! ([`crate::op::state::Following`]) take step, micro-batch, factor and rate from there, so that a whole window can be captured,
//! its end decided on the device, and replayed.

mod accumulate;
mod buffer;
mod check;
mod dequantize;
mod draw;
mod error;
mod item;
mod launch;
mod memory;
mod modules;
mod order;
mod pack;
mod pool;
mod quantize;
mod read_out;
mod reduce;
mod reports;
mod scratch;
mod state;
mod update;
mod update_adamw_8bit;
mod view;
mod window;

pub use buffer::Buffer;
pub use pool::InUse;
pub use reports::Reports;
pub use view::{View, ViewMut};

use crate::error::{Error, Result};
use cudarc::driver::{CudaContext, CudaStream, DriverError};
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
    /// What work is queued on.
    stream: Arc<CudaStream>,
    /// The per-thread stream that the handle was made from, for which the null stream stands.
    per_thread: Option<Arc<CudaStream>>,
    kernels: Arc<Kernels>,
    scratch: Mutex<Vec<Buffer<u64>>>,
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

    /// A caller's stream: work is queued there, and buffers are allocated there. For a per-thread stream the null stream
    /// of its context stands: see [Streams and threads](self#streams-and-threads).
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] for a card below compute capability 7.5.
    pub fn with_stream(stream: Arc<CudaStream>) -> Result<Self> {
        let context = stream.context();
        let earlier = context.check_err();
        let (major, minor) = context.compute_capability().during("cuDeviceGetAttribute")?;
        if (major, minor) < CAPABILITY {
            let name = error::describe(context);
            return Err(no_device(format!("{name} has compute capability {major}.{minor}; 7.5 is the least")));
        }
        let kernels = Kernels::of(context)?;
        kernels.note(earlier);
        let (stream, per_thread) =
            if order::is_per_thread(&stream) { (context.default_stream(), Some(stream)) } else { (stream, None) };
        Ok(Cuda { inner: Arc::new(Inner { stream, per_thread, kernels, scratch: Mutex::default() }) })
    }

    /// The stream that all work is queued on: the one given, or the null stream where a per-thread stream was.
    #[must_use]
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.inner.stream
    }

    /// Waits for all that is queued.
    ///
    /// # Errors
    ///
    /// What the device reports, faults of earlier work included; once, what cudarc has noted in this context while
    /// something was dropped; [`Error::Capture`] within a capture.
    pub fn synchronize(&self) -> Result<()> {
        let context = self.stream().context();
        self.kernels().take_earlier(context);
        self.not_captured("a wait", "wait after the graph was launched")?;
        for stream in [Some(self.stream()), self.per_thread()].into_iter().flatten() {
            order::wait(stream.cu_stream()).during("cuStreamSynchronize")?;
        }
        self.kernels().earlier()
    }

    fn per_thread(&self) -> Option<&Arc<CudaStream>> {
        self.inner.per_thread.as_ref()
    }

    /// Refuses what can not be captured while the stream is being captured. Binds the context.
    fn not_captured(&self, call: &'static str, advice: &'static str) -> Result<()> {
        order::bind(self.stream().context()).during("cuCtxSetCurrent")?;
        let stream = self.per_thread().unwrap_or(self.stream());
        if order::is_capturing(stream.cu_stream())? { Err(Error::Capture { call, advice }) } else { Ok(()) }
    }

    fn kernels(&self) -> &Kernels {
        &self.inner.kernels
    }

    fn scratch_buffers(&self) -> &Mutex<Vec<Buffer<u64>>> {
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
