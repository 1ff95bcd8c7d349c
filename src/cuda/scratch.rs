//! Device memory that an operation needs for its own: kept, and grown only when a larger one is asked for.

use super::item::Pointer;
use super::launch::allocate;
use super::view::{View, ViewMut, address};
use super::{Buffer, Cuda};
use crate::backend::Memory;
use crate::error::Result;
use std::sync::{MutexGuard, PoisonError};

/// Scratch memory of a handle, and so of one stream, held while the work that uses it is queued: threads take it in turn,
/// and the stream's order is that of the turns.
///
/// What was outgrown is kept until the backend object goes: a graph captured before may still use it.
pub(super) struct Scratch<'a> {
    held: MutexGuard<'a, Vec<Buffer<u64>>>,
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

    /// Its first `words` words; waits for the device.
    pub(super) fn download(&self, cuda: &Cuda, words: usize) -> Result<Vec<u64>> {
        match self.held.last().and_then(|buffer| View::from(buffer).get(0..words)) {
            Some(view) => cuda.download(view),
            None => Ok(Vec::new()),
        }
    }
}

impl Cuda {
    /// At least `bytes` of scratch memory. Allocates only when no earlier call asked for as much.
    pub(super) fn scratch(&self, bytes: u64) -> Result<Scratch<'_>> {
        let mut held = self.scratch_buffers().lock().unwrap_or_else(PoisonError::into_inner);
        let words = bytes.div_ceil(8) as usize;
        let largest = held.last().map_or(0, |buffer| buffer.len());
        if largest < words.max(1) {
            self.not_captured("an operation that needs scratch memory", "run the same call once before it")?;
            let new = allocate(self, words.max(2 * largest).max(8192))?;
            held.push(new);
        }
        let pointer = held.last().map_or(Pointer::NULL, |buffer| address(buffer));
        Ok(Scratch { held, pointer })
    }
}
