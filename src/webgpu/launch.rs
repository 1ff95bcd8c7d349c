//! From checked arguments to commands: pieces, bindings, folded dispatches, one submission a call.

use super::device::Wgpu;
use super::error::backend;
use super::follow::{Follows, Places, ieee};
use super::pipeline::{ALIASED, Flags, Pipeline};
use super::raw::{BINDING, Raw};
use super::shader::{Program, Shader};
use super::shaders::{self, StateParams};
use super::view::View;
use crate::error::{Error, Result};
use bytemuck::Pod;
use std::sync::{Arc, PoisonError};

/// Whether a buffer is read through one binding and written through another, which wgpu takes only where both count
/// as written.
fn aliased(shader: &Program, bindings: &[Raw<'_>]) -> bool {
    let of = |kind: bool| bindings.iter().zip(shader.read_only).filter(move |(_, r)| **r == kind).map(|(raw, _)| raw);
    of(true).any(|read| of(false).any(|written| read.buffer == written.buffer))
}

/// The part of a tensor that one dispatch covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Wgpu {
    /// Cuts `n` elements into pieces; `bytes` is the most that one element takes in any binding. A piece starts at
    /// a multiple of 65,536 elements, so blocks, words and words of scales are whole.
    pub(super) fn pieces(&self, n: usize, bytes: u64) -> impl Iterator<Item = Piece> + use<> {
        let held = self.inner.binding_max.saturating_sub(2 * BINDING) / bytes;
        let size = held.min(self.inner.piece).max(65_536) / 65_536 * 65_536;
        let n = n as u64;
        (0..n.div_ceil(size)).map(move |i| Piece { start: i * size, len: size.min(n - i * size) })
    }
}

enum Step {
    Dispatch {
        pipeline: Arc<Pipeline>,
        group: Vec<(wgpu::Buffer, u64, u64)>,
        params: Vec<u8>,
        groups: (u32, u32),
        /// What a state changes in the parameters.
        follows: Option<Places>,
    },
    Copy {
        from: wgpu::Buffer,
        at: u64,
        to: wgpu::Buffer,
        into: u64,
        bytes: u64,
    },
    Clear {
        buffer: wgpu::Buffer,
        at: u64,
        bytes: u64,
    },
}

/// What a state changes in the parameters of a batch: runs of dispatches that hold it in the same places.
struct Changes<'a> {
    state: Raw<'a>,
    runs: Vec<StateParams>,
    pipeline: Arc<Pipeline>,
    /// Workgroups of each run.
    groups: Vec<(u32, u32)>,
}

impl Changes<'_> {
    /// The bind group of all runs, which change `uniforms`.
    fn bound(&self, batch: &Batch<'_>, uniforms: &wgpu::Buffer, call: &'static str) -> Result<wgpu::BindGroup> {
        let all: Vec<&[u8]> = self.runs.iter().map(bytemuck::bytes_of).collect();
        let own = batch.uniforms(call, &all, wgpu::BufferUsages::empty())?;
        let (start, size) = self.state.binding();
        let resources = [
            range(&own, 0, size_of::<StateParams>() as u64),
            range(self.state.buffer, start, size),
            range(uniforms, 0, uniforms.size()),
        ];
        let entry = |(binding, resource)| wgpu::BindGroupEntry { binding, resource };
        let entries: Vec<_> = (0..).zip(resources).map(entry).collect();
        let layout = &self.pipeline.layout;
        let device = &batch.gpu.inner.link.device;
        Ok(device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries }))
    }

    fn encode(&self, encoder: &mut wgpu::CommandEncoder, group: &wgpu::BindGroup) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline.raw);
        for (number, groups) in (0u32..).zip(&self.groups) {
            pass.set_bind_group(0, group, &[number * BINDING as u32]);
            pass.dispatch_workgroups(groups.0, groups.1, 1);
        }
    }
}

