//! The device: which adapter, what it can do, what may be asked of it.

use super::error::{backend, block_on};
use super::pipeline::Pipelines;
use super::transfer::Staging;
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The environment variable whose value, a part of an adapter's name, chooses the adapter.
pub const ADAPTER_VARIABLE: &str = "TRIGRAD_WGPU_ADAPTER";

/// What to use of an adapter. The bits that come out never depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// A part of the adapter's name, in any case; `None`: [`ADAPTER_VARIABLE`], and without it the first discrete GPU,
    /// else an integrated, a virtual, any other one, and a software adapter only if there is no other:
    /// [`Wgpu::adapter`] says which it is.
    pub adapter: Option<String>,
    /// Use 64-bit integers in shaders where the adapter has them.
    pub int64: bool,
    /// Use subgroup operations where the adapter has them.
    pub subgroups: bool,
    /// Estimate decisions in floats, and decide in integers only where the estimate is too close to call.
    pub estimates: bool,
    /// Use the adapter's f32 sums and products where they round as IEEE 754 asks.
    pub floats: bool,
    /// The most elements a dispatch may cover: a multiple of 65,536, lowered to what bindings hold.
    pub window: u64,
    /// The most workgroups in one dimension of a dispatch, lowered to the device's limit.
    pub workgroups: u32,
    /// Ask for timestamp queries where the adapter has them; for measuring.
    pub timestamps: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            adapter: None,
            int64: true,
            subgroups: true,
            estimates: true,
            floats: true,
            window: 1 << 31,
            workgroups: u32::MAX,
            timestamps: false,
        }
    }
}

/// A wgpu device and its queue. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Wgpu {
    pub(super) inner: Arc<Inner>,
    /// Where operations are recorded instead of being submitted.
    pub(super) target: Option<Arc<Mutex<Option<wgpu::CommandEncoder>>>>,
}

impl std::fmt::Debug for Wgpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wgpu").field("adapter", &self.inner.info.name).finish_non_exhaustive()
    }
}

pub(super) struct Inner {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) info: wgpu::AdapterInfo,
    pub(super) pipelines: Pipelines,
    pub(super) staging: Staging,
    pub(super) faults: Arc<Faults>,
    pub(super) abilities: Abilities,
    /// Bytes in a storage binding, bytes in a buffer, elements in a window, workgroups in a dimension.
    pub(super) binding_max: u64,
    pub(super) buffer_max: u64,
    pub(super) window: u64,
    pub(super) workgroups: u32,
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

/// What happened outside any call: a lost device, which stays lost, and an error that no scope caught, which is told once.
#[derive(Default)]
pub(super) struct Faults {
    lost: Mutex<Option<String>>,
    stray: Mutex<Option<String>>,
}

impl Faults {
    fn note(kind: &Mutex<Option<String>>, message: String) {
        kind.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
    }

    pub(super) fn lost(&self) -> Option<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_stray(&self) -> Option<String> {
        self.stray.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Wgpu {
    /// This machine's adapter, chosen as [`Options::adapter`] says, or the one that [`ADAPTER_VARIABLE`] names.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] where there is none, or it refuses what is asked; it lists the adapters there are.
    pub fn new() -> Result<Self> {
        Self::with(&Options::default())
    }

    /// An adapter chosen and used as the options say.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`]; [`Error::Alignment`] for a window that is not a multiple of 65,536.
    pub fn with(options: &Options) -> Result<Self> {
        let adapter = choose(instance(), options)?;
        let timing = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS;
        let mut wanted = wgpu::Features::empty();
        wanted.set(wgpu::Features::SHADER_INT64, options.int64);
        wanted.set(wgpu::Features::SUBGROUP, options.subgroups);
        wanted.set(timing, options.timestamps);
        let offered = adapter.limits();
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("trigrad"),
            required_features: wanted & adapter.features(),
            required_limits: wgpu::Limits {
                max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
                max_buffer_size: offered.max_buffer_size,
                ..wgpu::Limits::default()
            },
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = block_on(adapter.request_device(&descriptor))
            .map_err(|e| no_device(format!("{} refused: {e}", adapter.get_info().name)))?;
        let faults = Arc::new(Faults::default());
        let noted = Arc::clone(&faults);
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| Faults::note(&noted.stray, e.to_string())));
        let noted = Arc::clone(&faults);
        device.set_device_lost_callback(move |reason, message| {
            Faults::note(&noted.lost, format!("device lost ({reason:?}) {message}").trim_end().to_owned());
        });
        Self::build(device, queue, faults, options)
    }

