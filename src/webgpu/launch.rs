//! From checked arguments to commands: windows, bindings, folded dispatches, one submission a call.

use super::memory::Raw;
use super::pipeline::{Flags, PARAMS, Pipeline};
use super::shaders::Params;
use super::{Shader, Wgpu};
use crate::error::{Error, Result};
use std::sync::{Arc, PoisonError};

/// What offsets of storage bindings must be a multiple of on every adapter.
pub(super) const BINDING: u64 = 256;

impl Raw<'_> {
    /// Bytes from the start of the binding to the first element.
    pub(super) fn inset(self) -> u64 {
        self.offset % BINDING
    }

    /// The inset in elements of `size` bytes.
    pub(super) fn skip(self, size: u64) -> u32 {
        (self.inset() / size) as u32
    }

    /// Whether whole vectors of `size` bytes can be moved: the range starts on one, and the last one, if only partly
    /// in the range, still lies within the buffer.
    pub(super) fn vectors(self, size: u64) -> bool {
        self.offset.is_multiple_of(size) && (self.offset + self.bytes).next_multiple_of(size) <= self.buffer.size()
    }

    fn binding(self) -> (u64, u64) {
        let start = self.offset - self.inset();
        let end = (self.offset + self.bytes).max(start + 4);
        let padded = end.next_multiple_of(16);
        (start, if padded <= self.buffer.size() { padded } else { end.next_multiple_of(4) } - start)
    }
}

/// The flag of a variant whose bindings all count as written.
pub(super) const ALIASED: &str = "ALIASED";

/// Whether a buffer is read through one binding and written through another, which wgpu takes only where both count
/// as written.
fn aliased(shader: &Shader, bindings: &[Raw<'_>]) -> bool {
    let of = |kind: bool| bindings.iter().zip(shader.read_only).filter(move |(_, r)| **r == kind).map(|(raw, _)| raw);
    of(true).any(|read| of(false).any(|written| read.buffer == written.buffer))
}

/// A part of a tensor that one dispatch covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Wgpu {
    /// Cuts `n` elements into windows; `bytes` is the most that one element takes in any binding. A window starts at
    /// a multiple of 65,536 elements, so blocks, words and words of scales are whole.
    pub(super) fn windows(&self, n: usize, bytes: u64) -> impl Iterator<Item = Window> + use<> {
        let held = self.inner.binding_max.saturating_sub(2 * BINDING) / bytes;
        let size = held.min(self.inner.window).max(65_536) / 65_536 * 65_536;
        let n = n as u64;
        (0..n.div_ceil(size)).map(move |i| Window { start: i * size, len: size.min(n - i * size) })
    }
}

enum Step {
    Dispatch { pipeline: Arc<Pipeline>, group: Vec<(wgpu::Buffer, u64, u64)>, params: Params, groups: (u32, u32) },
    Copy { from: wgpu::Buffer, at: u64, to: wgpu::Buffer, into: u64, bytes: u64 },
    Clear { buffer: wgpu::Buffer, at: u64, bytes: u64 },
}

/// A part of a buffer as a binding.
fn range(buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BindingResource<'_> {
    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: std::num::NonZeroU64::new(size) })
}

