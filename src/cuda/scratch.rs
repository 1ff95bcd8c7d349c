//! Scratch memory that grows to what the largest call needed and is then used again.

use super::Cuda;
use crate::error::Result;
use cudarc::driver::CudaSlice;

/// The buffers kept so far. Ones that became too small stay: a captured graph may hold their addresses.
#[derive(Default)]
pub(super) struct Scratch {
    buffers: Vec<CudaSlice<u64>>,
}

impl Scratch {
    /// At least `bytes` bytes, aligned to 256. The contents are whatever the last call left; calls on one stream run
    /// one after another, and the lock around this keeps their launches together.
    pub(super) fn get(&mut self, cuda: &Cuda, bytes: usize) -> Result<&mut CudaSlice<u64>> {
        let have = self.buffers.last().map_or(0, CudaSlice::num_bytes);
        if have < bytes {
            // Doubling bounds what is kept to twice the largest need.
            self.buffers.push(cuda.allocate_zeros(bytes.max(2 * have).max(1 << 16).div_ceil(8))?);
        }
        let at = self.buffers.len() - 1;
        Ok(&mut self.buffers[at])
    }
}
