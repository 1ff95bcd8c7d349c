//! Reports on the device: counters and first indices that threads join by atomic sums and maxima.
//!
//! The format is private: see shaders/shared/report.wgsl. Indices have 38 bits and atomics 32, so each stretch of
//! 2^31 elements has a word of its own in every slot; stretches are added when a tensor reaches them.

use super::device::{Inner, Wgpu};
use super::launch::Batch;
use super::raw::Raw;
use super::shaders::Found;
use crate::error::{Error, Result};
use crate::types::Report;
use std::sync::Arc;

/// What operations found, one slot a tensor.
#[derive(Debug)]
pub struct Reports {
    buffer: wgpu::Buffer,
    maker: Arc<Inner>,
    slots: usize,
    stretches: u64,
}

const HEADER: u64 = 4;

fn bytes(slots: usize, stretches: u64) -> u64 {
    (slots as u64).saturating_mul((HEADER + stretches) * 4)
}

impl Reports {
    pub(super) fn new(gpu: &Wgpu, slots: usize) -> Result<Self> {
        if bytes(slots, 1) > gpu.inner.binding_max {
            let limit = gpu.inner.binding_max / (4 * (HEADER + 1));
            return Err(Error::Limit { what: "report slots", got: slots as u64, limit });
        }
        Ok(Reports {
            buffer: gpu.inner.link.allocate(bytes(slots, 1))?,
            maker: Arc::clone(&gpu.inner),
            slots,
            stretches: 1,
        })
    }

    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    pub(super) fn raw(&self) -> Raw<'_> {
        Raw { buffer: &self.buffer, offset: 0, bytes: bytes(self.slots, self.stretches) }
    }

    pub(super) fn maker(&self) -> &Arc<Inner> {
        &self.maker
    }

    /// Makes room for elements below the largest of `ends`. Counts and indices found so far stay: stretches are the outer
    /// dimension, so a longer buffer begins with the shorter one. Not while recording: the buffer that was recorded
    /// into would be given up before anything has run.
    pub(super) fn reach(&mut self, gpu: &Wgpu, ends: impl Iterator<Item = u64>) -> Result<()> {
        let end = ends.max().unwrap_or(0);
        let stretches = end.div_ceil(1 << 31).max(1);
        if stretches > self.stretches {
            if gpu.target.is_some() {
                let limit = self.stretches << 31;
                return Err(Error::Limit { what: "elements that recorded reports reach", got: end, limit });
            }
            if bytes(self.slots, stretches) > gpu.inner.binding_max {
                let limit = gpu.inner.binding_max / (4 * (HEADER + stretches));
                return Err(Error::Limit { what: "report slots", got: self.slots as u64, limit });
            }
            let larger = gpu.inner.link.allocate(bytes(self.slots, stretches))?;
            let mut batch = Batch::new(gpu);
            batch.copy(self.raw(), Raw { buffer: &larger, offset: 0, bytes: bytes(self.slots, self.stretches) });
            batch.run("reports")?;
            self.buffer = larger;
            self.stretches = stretches;
        }
        Ok(())
    }

    /// What a dispatch needs to report elements from index `first` on into `slot`.
    pub(super) fn found(&self, slot: usize, first: u64) -> Found {
        Found { slot: slot as u32, slots: self.slots as u32, first_low: first as u32, first_high: (first >> 32) as u32 }
    }

    pub(super) fn read(&self, gpu: &Wgpu) -> Result<Vec<Report>> {
        let words: Vec<u32> = gpu.read(self.raw())?;
        let at = |i: usize| words.get(i).copied().unwrap_or(0);
        let wide = |i: usize| u64::from(at(i)) | u64::from(at(i + 1)) << 32;
        let report = |slot: usize| {
            let stretch = |w: u64| at((HEADER + w) as usize * self.slots + slot);
            let first = (0..self.stretches).find(|&w| stretch(w) != 0);
            Report {
                non_finite: wide(4 * slot),
                clipped: wide(4 * slot + 2),
                first: first.map(|w| (w << 31) + (1 << 31) - u64::from(stretch(w))),
            }
        };
        Ok((0..self.slots).map(report).collect())
    }
}