    /// A device and queue of the caller's. Its callbacks are left alone and its limits and features are taken as
    /// they are; buffers made with it are read and written where they lie. Use no buffers of another `wgpu::Instance` with
    /// it: wgpu tells buffers apart by numbers that begin anew in each.
    ///
    /// # Errors
    ///
    /// What the device reports when it is tried out.
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue) -> Result<Self> {
        Self::from_device_with(device, queue, &Options::default())
    }

    /// [`Wgpu::from_device`], used as the options say.
    ///
    /// # Errors
    ///
    /// What the device reports when it is tried out; [`Error::Alignment`] for a window that is not a multiple of
    /// 65,536.
    pub fn from_device_with(device: wgpu::Device, queue: wgpu::Queue, options: &Options) -> Result<Self> {
        Self::build(device, queue, Arc::new(Faults::default()), options)
    }

    fn build(device: wgpu::Device, queue: wgpu::Queue, faults: Arc<Faults>, options: &Options) -> Result<Self> {
        if options.window == 0 || !options.window.is_multiple_of(65_536) {
            return Err(Error::Alignment { what: "elements in a window", got: options.window, multiple: 65_536 });
        }
        let (limits, features, info) = (device.limits(), device.features(), device.adapter_info());
        // Shaders count bytes and elements of a binding in 31 bits; Metal offers more.
        let binding_max = limits.max_storage_buffer_binding_size.min(i32::MAX as u64);
        let inner = Inner {
            pipelines: Pipelines::default(),
            staging: Staging::default(),
            faults,
            abilities: Abilities {
                int64: options.int64 && features.contains(wgpu::Features::SHADER_INT64),
                subgroup: 1,
                estimates: options.estimates,
                soft: true,
            },
            binding_max,
            buffer_max: limits.max_buffer_size,
            window: options.window.min(1 << 31),
            workgroups: options.workgroups.clamp(1, limits.max_compute_workgroups_per_dimension),
            device,
            queue,
            info,
        };
        let mut gpu = Wgpu { inner: Arc::new(inner), target: None };
        let subgroups = options.subgroups && features.contains(wgpu::Features::SUBGROUP);
        let found = super::probe::probe(&gpu, subgroups)?;
        if let Some(inner) = Arc::get_mut(&mut gpu.inner) {
            inner.abilities.subgroup = found.subgroup.min(inner.info.subgroup_min_size).max(1);
            inner.abilities.soft = !(options.floats && found.floats);
        }
        Ok(gpu)
    }

    /// The adapter behind the device: its name, kind, driver and backend.
    #[must_use]
    pub fn adapter(&self) -> &wgpu::AdapterInfo {
        &self.inner.info
    }

    /// The wgpu device, for making buffers and encoders of one's own. On a device that [`Wgpu::new`] made, an error of such
    /// use that no error scope catches is returned by the next call here, once, before that does anything.
    #[must_use]
    pub fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    /// The wgpu queue.
    #[must_use]
    pub fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
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
    /// back. What waits for the device (`download`, `read_reports`, reductions) is refused on such a handle, and so are
    /// `upload` and `write`; reports must reach the tensor's indices before (they do below 2^31). Scratch memory is
    /// allocated at once. A call that fails leaves the encoder as it was, except where a copy or a clear was given a buffer of
    /// another device: then `encoder.finish()` reports it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn main() -> trigrad::Result<()> {
    /// use trigrad::backend::{Backend, Memory};
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
        let index = self.scoped("wait", 0, || Ok(self.inner.queue.submit([])))?;
        self.wait_for(index)?;
        self.probe_alive("wait")
    }

    /// The error for a device that was lost.
    pub(super) fn alive(&self, call: &'static str) -> Result<()> {
        self.inner.faults.lost().map_or(Ok(()), |message| Err(backend(call, message)))
    }

    /// The same before work starts, or the error for what went wrong since the last call and no scope caught.
    pub(super) fn ready(&self, call: &'static str) -> Result<()> {
        self.alive(call)?;
        self.inner.faults.take_stray().map_or(Ok(()), |message| Err(backend(call, message)))
    }
}

/// One instance for the process: wgpu tells buffers of another device from its own within an instance only; one of
/// another instance would pass for whichever buffer here has its number.
fn instance() -> &'static wgpu::Instance {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env()))
}

fn no_device(reason: String) -> Error {
    Error::NoDevice { backend: "wgpu", reason }
}

fn choose(instance: &wgpu::Instance, options: &Options) -> Result<wgpu::Adapter> {
    let named = options.adapter.clone().or_else(|| std::env::var(ADAPTER_VARIABLE).ok().filter(|v| !v.is_empty()));
    let adapters = block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let names = || match adapters.is_empty() {
        true => {
            "no adapter found; on Linux a Vulkan driver is needed, mesa-vulkan-drivers has one in software".to_owned()
        }
        false => adapters.iter().map(|a| a.get_info().name).collect::<Vec<_>>().join(", "),
    };
    let able = |a: &&wgpu::Adapter| {
        a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
            && wgpu::Limits::default().check_limits(&a.limits())
    };
    if let Some(named) = named {
        let part = named.to_lowercase();
        return adapters
            .iter()
            .find(|a| a.get_info().name.to_lowercase().contains(&part))
            .cloned()
            .ok_or_else(|| no_device(format!("none is named like `{named}`: {}", names())));
    }
    let rank = |a: &&wgpu::Adapter| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    adapters.iter().filter(able).min_by_key(rank).cloned().ok_or_else(|| no_device(names()))
}
