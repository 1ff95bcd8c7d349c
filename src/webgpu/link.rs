//! wgpu's device and queue, and what went wrong there: nothing here lets wgpu's default handler panic.

use super::error::{backend, block_on, of_wgpu};
use super::raw::USAGE;
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};

/// A device, its queue, and the faults noted for them.
pub(super) struct Link {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) info: wgpu::AdapterInfo,
    pub(super) faults: Arc<Faults>,
    /// Bytes in a buffer.
    pub(super) buffer_max: u64,
}

/// What happened outside any call: a lost device, which stays lost, and an error that no scope caught, which is told once.
#[derive(Default)]
pub(super) struct Faults {
    lost: Mutex<Option<String>>,
    stray: Mutex<Option<String>>,
}

impl Faults {
    pub(super) fn note_lost(&self, message: String) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
    }

    pub(super) fn note_stray(&self, message: String) {
        self.stray.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
    }

    fn lost(&self) -> Option<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_stray(&self) -> Option<String> {
        self.stray.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Link {
    /// The error for a device that was lost.
    pub(super) fn alive(&self, call: &'static str) -> Result<()> {
        self.faults.lost().map_or(Ok(()), |message| Err(backend(call, message)))
    }

    /// The same before work starts, or the error for what went wrong since the last call and no scope caught.
    pub(super) fn ready(&self, call: &'static str) -> Result<()> {
        self.alive(call)?;
        self.faults.take_stray().map_or(Ok(()), |message| Err(backend(call, message)))
    }

    /// Runs `work` under error scopes; the first error that it raised is returned instead of its result.
    pub(super) fn scoped<R>(&self, call: &'static str, asked: u64, work: impl FnOnce() -> Result<R>) -> Result<R> {
        self.ready(call)?;
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let result = work();
        let found = [block_on(validation.pop()), block_on(internal.pop()), block_on(memory.pop())];
        if let Some(error) = found.into_iter().flatten().next() {
            return Err(of_wgpu(error, call, &self.info.name, asked));
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
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.device.poll(wait)));
        match polled {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(backend("poll", e.to_string())),
            Err(_) => Err(backend("poll", self.faults.lost().unwrap_or_else(|| "the device was lost".to_owned()))),
        }
    }

    /// The error for a buffer that could not be mapped.
    pub(super) fn lost(&self, call: &'static str, found: &dyn std::error::Error) -> Error {
        backend(call, self.faults.lost().unwrap_or_else(|| format!("the device was lost ({found})")))
    }

    /// Shows whether the device still answers, where no callback would say so.
    pub(super) fn probe_alive(&self, call: &'static str) -> Result<()> {
        self.scoped(call, 16, || {
            let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 16,
                usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: true,
            });
            let mapped = buffer.get_mapped_range(..).map(drop);
            mapped.map_err(|e| self.lost(call, &e))
        })
    }

    /// A buffer of at least `bytes` bytes, zeros.
    pub(super) fn allocate(&self, bytes: u64) -> Result<wgpu::Buffer> {
        let (size, limit) = (bytes.max(1).checked_next_multiple_of(16), self.buffer_max);
        let Some(size) = size.filter(|size| *size <= limit) else {
            return Err(Error::Limit { what: "bytes in a wgpu buffer", got: bytes, limit });
        };
        self.scoped("create_buffer", size, || {
            Ok(self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("trigrad"),
                size,
                usage: USAGE,
                mapped_at_creation: false,
            }))
        })
    }
}
