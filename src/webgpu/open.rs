//! Opening a device: of this machine's adapters, or the caller's own.

use super::adapter::{choose, instance, no_device, offered};
use super::device::{Abilities, Inner, Wgpu};
use super::error::block_on;
use super::limits;
use super::link::{Faults, Link};
use super::options::Options;
use super::pipeline::Pipelines;
use super::probe::probe;
use super::staging::Staging;
use crate::error::{Error, Result};
use std::sync::{Arc, OnceLock};

impl Wgpu {
    /// This machine's adapter, chosen as [`Options::adapter`] says.
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
    /// [`Error::NoDevice`]; [`Error::Alignment`] for a piece that is not a multiple of 65,536.
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
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| noted.note_stray(e.to_string())));
        let noted = Arc::clone(&faults);
        device.set_device_lost_callback(move |reason, message| {
            noted.note_lost(format!("device lost ({reason:?}) {message}").trim_end().to_owned());
        });
        Self::build(device, queue, faults, options)
    }

    /// The adapters that [`Options::adapter`] chooses among, in the order of their places.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use trigrad::webgpu::{Options, Wgpu};
    /// for (place, adapter) in Wgpu::adapters().iter().enumerate() {
    ///     println!("#{place}: {} ({:?})", adapter.name, adapter.backend);
    /// }
    /// let mut options = Options::default();
    /// options.adapter = Some("#1".to_owned());
    /// let second = Wgpu::with(&options);
    /// ```
    #[must_use]
    pub fn adapters() -> Vec<wgpu::AdapterInfo> {
        offered(instance()).iter().map(wgpu::Adapter::get_info).collect()
    }

    /// A device and queue of the caller's. Its callbacks are left alone and its limits and features are taken as
    /// they are; buffers made with it are read and written where they lie. Use no buffers of another `wgpu::Instance` with
    /// it: wgpu tells buffers apart by numbers that begin anew in each.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] for a device whose limits are below what the shaders need; what it reports when it is tried out.
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue) -> Result<Self> {
        Self::from_device_with(device, queue, &Options::default())
    }

    /// [`Wgpu::from_device`], used as the options say.
    ///
    /// # Errors
    ///
    /// As [`Wgpu::from_device`], and [`Error::Alignment`] for a piece that is not a multiple of 65,536.
    pub fn from_device_with(device: wgpu::Device, queue: wgpu::Queue, options: &Options) -> Result<Self> {
        Self::build(device, queue, Arc::new(Faults::default()), options)
    }

    fn build(device: wgpu::Device, queue: wgpu::Queue, faults: Arc<Faults>, options: &Options) -> Result<Self> {
        if options.piece == 0 || !options.piece.is_multiple_of(65_536) {
            return Err(Error::Alignment { what: "elements in a piece", got: options.piece, multiple: 65_536 });
        }
        let (limits, features, info) = (device.limits(), device.features(), device.adapter_info());
        limits::enough(&limits)?;
        let link = Link { device, queue, info, faults, buffer_max: limits.max_buffer_size };
        let inner = Inner {
            link,
            pipelines: Pipelines::default(),
            staging: Staging::default(),
            abilities: Abilities {
                int64: options.int64 && features.contains(wgpu::Features::SHADER_INT64),
                subgroup: 1,
                estimates: options.estimates,
                soft: true,
            },
            // Shaders count bytes and elements of a binding in 31 bits; Metal offers more.
            binding_max: limits.max_storage_buffer_binding_size.min(i32::MAX as u64),
            piece: options.piece.min(1 << 31),
            workgroups: options.workgroups.clamp(1, limits.max_compute_workgroups_per_dimension),
            trial: OnceLock::new(),
        };
        let mut gpu = Wgpu { inner: Arc::new(inner), target: None };
        let subgroups = options.subgroups && features.contains(wgpu::Features::SUBGROUP);
        let found = probe(&gpu, subgroups)?;
        if let Some(inner) = Arc::get_mut(&mut gpu.inner) {
            inner.abilities.subgroup = found.subgroup.min(inner.link.info.subgroup_min_size).max(1);
            inner.abilities.soft = !(options.floats && found.floats);
        }
        Ok(gpu)
    }
}
