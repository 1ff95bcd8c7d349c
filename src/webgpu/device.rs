//! The device: what it can do, and whose buffers it takes.

use super::error::backend;
use super::link::Link;
use super::pipeline::Pipelines;
use super::raw::{BINDING, Raw};
use super::staging::Staging;
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A wgpu device and its queue. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Wgpu {
    pub(super) inner: Arc<Inner>,
    /// Where operations are recorded instead of being submitted.
    pub(super) target: Option<Arc<Mutex<Option<wgpu::CommandEncoder>>>>,
}

impl std::fmt::Debug for Wgpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wgpu").field("adapter", &self.inner.link.info.name).finish_non_exhaustive()
    }
}

pub(super) struct Inner {
    pub(super) link: Link,
    pub(super) pipelines: Pipelines,
    pub(super) staging: Staging,
    pub(super) abilities: Abilities,
    /// Bytes in a storage binding, elements in a piece, workgroups in a dimension.
    pub(super) binding_max: u64,
    pub(super) piece: u64,
    pub(super) workgroups: u32,
    /// A layout that binds one buffer, to learn whether a buffer can be bound here.
    pub(super) trial: OnceLock<wgpu::BindGroupLayout>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl Inner {
    pub(super) fn name(&self) -> String {
        format!("wgpu: {} ({:?})", self.link.info.name, self.link.info.backend)
    }
}

/// What shaders may use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Abilities {
    pub(super) int64: bool,
    /// Threads that surely share a subgroup, in order; 1 where subgroups are not used.
    pub(super) subgroup: u32,
    pub(super) estimates: bool,
    /// f32 sums and products are computed in integers.
    pub(super) soft: bool,
}

impl Wgpu {
    /// The adapter behind the device: its name, kind, driver and backend.
    #[must_use]
    pub fn adapter(&self) -> &wgpu::AdapterInfo {
        &self.inner.link.info
    }

    /// The wgpu device, for making buffers and encoders of one's own. On a device that [`Wgpu::new`] made, an error of such
    /// use that no error scope catches is returned by the next call here, once, before that does anything.
    #[must_use]
    pub fn device(&self) -> &wgpu::Device {
        &self.inner.link.device
    }

    /// The wgpu queue.
    #[must_use]
    pub fn queue(&self) -> &wgpu::Queue {
        &self.inner.link.queue
    }

    /// What is used of the adapter, for tables and bug reports.
    #[must_use]
    pub fn abilities(&self) -> String {
        let a = &self.inner.abilities;
        format!(
            "64-bit integers: {}, subgroup of {}, float estimates: {}, f32 sums in {}",
            a.int64,
            a.subgroup,
            a.estimates,
            if a.soft { "integers" } else { "floats" }
        )
    }

    /// A handle that records operations into `encoder` instead of submitting them, until [`Wgpu::finish`] gives it
    /// back. What waits for the device (`download`, `read_reports`, `read_sums`) is refused on such a handle, and so are
    /// `upload` and `write`; reports must reach the tensor's indices before (they do below 2^31). Scratch memory is
    /// allocated at once. A call that fails leaves the encoder as it was.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn main() -> trigrad::Result<()> {
    /// use trigrad::{Backend, Memory};
    /// let gpu = trigrad::webgpu::Wgpu::new()?;
    /// let encoder = gpu.device().create_command_encoder(&Default::default());
    /// let recorder = gpu.record(encoder);
    /// // recorder.accumulate_adaptive(...)?;
    /// if let Some(encoder) = recorder.finish() {
    ///     gpu.queue().submit([encoder.finish()]);
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn record(&self, encoder: wgpu::CommandEncoder) -> Wgpu {
        Wgpu { inner: Arc::clone(&self.inner), target: Some(Arc::new(Mutex::new(Some(encoder)))) }
    }

    /// The encoder of a recording handle; `None` where there is none or it was taken before.
    #[must_use]
    pub fn finish(self) -> Option<wgpu::CommandEncoder> {
        self.target.and_then(|t| t.lock().unwrap_or_else(PoisonError::into_inner).take())
    }

    /// Waits until everything submitted so far is done.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn wait(&self) -> Result<()> {
        let link = &self.inner.link;
        let index = link.scoped("wait", 0, || Ok(link.queue.submit([])))?;
        link.wait_for(index)?;
        link.probe_alive("wait")
    }

    /// Checks that bytes can be used here: of a buffer of this device, neither destroyed nor mapped. `maker` made it, where
    /// that is known and nobody else has it.
    pub(super) fn usable(&self, maker: Option<&Arc<Inner>>, raw: Raw<'_>) -> Result<()> {
        match maker {
            Some(maker) if Arc::ptr_eq(maker, &self.inner) || maker.link.device == self.inner.link.device => Ok(()),
            Some(maker) => Err(Error::WrongDevice { expected: self.inner.name(), got: maker.name() }),
            None if raw.bytes == 0 || raw.buffer.size() < 4 => Ok(()), // nothing of it is read or written
            None => self.bound(raw).and_then(|()| unmapped(raw)),
        }
    }

    /// Binds bytes of a buffer that somebody else made, which wgpu refuses where it is another device's.
    fn bound(&self, raw: Raw<'_>) -> Result<()> {
        let link = &self.inner.link;
        let tried = link.scoped("accepts", 0, || {
            let layout = self.inner.trial.get_or_init(|| trial(&link.device));
            let binding = wgpu::BufferBinding {
                buffer: raw.buffer,
                offset: raw.offset / BINDING * BINDING,
                size: std::num::NonZeroU64::new(4),
            };
            drop(link.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout,
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(binding) }],
            }));
            Ok(())
        });
        match tried {
            Err(Error::Backend { message, .. }) if message.contains("doesn't match") => {
                Err(Error::WrongDevice { expected: self.inner.name(), got: "another wgpu device".to_owned() })
            }
            other => other,
        }
    }
}

fn trial(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some("trial"),
        entries: &[wgpu::BindGroupLayoutEntry {
            binding: 0,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: true },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        }],
    })
}

/// Checks that a buffer is neither destroyed nor mapped.
fn unmapped(raw: Raw<'_>) -> Result<()> {
    // Asking for mapped bytes is how wgpu tells a buffer's state: one that can be used refuses, being unmapped.
    let mapped = || backend("accepts", "the buffer is mapped: unmap it first");
    match raw.buffer.get_mapped_range(..4) {
        Ok(_) => Err(mapped()),
        Err(e) => {
            let message = e.to_string();
            let says = |words| message.contains(words);
            if says("has been destroyed") {
                Err(backend("accepts", "the buffer was destroyed"))
            } else if says("already been mapped") || says("not entirely mapped") {
                Err(mapped())
            } else {
                Ok(())
            }
        }
    }
}
