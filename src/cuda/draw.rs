//! The draws of a launch as kernels see them. Mirrors `kernels/include/draw.cuh`.

use super::item::Pointer;
use super::view::address;
use super::{Buffer, Cuda};
use crate::error::{Error, Result};
use crate::numerics::constants::PHILOX_ROUNDS;
use crate::numerics::philox::{W0, W1};
use crate::types::Draw;
use bytemuck::{Pod, Zeroable};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{PoisonError, RwLockReadGuard};

/// The part of a draw's position that a launch shares.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct DrawParams {
    /// The key of each round.
    keys: [[u32; 2]; PHILOX_ROUNDS as usize],
    step: u32,
    high: u32,
    step_offset: Pointer,
}

impl DrawParams {
    pub(super) fn new(cuda: &Cuda, draw: &Draw, domain: u32) -> Self {
        let at = draw.position(0, domain);
        let [mut k0, mut k1] = at.key();
        let mut keys = [[0; 2]; PHILOX_ROUNDS as usize];
        for key in &mut keys {
            *key = [k0, k1];
            (k0, k1) = (k0.wrapping_add(W0), k1.wrapping_add(W1));
        }
        let [_, _, step, high] = at.counter(0);
        DrawParams { keys, step, high, step_offset: cuda.step_offset() }
    }
}

impl Cuda {
    /// Adds a counter in device memory to the step of every later draw: `step + counter[0]`, wrapping, read when a
    /// kernel runs. So a captured graph draws anew in each replay, if the counter is changed in between; it goes on
    /// using the counter it was captured with, which must then be kept. `None` turns it off. Returns the counter that
    /// was in use.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] for a counter of no elements, [`Error::WrongDevice`] for one from another context. The
    /// counter in use then stays.
    pub fn set_step_offset(&self, counter: Option<Buffer<u32>>) -> Result<Option<Buffer<u32>>> {
        if let Some(counter) = &counter {
            self.holds(counter.stream())?;
            if counter.is_empty() {
                return Err(Error::Length { what: "step counter", expected: 1, got: 0 });
            }
        }
        let at = counter.as_ref().map_or(Pointer::NULL, |counter| address(counter));
        // Waits for calls that are queueing their work: their launches name the counter they found.
        let mut held = self.inner.step_offset.write().unwrap_or_else(PoisonError::into_inner);
        self.inner.step_offset_at.store(at.address(), Relaxed);
        Ok(std::mem::replace(&mut *held, counter))
    }

    /// Where the counter lies. It stays while a [`Call`](super::launch::Call) lives, which all launches with draws have.
    fn step_offset(&self) -> Pointer {
        Pointer::new(self.inner.step_offset_at.load(Relaxed))
    }

    /// The counter, which is not exchanged as long as this is held.
    pub(super) fn counter(&self) -> RwLockReadGuard<'_, Option<Buffer<u32>>> {
        self.inner.step_offset.read().unwrap_or_else(PoisonError::into_inner)
    }
}
