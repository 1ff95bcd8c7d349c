//! Memory, measured: the process's peak on the CPU, the card's peak while a run lasts on CUDA and what the card says is in
//! use.

use anyhow::Result;
use candle_core::Device;

/// Calls `f`, and gives the most memory that was allocated on the card meanwhile beyond what was before, in bytes, by
/// the driver's count; none on the CPU.
pub(crate) fn peak<R>(device: &Device, f: impl FnOnce() -> R) -> Result<(R, Option<u64>)> {
    match trigrad::candle::device(device)? {
        #[cfg(feature = "cuda")]
        trigrad::device::Device::Cuda(cuda) => {
            cuda.reset_peak()?;
            let before = cuda.in_use()?.now;
            let result = f();
            Ok((result, Some(cuda.in_use()?.peak - before)))
        }
        _ => Ok((f(), None)),
    }
}

/// Memory of the card that is in use, by all processes and with what pools keep, in bytes; none on the CPU.
pub(crate) fn card(device: &Device) -> Result<Option<u64>> {
    match trigrad::candle::device(device)? {
        #[cfg(feature = "cuda")]
        trigrad::device::Device::Cuda(cuda) => {
            cuda.stream().context().bind_to_thread()?;
            let (free, total) = cudarc::driver::result::mem_get_info()?;
            Ok(Some((total - free) as u64))
        }
        _ => Ok(None),
    }
}

/// The most memory this process had, where the system tells.
pub(crate) fn process_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}
