//! Memory, measured: the process's peak on the CPU, the card's peak while a run lasts on CUDA.

use candle_core::Device;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Calls `f`, and gives the most memory that was in use on the card meanwhile above what was in use before, in bytes,
/// asked of the driver every millisecond; none on the CPU.
pub(crate) fn peak<R>(device: &Device, f: impl FnOnce() -> R) -> (R, Option<u64>) {
    let Some(before) = in_use(device) else { return (f(), None) };
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(in_use(device).unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let result = f();
        stop.store(true, Ordering::Relaxed);
        result
    });
    (result, Some(most.into_inner().saturating_sub(before)))
}

#[cfg(feature = "cuda")]
fn in_use(device: &Device) -> Option<u64> {
    let (free, total) = device.as_cuda_device().ok()?.cuda_stream().context().mem_get_info().ok()?;
    Some((total - free) as u64)
}

#[cfg(not(feature = "cuda"))]
fn in_use(_: &Device) -> Option<u64> {
    None
}

/// The most memory this process had, where the system tells.
pub(crate) fn process_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}
