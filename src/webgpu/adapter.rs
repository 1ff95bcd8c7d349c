//! Which adapter: by name, by place, or the most able.

use super::error::block_on;
use super::options::Options;
use crate::error::{Error, Result};
use std::sync::OnceLock;

/// The environment variable whose value, a part of an adapter's name or `#` and its place, chooses the adapter.
pub const ADAPTER_VARIABLE: &str = "TRIGRAD_WGPU_ADAPTER";
/// wgpu's own variable, which is looked at after [`ADAPTER_VARIABLE`].
const WGPU_VARIABLE: &str = "WGPU_ADAPTER_NAME";

/// One instance for the process: wgpu tells buffers of another device from its own within an instance only; one of
/// another instance would pass for whichever buffer here has its number.
pub(super) fn instance() -> &'static wgpu::Instance {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env()))
}

pub(super) fn no_device(reason: String) -> Error {
    Error::NoDevice { backend: "wgpu", reason }
}

/// The adapters there are, in the order that wgpu finds them.
pub(super) fn offered(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY))
}

pub(super) fn choose(instance: &wgpu::Instance, options: &Options) -> Result<wgpu::Adapter> {
    let adapters = offered(instance);
    let infos: Vec<wgpu::AdapterInfo> = adapters.iter().map(wgpu::Adapter::get_info).collect();
    if adapters.is_empty() {
        let backends = wgpu::Backends::from_env();
        return Err(no_device(none_found(backends)));
    }
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let wanted = options.adapter.clone().or_else(|| set(ADAPTER_VARIABLE)).or_else(|| set(WGPU_VARIABLE));
    let place = match wanted {
        Some(wanted) => {
            named(&wanted, &infos).ok_or_else(|| no_device(format!("no adapter is `{wanted}`: {}", list(&infos))))?
        }
        None => best(&adapters, &infos).ok_or_else(|| {
            no_device(format!("none runs compute shaders within WebGPU's default limits: {}", list(&infos)))
        })?,
    };
    adapters.get(place).cloned().ok_or_else(|| no_device(list(&infos)))
}

/// The sentence for a machine on which no adapter was found among those `backends` of `WGPU_BACKEND`.
fn none_found(backends: Option<wgpu::Backends>) -> String {
    match backends {
        Some(backends) if !backends.intersects(wgpu::Backends::PRIMARY) => format!(
            "WGPU_BACKEND allows {backends:?} only, where no compute shader of this crate runs; unset it, or name one of \
             vulkan, metal and dx12"
        ),
        Some(backends) if !backends.contains(wgpu::Backends::VULKAN) => {
            format!("no adapter found among WGPU_BACKEND's {backends:?}; unset it to look among all")
        }
        _ => "no adapter found; on Linux a Vulkan driver is needed, mesa-vulkan-drivers has one in software".to_owned(),
    }
}

/// The place of the adapter that `wanted` names: `#` and a place, or a part of a name in any case.
fn named(wanted: &str, infos: &[wgpu::AdapterInfo]) -> Option<usize> {
    if let Some(place) = wanted.strip_prefix('#') {
        return place.trim().parse().ok().filter(|place| *place < infos.len());
    }
    let part = wanted.to_lowercase();
    infos.iter().position(|info| info.name.to_lowercase().contains(&part))
}

fn list(infos: &[wgpu::AdapterInfo]) -> String {
    let one = |(place, info): (usize, &wgpu::AdapterInfo)| format!("#{place} {}", info.name);
    infos.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
}

/// The most able kind of adapter that has what WebGPU promises.
fn best(adapters: &[wgpu::Adapter], infos: &[wgpu::AdapterInfo]) -> Option<usize> {
    let able = |a: &wgpu::Adapter| {
        a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
            && wgpu::Limits::default().check_limits(&a.limits())
    };
    let rank = |info: &wgpu::AdapterInfo| match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    let all = adapters.iter().zip(infos).enumerate();
    all.filter(|(_, (adapter, _))| able(adapter)).min_by_key(|(_, (_, info))| rank(info)).map(|(place, _)| place)
}
