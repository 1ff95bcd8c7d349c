//! Order between streams and threads: part of the launch floor. What is queued here is ordered by the driver or by one
//! event at a time, never by waiting on the host.

#![expect(unsafe_code, reason = "part of the launch floor: the driver's calls that take raw streams and events")]

use super::error::Driver;
use crate::error::Result;
use cudarc::driver::sys::{CUevent, CUevent_wait_flags, CUstream, CUstreamCaptureStatus, cudaError_enum};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, SyncOnDrop, result};
use std::sync::{Arc, Mutex, PoisonError};

/// `CU_STREAM_PER_THREAD`: another stream on every thread.
const PER_THREAD: usize = 2;

/// Whether a stream is another one on every thread, as that of candle's default CUDA device is.
pub(super) fn is_per_thread(stream: &CudaStream) -> bool {
    stream.cu_stream() as usize == PER_THREAD
}

/// The stream on which the order of everything on `stream` can be waited for.
///
/// That is the stream itself, but for the driver's default streams (null, `CU_STREAM_LEGACY` and
/// `CU_STREAM_PER_THREAD`), for all of which the null stream stands: what is queued on it waits for what is on the
/// per-thread streams of all threads, and they wait for it (CUDA's stream synchronization behaviour).
pub(super) fn queue(stream: &CudaStream) -> CUstream {
    let raw = stream.cu_stream();
    if raw as usize <= PER_THREAD { std::ptr::null_mut() } else { raw }
}

/// Makes a context the calling thread's. cudarc's own does nothing but return the error where an earlier call, of
/// anyone's, has left one.
pub(super) fn bind(context: &CudaContext) -> Result<(), DriverError> {
    if result::ctx::get_current()? == Some(context.cu_ctx()) {
        return Ok(());
    }
    // SAFETY: the context lives as long as the object that was given.
    unsafe { result::ctx::set_current(context.cu_ctx()) }
}

/// Binds a context when dropped: the first field of what is freed in its context, from whatever thread.
#[derive(Debug)]
pub(super) struct Binding(Arc<CudaContext>);

impl Binding {
    pub(super) fn new(context: &Arc<CudaContext>) -> Self {
        Binding(context.clone())
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // Fails only where the driver is gone, and the memory with it.
        let _ = bind(&self.0);
    }
}

/// Whether a stream, or one that it would wait for, is being captured. The stream's context is bound.
pub(super) fn is_capturing(stream: CUstream) -> Result<bool> {
    // SAFETY: the stream is a default stream or lives in an object of the caller's.
    match unsafe { result::stream::is_capturing(stream) } {
        Ok(status) => Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE),
        // What the null stream says while a stream that it waits for is captured.
        Err(e) if e.0 == cudaError_enum::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT => Ok(true),
        Err(e) => Err(e).during("cuStreamIsCapturing"),
    }
}

/// Waits on the host for what is queued on a stream. Its context is bound.
pub(super) fn wait(stream: CUstream) -> Result<(), DriverError> {
    // SAFETY: the stream is a default stream or lives in an object of the caller's.
    unsafe { result::stream::synchronize(stream) }
}

/// The event behind cudarc's note of a use, where the buffer has events. The note itself is not made: [`record`] is.
/// The event lives as long as the buffer.
pub(super) fn event(note: SyncOnDrop<'_>) -> Option<CUevent> {
    let event = match &note {
        SyncOnDrop::Record(Some((event, _))) => Some(event.cu_event()),
        SyncOnDrop::Record(None) | SyncOnDrop::Sync(_) => None,
    };
    std::mem::forget(note);
    event
}

/// Lets an event stand for what is queued on a stream so far.
pub(super) fn record(event: CUevent, stream: CUstream) -> Result<(), DriverError> {
    // SAFETY: both live in objects of the caller's, in one context.
    unsafe { result::event::record(event, stream) }
}

/// Lets what is queued on a stream from now on wait for an event.
pub(super) fn wait_for(stream: CUstream, event: CUevent) -> Result<(), DriverError> {
    // SAFETY: both live in objects of the caller's.
    unsafe { result::stream::wait_event(stream, event, CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
}

/// Puts one stream of a context behind another. It needs one event: once a stream was told to wait for it, the event
/// may stand for something else.
#[derive(Debug)]
pub(super) struct Joint(Mutex<CudaEvent>);

impl Joint {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self> {
        context.new_event(None).during("cuEventCreate").map(|event| Joint(Mutex::new(event)))
    }

    /// Lets what is queued on `later` from now on wait for all that is on `earlier` now.
    pub(super) fn put_behind(&self, later: CUstream, earlier: CUstream) -> Result<(), DriverError> {
        let event = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        record(event.cu_event(), earlier)?;
        wait_for(later, event.cu_event())
    }
}
