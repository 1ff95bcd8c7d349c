//! From wgpu's errors to this crate's: nothing here lets wgpu's default handler panic.

use super::Wgpu;
use crate::error::{Error, Result};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

pub(super) fn backend(call: &'static str, message: impl Into<String>) -> Error {
    Error::Backend { backend: "wgpu", call, message: message.into() }
}

/// An error that a scope caught: what `device` said to a call that asked for so many bytes.
fn of_wgpu(error: wgpu::Error, call: &'static str, device: &str, asked: u64) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { device: device.to_owned(), asked, free: None },
        other => backend(call, other.to_string()),
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future. wgpu's own are ready at once on native platforms.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}

impl Wgpu {
    /// Runs `work` under error scopes; the first error that it raised is returned instead of its result.
    pub(super) fn scoped<R>(&self, call: &'static str, asked: u64, work: impl FnOnce() -> Result<R>) -> Result<R> {
        self.ready(call)?;
        let device = &self.inner.device;
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let result = work();
        let found = [block_on(validation.pop()), block_on(internal.pop()), block_on(memory.pop())];
        if let Some(error) = found.into_iter().flatten().next() {
            return Err(of_wgpu(error, call, &self.inner.info.name, asked));
        }
        let result = result?;
        self.alive(call)?;
        Ok(result)
    }

    /// Waits for a submission.
    pub(super) fn wait_for(&self, index: wgpu::SubmissionIndex) -> Result<()> {
        let wait =
            wgpu::PollType::Wait { submission_index: Some(index), timeout: Some(std::time::Duration::from_secs(600)) };
        // wgpu panics in `poll` when the driver loses the device while it waits; that is an error here like any other.
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.inner.device.poll(wait)));
        match polled {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(backend("poll", e.to_string())),
            Err(_) => {
                Err(backend("poll", self.inner.faults.lost().unwrap_or_else(|| "the device was lost".to_owned())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_scope_catches_keeps_its_fields() {
        let source = || Box::new(std::io::Error::other("no more"));
        match of_wgpu(wgpu::Error::OutOfMemory { source: source() }, "create_buffer", "a card", 1 << 40) {
            Error::OutOfMemory { device, asked, free: None } => assert!(device == "a card" && asked == 1 << 40),
            other => unreachable!("{other:?}"),
        }
        let error = wgpu::Error::Validation { source: source(), description: "a binding".to_owned() };
        match of_wgpu(error, "quantize", "a card", 0) {
            Error::Backend { backend: "wgpu", call: "quantize", message } => assert!(message.contains("a binding")),
            other => unreachable!("{other:?}"),
        }
    }
}