/// Commands of one call, submitted or recorded together.
pub(super) struct Batch<'a> {
    pub(super) gpu: &'a Wgpu,
    steps: Vec<Step>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(gpu: &'a Wgpu) -> Self {
        Batch { gpu, steps: Vec::new() }
    }

    /// A dispatch of at least `threads` threads; `bindings` are the storage bindings from 1 on.
    pub(super) fn dispatch(
        &mut self,
        shader: &'static Shader,
        flags: Flags,
        bindings: &[Raw<'_>],
        mut params: Params,
        threads: u64,
    ) -> Result<()> {
        let mut flags = flags;
        flags.extend(aliased(shader, bindings).then_some(ALIASED));
        let pipeline = self.gpu.pipeline(shader, flags)?;
        params.exact = if self.gpu.inner.abilities.estimates { 0 } else { u32::MAX };
        let groups = self.fold(threads.div_ceil(u64::from(shader.workgroup)))?;
        let group = bindings
            .iter()
            .map(|raw| {
                let (start, size) = raw.binding();
                (raw.buffer.clone(), start, size)
            })
            .collect();
        self.steps.push(Step::Dispatch { pipeline, group, params, groups });
        Ok(())
    }

    /// `count` workgroups in two dimensions; shaders ignore those past the end.
    fn fold(&self, count: u64) -> Result<(u32, u32)> {
        let limit = u64::from(self.gpu.inner.workgroups);
        let rows = count.div_ceil(limit).max(1);
        if rows > limit {
            return Err(Error::Limit { what: "workgroups in a dispatch", got: count, limit: limit * limit });
        }
        Ok((count.div_ceil(rows).max(1) as u32, rows as u32))
    }

    /// Copies bytes between different buffers; offsets and length are multiples of 4.
    pub(super) fn copy(&mut self, from: Raw<'_>, to: Raw<'_>) {
        if from.bytes == 0 {
            return;
        }
        let (from, at, bytes) = (from.buffer.clone(), from.offset, from.bytes);
        self.steps.push(Step::Copy { from, at, to: to.buffer.clone(), into: to.offset, bytes });
    }

    /// Writes zeros; offset and length are multiples of 4.
    pub(super) fn clear(&mut self, raw: Raw<'_>) {
        self.steps.push(Step::Clear { buffer: raw.buffer.clone(), at: raw.offset, bytes: raw.bytes });
    }

    /// Submits, or records on a recording handle; the submission's index where there is one.
    pub(super) fn run(self, call: &'static str) -> Result<Option<wgpu::SubmissionIndex>> {
        if self.steps.is_empty() {
            return self.gpu.alive(call).map(|()| None);
        }
        let gpu = self.gpu;
        self.copies_may_be_made(call)?;
        // Made before the encoder is touched: an error in there would take the caller's own commands along.
        let groups = gpu.scoped(call, 0, || Ok(self.groups(&self.uniforms(call)?)))?;
        gpu.scoped(call, 0, || {
            let device = &gpu.inner.device;
            if let Some(target) = &gpu.target {
                let mut target = target.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(encoder) = target.as_mut() else {
                    return Err(super::error::backend(call, "the command encoder was taken back"));
                };
                self.encode(encoder, &groups);
                return Ok(None);
            }
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(call) });
            self.encode(&mut encoder, &groups);
            Ok(Some(gpu.inner.queue.submit([encoder.finish()])))
        })
    }

    /// Checks what copies and clears ask of buffers that somebody else made.
    fn copies_may_be_made(&self, call: &'static str) -> Result<()> {
        let made_with = |buffer: &wgpu::Buffer, usage: wgpu::BufferUsages, name: &str| {
            let missing = || super::error::backend(call, format!("the buffer was not made with BufferUsages::{name}"));
            buffer.usage().contains(usage).then_some(()).ok_or_else(missing)
        };
        self.steps.iter().try_for_each(|step| match step {
            Step::Copy { from, to, .. } => made_with(from, wgpu::BufferUsages::COPY_SRC, "COPY_SRC")
                .and_then(|()| made_with(to, wgpu::BufferUsages::COPY_DST, "COPY_DST")),
            Step::Clear { buffer, .. } => made_with(buffer, wgpu::BufferUsages::COPY_DST, "COPY_DST"),
            Step::Dispatch { .. } => Ok(()),
        })
    }

    fn dispatches(&self) -> impl Iterator<Item = &Params> {
        self.steps.iter().filter_map(|s| if let Step::Dispatch { params, .. } = s { Some(params) } else { None })
    }

    /// The parameters of all dispatches, one in every 256 bytes. Mapping a buffer is also what shows that a device
    /// whose callbacks belong to the caller is lost: everything else would be ignored without a word.
    fn uniforms(&self, call: &'static str) -> Result<wgpu::Buffer> {
        let count = self.dispatches().count().max(1) as u64;
        let buffer = self.gpu.inner.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: count * BINDING,
            usage: wgpu::BufferUsages::UNIFORM,
            mapped_at_creation: true,
        });
        {
            let mut mapped = buffer.get_mapped_range_mut(..).map_err(|e| self.gpu.lost(call, &e))?;
            for (i, params) in self.dispatches().enumerate() {
                let at = i * BINDING as usize;
                mapped.slice(at..at + PARAMS as usize).copy_from_slice(bytemuck::bytes_of(params));
            }
        }
        buffer.unmap();
        Ok(buffer)
    }

    /// The bind groups of all dispatches, in order.
    fn groups(&self, uniforms: &wgpu::Buffer) -> Vec<wgpu::BindGroup> {
        let bound = |step: &Step| {
            let Step::Dispatch { pipeline, group, .. } = step else { return None };
            let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: range(uniforms, 0, PARAMS) }];
            for (i, (buffer, offset, size)) in group.iter().enumerate() {
                entries.push(wgpu::BindGroupEntry { binding: i as u32 + 1, resource: range(buffer, *offset, *size) });
            }
            Some(self.gpu.inner.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.layout,
                entries: &entries,
            }))
        };
        self.steps.iter().filter_map(bound).collect()
    }

    fn encode(&self, encoder: &mut wgpu::CommandEncoder, bound: &[wgpu::BindGroup]) {
        let mut at = 0;
        let mut bound = (0u32..).zip(bound);
        while let Some(step) = self.steps.get(at) {
            match step {
                Step::Copy { from, at: offset, to, into, bytes } => {
                    encoder.copy_buffer_to_buffer(from, *offset, to, *into, *bytes);
                    at += 1;
                }
                Step::Clear { buffer, at: offset, bytes } => {
                    encoder.clear_buffer(buffer, *offset, Some(*bytes));
                    at += 1;
                }
                Step::Dispatch { .. } => {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                    while let Some(Step::Dispatch { pipeline, groups, .. }) = self.steps.get(at) {
                        if let Some((number, group)) = bound.next() {
                            pass.set_pipeline(&pipeline.raw);
                            pass.set_bind_group(0, group, &[number * BINDING as u32]);
                            pass.dispatch_workgroups(groups.0, groups.1, 1);
                        }
                        at += 1;
                    }
                }
            }
        }
    }
}
