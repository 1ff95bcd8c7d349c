//! From wgpu's errors to this crate's.

use crate::error::Error;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

pub(super) fn backend(call: &'static str, message: impl Into<String>) -> Error {
    Error::Backend { backend: "wgpu", call, message: message.into() }
}

/// An error that a scope caught: what `device` said to a call that asked for so many bytes.
pub(super) fn of_wgpu(error: wgpu::Error, call: &'static str, device: &str, asked: u64) -> Error {
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
