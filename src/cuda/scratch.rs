//! Device memory that an operation needs for its own: kept, and grown only when a larger one is asked for.

use super::Cuda;
use super::item::Pointer;
use super::launch::allocate;
use super::view::ViewMut;
use crate::error::Result;
use crate::memory::Memory;
use cudarc::driver::{CudaSlice, DevicePtrMut};
use std::sync::{MutexGuard, PoisonError};

/// Scratch memory, held while the work that uses it is queued, so that two threads do not share it.
///
/// What was outgrown is kept until the backend object goes: a graph captured before may still use it.
pub(super) struct Scratch<'a> {
    held: MutexGuard<'a, Vec<CudaSlice<u64>>>,
    pointer: Pointer,
}

impl Scratch<'_> {
    /// Its start, aligned to 256 bytes. The contents are what the last user left.
    pub(super) fn pointer(&self) -> Pointer {
        self.pointer
    }

    /// Zeroes its first `words` words.
    pub(super) fn clear(&mut self, cuda: &Cuda, words: usize) -> Result<()> {
        match self.held.last_mut().and_then(|buffer| ViewMut::from(buffer).get_mut(0..words)) {
            Some(view) => cuda.clear(view),
            None => Ok(()),
        }
    }
}

impl Cuda {
    /// At least `bytes` of scratch memory. Allocates only when no earlier call asked for as much.
    pub(super) fn scratch(&self, bytes: u64) -> Result<Scratch<'_>> {
        let mut held = self.scratch_buffers().lock().unwrap_or_else(PoisonError::into_inner);
        let words = bytes.div_ceil(8) as usize;
        let largest = held.last().map_or(0, CudaSlice::len);
        if largest < words.max(1) {
            let new = allocate(self, words.max(2 * largest).max(8192))?;
            held.push(new);
        }
        let pointer = match held.last_mut() {
            // Only this stream uses it, so its order is the stream's and no event is needed.
            Some(buffer) => Pointer::new(buffer.device_ptr_mut(self.stream()).0),
            None => Pointer::NULL,
        };
        Ok(Scratch { held, pointer })
    }
}
