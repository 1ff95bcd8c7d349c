//! Staging buffers between host and device, which are kept: a new one costs ten times the copy.

use super::link::Link;
use crate::error::Result;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a staging buffer: of the small kind, and of the large, through which what is longer goes in pieces.
pub(super) const SIZES: [u64; 2] = [64 << 10, 16 << 20];
/// Bytes of a piece.
pub(super) const CHUNK: u64 = SIZES[1];
/// Staging buffers of each kind that are kept.
const KEPT: [usize; 2] = [64, 4];
/// Bytes of staging buffers that may be on their way to the device; a write beyond waits for the oldest.
const FLYING: u64 = 64 << 20;

/// Free staging buffers of both kinds: mapped ones for uploads, unmapped ones for downloads.
#[derive(Default)]
pub(super) struct Staging {
    pub(super) up: Arc<Free>,
    pub(super) down: Free,
    flying: Mutex<Flying>,
}

/// Uploads that may be under way, oldest first.
#[derive(Default)]
struct Flying {
    bytes: u64,
    uploads: VecDeque<(wgpu::SubmissionIndex, u64)>,
}

/// The kind of staging buffer that holds so many bytes.
pub(super) fn kind(bytes: u64) -> usize {
    usize::from(bytes > SIZES[0])
}

/// Staging buffers that wait to be used again, by kind.
#[derive(Default)]
pub(super) struct Free(Mutex<[Vec<wgpu::Buffer>; 2]>);

impl Free {
    pub(super) fn take(&self, kind: usize) -> Option<wgpu::Buffer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[kind].pop()
    }

    pub(super) fn give(&self, buffer: wgpu::Buffer) {
        let kind = kind(buffer.size());
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if free[kind].len() < KEPT[kind] {
            free[kind].push(buffer);
        }
    }
}

impl Staging {
    /// Notes an upload; where too much is under way, the oldest, which is to be waited for. A wait for what is done returns
    /// at once.
    pub(super) fn fly(&self, index: wgpu::SubmissionIndex, bytes: u64) -> Option<wgpu::SubmissionIndex> {
        let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
        flying.uploads.push_back((index, bytes));
        flying.bytes += bytes;
        let mut oldest = None;
        while flying.bytes > FLYING
            && let Some((index, bytes)) = flying.uploads.pop_front()
        {
            flying.bytes -= bytes;
            oldest = Some(index);
        }
        oldest
    }
}

/// A new staging buffer.
pub(super) fn make(link: &Link, kind: usize, usage: wgpu::BufferUsages, mapped: bool) -> Result<wgpu::Buffer> {
    let size = SIZES[kind];
    link.scoped("create_buffer", size, || {
        Ok(link.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size,
            usage,
            mapped_at_creation: mapped,
        }))
    })
}