/// A part of a buffer as a binding.
fn range(buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BindingResource<'_> {
    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: std::num::NonZeroU64::new(size) })
}

/// Commands of one call, submitted or recorded together.
pub(super) struct Batch<'a> {
    pub(super) gpu: &'a Wgpu,
    steps: Vec<Step>,
    /// The state that dispatches follow.
    state: Option<Raw<'a>>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(gpu: &'a Wgpu) -> Self {
        Batch { gpu, steps: Vec::new(), state: None }
    }

    /// Commands of which some follow a state, if there is one.
    pub(super) fn following(gpu: &'a Wgpu, state: Option<View<'a, u32>>) -> Self {
        Batch { gpu, steps: Vec::new(), state: state.map(|view| view.raw) }
    }

    /// A [`dispatch`](Self::dispatch) whose parameters follow the state of the batch.
    pub(super) fn dispatch_following<P: Pod + Follows>(
        &mut self,
        shader: &'static Shader<P>,
        flags: Flags,
        bindings: &[Raw<'_>],
        params: P,
        threads: u64,
    ) -> Result<()> {
        self.dispatch(shader, flags, bindings, params, threads)?;
        if let (Some(_), Some(Step::Dispatch { follows, .. })) = (self.state, self.steps.last_mut()) {
            *follows = Some(P::PLACES);
        }
        Ok(())
    }

    /// A dispatch of at least `threads` threads; `bindings` are the storage bindings from 1 on.
    pub(super) fn dispatch<P: Pod>(
        &mut self,
        shader: &'static Shader<P>,
        flags: Flags,
        bindings: &[Raw<'_>],
        params: P,
        threads: u64,
    ) -> Result<()> {
        let (shader, mut flags) = (&shader.program, flags);
        flags.extend(aliased(shader, bindings).then_some(ALIASED));
        let pipeline = self.gpu.inner.pipelines.get(&self.gpu.inner.link, shader, flags)?;
        let params = bytemuck::bytes_of(&params).to_vec();
        let groups = self.fold(threads.div_ceil(u64::from(shader.workgroup)))?;
        let group = bindings
            .iter()
            .map(|raw| {
                let (start, size) = raw.binding();
                (raw.buffer.clone(), start, size)
            })
            .collect();
        self.steps.push(Step::Dispatch { pipeline, group, params, groups, follows: None });
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
            return self.gpu.inner.link.alive(call).map(|()| None);
        }
        let gpu = self.gpu;
        self.copies_may_be_made(call)?;
        // Made before the encoder is touched: an error in there would take the caller's own commands along.
        let changes = self.changes()?;
        let (groups, changed) = gpu.inner.link.scoped(call, 0, || {
            let usage = if changes.is_some() { wgpu::BufferUsages::STORAGE } else { wgpu::BufferUsages::empty() };
            let uniforms = self.uniforms(call, &self.parameters(), usage)?;
            let changed = match &changes {
                Some(changes) => Some(changes.bound(&self, &uniforms, call)?),
                None => None,
            };
            Ok((self.groups(&uniforms), changed))
        })?;
        let encode = |encoder: &mut wgpu::CommandEncoder| {
            if let (Some(changes), Some(group)) = (&changes, &changed) {
                changes.encode(encoder, group);
            }
            self.encode(encoder, &groups);
        };
        gpu.inner.link.scoped(call, 0, || {
            let device = &gpu.inner.link.device;
            if let Some(target) = &gpu.target {
                let mut target = target.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(encoder) = target.as_mut() else {
                    return Err(backend(call, "the command encoder was taken back"));
                };
                encode(encoder);
                return Ok(None);
            }
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(call) });
            encode(&mut encoder);
            Ok(Some(gpu.inner.link.queue.submit([encoder.finish()])))
        })
    }

    /// Checks what copies and clears ask of buffers that somebody else made.
    fn copies_may_be_made(&self, call: &'static str) -> Result<()> {
        let made_with = |buffer: &wgpu::Buffer, usage: wgpu::BufferUsages, name: &str| {
            let missing = || backend(call, format!("the buffer was not made with BufferUsages::{name}"));
            buffer.usage().contains(usage).then_some(()).ok_or_else(missing)
        };
        self.steps.iter().try_for_each(|step| match step {
            Step::Copy { from, to, .. } => made_with(from, wgpu::BufferUsages::COPY_SRC, "COPY_SRC")
                .and_then(|()| made_with(to, wgpu::BufferUsages::COPY_DST, "COPY_DST")),
            Step::Clear { buffer, .. } => made_with(buffer, wgpu::BufferUsages::COPY_DST, "COPY_DST"),
            Step::Dispatch { .. } => Ok(()),
        })
    }

    /// The parameters of all dispatches.
    fn parameters(&self) -> Vec<&[u8]> {
        self.steps
            .iter()
            .filter_map(|s| if let Step::Dispatch { params, .. } = s { Some(params.as_slice()) } else { None })
            .collect()
    }

    /// What the state changes in them before they are used; nothing where no dispatch follows one.
    fn changes(&self) -> Result<Option<Changes<'a>>> {
        let Some(state) = self.state else { return Ok(None) };
        let follows = |s: &Step| if let Step::Dispatch { follows, .. } = s { Some(*follows) } else { None };
        let mut runs: Vec<StateParams> = Vec::new();
        let mut last = None;
        for (number, places) in self.steps.iter().filter_map(follows).enumerate() {
            match (places, runs.last_mut()) {
                (Some(_), Some(run)) if last == places => run.count += 1,
                (Some(Places { draws, rule, n, factor, terms }), _) => {
                    let (state, first) = (state.skip(4), number as u32);
                    runs.push(StateParams { state, first, count: 1, draws, rule, n, factor, terms, zero: 0 });
                }
                (None, _) => {}
            }
            last = places;
        }
        if runs.is_empty() {
            return Ok(None);
        }
        let shader = &shaders::STATE_PARAMS.program;
        let pipeline = self.gpu.inner.pipelines.get(&self.gpu.inner.link, shader, ieee(self.gpu))?;
        let threads = u64::from(shader.workgroup);
        let groups = runs.iter().map(|run| self.fold(u64::from(run.count).div_ceil(threads))).collect::<Result<_>>()?;
        Ok(Some(Changes { state, runs, pipeline, groups }))
    }

    /// Parameters, one in every 256 bytes. Mapping a buffer is also what shows that a device
    /// whose callbacks belong to the caller is lost: everything else would be ignored without a word.
    fn uniforms(&self, call: &'static str, all: &[&[u8]], more: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let count = all.len().max(1) as u64;
        let buffer = self.gpu.inner.link.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: count * BINDING,
            usage: wgpu::BufferUsages::UNIFORM | more,
            mapped_at_creation: true,
        });
        {
            let mut mapped = buffer.get_mapped_range_mut(..).map_err(|e| self.gpu.inner.link.lost(call, &e))?;
            for (i, params) in all.iter().enumerate() {
                let at = i * BINDING as usize;
                mapped.slice(at..at + params.len()).copy_from_slice(params);
            }
        }
        buffer.unmap();
        Ok(buffer)
    }

    /// The bind groups of all dispatches, in order.
    fn groups(&self, uniforms: &wgpu::Buffer) -> Vec<wgpu::BindGroup> {
        let bound = |step: &Step| {
            let Step::Dispatch { pipeline, group, params, .. } = step else { return None };
            let mut entries =
                vec![wgpu::BindGroupEntry { binding: 0, resource: range(uniforms, 0, params.len() as u64) }];
            for (i, (buffer, offset, size)) in group.iter().enumerate() {
                entries.push(wgpu::BindGroupEntry { binding: i as u32 + 1, resource: range(buffer, *offset, *size) });
            }
            Some(self.gpu.inner.link.device.create_bind_group(&wgpu::BindGroupDescriptor {
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
