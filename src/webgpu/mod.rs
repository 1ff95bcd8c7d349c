//! The operations as WGSL compute shaders on any GPU that wgpu reaches (Vulkan, Metal, DX12), with the CPU's bits.
//!
//! [`Wgpu`] is the device: [`Wgpu::new`] chooses an adapter, [`Wgpu::from_device`] takes the caller's own device and
//! queue. It implements [`crate::memory::Memory`] and [`crate::op::Backend`]; buffers stay on the GPU,
//! operations are submitted and return at once, and only what reads a result to the host waits: `download`,
//! `read_reports` and `read_sums`. (An upload returns once its bytes are staged; where more than 64 MiB are on their
//! way, once the oldest of them have arrived.) [`View::new`] borrows a buffer that somebody else made, at any offset, and
//! [`Wgpu::record`] puts operations into the caller's own command encoder instead of submitting them.
//!
//! No feature beyond WebGPU's defaults is needed. 64-bit integers and subgroups are used where the adapter has them,
//! and whether its f32 sums and products round as IEEE 754 asks is tried out once; where they do not, they are
//! computed in integers. None of these choices moves a bit ([`Options`] turns each off, and the tests compare).
//!
//! candle has no wgpu device: a gradient that lies in a candle CPU tensor is uploaded once a micro-batch, through
//! staging buffers that are kept ([`Wgpu::write`]); the accumulator stays on the GPU. On Metal the code is the same,
//! but it has been run on Vulkan only.

mod accumulate;
mod adapter;
mod check;
mod dequantize;
mod device;
mod error;
mod expand;
mod follow;
mod launch;
mod layout;
mod limits;
mod link;
mod memory;
mod open;
mod options;
mod pack;
mod pipeline;
mod probe;
mod quantize;
mod raw;
mod read_out;
mod reduce;
mod reports;
mod shader;
mod staging;
mod state;
mod transfer;
mod update;
mod update_adamw_8bit;
mod view;
mod window;

pub use adapter::ADAPTER_VARIABLE;
pub use device::Wgpu;
pub use options::Options;
pub use reports::Reports;
pub use view::{Buffer, View, ViewMut};

mod shaders;
