//! Reports on the device: counters and first indices that threads join by atomic sums and maxima.
//!
//! The format is private: see shaders/shared/report.wgsl. Indices have 38 bits and atomics 32, so each window of
//! 2^31 elements has a word of its own in every slot; windows are added when a tensor reaches them.

use super::Wgpu;
use super::launch::Batch;
use super::memory::{Raw, USAGE};
use super::shaders::Params;
use crate::error::{Error, Result};
use crate::op::Report;

/// What operations found, one slot a tensor.
#[derive(Debug)]
pub struct Reports {
    buffer: wgpu::Buffer,
    slots: usize,
    windows: u64,
}

const HEADER: u64 = 4;

fn bytes(slots: usize, windows: u64) -> u64 {
    (slots as u64).saturating_mul((HEADER + windows) * 4)
}

impl Reports {
    pub(super) fn new(gpu: &Wgpu, slots: usize) -> Result<Self> {
        if bytes(slots, 1) > gpu.inner.binding_max {
            let limit = gpu.inner.binding_max / (4 * (HEADER + 1));
            return Err(Error::Limit { what: "report slots", got: slots as u64, limit });
        }
        Ok(Reports { buffer: gpu.allocate(bytes(slots, 1), USAGE)?, slots, windows: 1 })
    }

    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    pub(super) fn raw(&self) -> Raw<'_> {
        Raw { buffer: &self.buffer, offset: 0, bytes: bytes(self.slots, self.windows) }
    }

    /// Checks that a slot exists.
    pub(super) fn check(&self, slot: usize) -> Result<()> {
        if slot < self.slots {
            Ok(())
        } else {
            Err(Error::Length {
                what: "report slots",
                expected: (slot as u64).saturating_add(1),
                got: self.slots as u64,
            })
        }
    }

    /// Makes room for elements below index `end`. Counts and indices found so far stay: windows are the outer
    /// dimension, so a longer buffer begins with the shorter one. Not while recording: the buffer that was recorded
    /// into would be given up before anything has run.
    pub(super) fn reach(&mut self, gpu: &Wgpu, end: u64) -> Result<()> {
        let windows = end.div_ceil(1 << 31).max(1);
        if windows > self.windows {
            if gpu.target.is_some() {
                let limit = self.windows << 31;
                return Err(Error::Limit { what: "elements that recorded reports reach", got: end, limit });
            }
            if bytes(self.slots, windows) > gpu.inner.binding_max {
                let limit = gpu.inner.binding_max / (4 * (HEADER + windows));
                return Err(Error::Limit { what: "report slots", got: self.slots as u64, limit });
            }
            let larger = gpu.allocate(bytes(self.slots, windows), USAGE)?;
            let mut batch = Batch::new(gpu);
            batch.copy(self.raw(), Raw { buffer: &larger, offset: 0, bytes: bytes(self.slots, self.windows) });
            batch.run("reports")?;
            self.buffer = larger;
            self.windows = windows;
        }
        Ok(())
    }

    /// Sets what a dispatch needs to report elements from index `first` on into `slot`.
    pub(super) fn address(&self, params: &mut Params, slot: usize, first: u64) {
        params.slot = slot as u32;
        params.slots = self.slots as u32;
        params.first_lo = first as u32;
        params.first_hi = (first >> 32) as u32;
        params.group = (first / 32) as u32;
    }

    pub(super) fn read(&self, gpu: &Wgpu) -> Result<Vec<Report>> {
        let words: Vec<u32> = gpu.read(self.raw())?;
        let at = |i: usize| words.get(i).copied().unwrap_or(0);
        let wide = |i: usize| u64::from(at(i)) | u64::from(at(i + 1)) << 32;
        let report = |slot: usize| {
            let window = |w: u64| at((HEADER + w) as usize * self.slots + slot);
            let first = (0..self.windows).find(|&w| window(w) != 0);
            Report {
                non_finite: wide(4 * slot),
                clipped: wide(4 * slot + 2),
                first: first.map(|w| (w << 31) + (1 << 31) - u64::from(window(w))),
            }
        };
        Ok((0..self.slots).map(report).collect())
    }
}
