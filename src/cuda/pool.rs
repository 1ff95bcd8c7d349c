//! What is allocated on the card in stream order, by everyone who shares its default pool: this crate and candle.

#![expect(unsafe_code, reason = "part of the launch floor: cudarc leaves the driver's pools to its caller")]

use super::Cuda;
use super::error::{Driver, describe, text};
use super::order::bind;
use crate::error::{Error, Result};
use cudarc::driver::DriverError;
use cudarc::driver::result::{self, device::get_mem_pool, mem_pool};
use cudarc::driver::sys::{CUmemPool_attribute, CUmemoryPool, cudaError_enum};

/// Bytes of a card's memory pool that are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    /// Now.
    pub now: u64,
    /// At most, since the process began or [`Cuda::reset_peak`] was called.
    pub peak: u64,
}

impl Cuda {
    /// What is in use of the card's memory pool, in which this crate and candle allocate: the driver's own count. Waits
    /// for the device.
    ///
    /// # Errors
    ///
    /// What the device reports.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let cuda = trigrad::cuda::Cuda::new(0)?;
    /// println!("{} bytes at most", cuda.in_use()?.peak);
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn in_use(&self) -> Result<InUse> {
        self.synchronize()?;
        let pool = self.pool()?;
        let read = |attribute| {
            let mut bytes = 0u64;
            // SAFETY: the pool is the device's own, and both attributes are written as 64 bits.
            unsafe { mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }
                .during("cuMemPoolGetAttribute")
                .map(|()| bytes)
        };
        Ok(InUse {
            now: read(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
            peak: read(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?,
        })
    }

    /// Lets the peak start again from what is in use now. Waits for the device.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn reset_peak(&self) -> Result<()> {
        self.synchronize()?;
        let (pool, mut zero) = (self.pool()?, 0u64);
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        // SAFETY: the pool is the device's own, and the attribute is read as 64 bits.
        unsafe { mem_pool::set_attribute(pool, attribute, (&raw mut zero).cast()) }.during("cuMemPoolSetAttribute")
    }

    /// Lets the card's memory pool keep up to so many freed bytes for the next allocation, and gives what it kept before.
    /// Where the driver's default of 0 stands, all freed memory goes back to the system at each wait for the device, and
    /// comes back at the next allocation: in a training that costs a quarter of the time. `u64::MAX` keeps all; 0 undoes
    /// it, and the next wait gives the memory back. The pool is the device's, for everyone in this process who allocates
    /// there, candle among them; what is kept is not there for other processes.
    ///
    /// # Errors
    ///
    /// What the device reports.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let cuda = trigrad::cuda::Cuda::new(0)?;
    /// let before = cuda.keep_freed_memory(u64::MAX)?;
    /// // train
    /// cuda.keep_freed_memory(before)?;
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn keep_freed_memory(&self, bytes: u64) -> Result<u64> {
        let (pool, mut before, mut bytes) = (self.pool()?, 0u64, bytes);
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the pool is the device's own, and the attribute is written as 64 bits.
        unsafe { mem_pool::get_attribute(pool, attribute, (&raw mut before).cast()) }
            .during("cuMemPoolGetAttribute")?;
        // SAFETY: the pool is the device's own, and the attribute is read as 64 bits.
        unsafe { mem_pool::set_attribute(pool, attribute, (&raw mut bytes).cast()) }.during("cuMemPoolSetAttribute")?;
        Ok(before)
    }

    /// An allocation's failure: out of memory with what was asked and what is free, or what the driver says.
    pub(super) fn allocation(&self, error: DriverError, bytes: u64) -> Error {
        if error.0 == cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY {
            return self.out_of_memory(bytes);
        }
        Error::Backend { backend: "cuda", call: "cuMemAllocAsync", message: text(error) }
    }

    pub(super) fn out_of_memory(&self, asked: u64) -> Error {
        let context = self.stream().context();
        let free = bind(context).and_then(|()| result::mem_get_info()).ok().map(|(free, _)| free as u64);
        Error::OutOfMemory { device: describe(self.stream().context()), asked, free }
    }

    fn pool(&self) -> Result<CUmemoryPool> {
        // SAFETY: the device is the context's.
        unsafe { get_mem_pool(self.stream().context().cu_device()) }.during("cuDeviceGetMemPool")
    }
}
