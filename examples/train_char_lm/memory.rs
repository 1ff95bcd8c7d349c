//! Memory, measured: the process's peak on the CPU, the card's peak while a run lasts on CUDA.

use candle_core::Device;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Calls `f`, and gives the most memory in use on the card meanwhile, in bytes; none on the CPU, or where the driver's
/// tool does not answer.
pub(crate) fn peak<R>(device: &Device, f: impl FnOnce() -> R) -> (R, Option<u64>) {
    if device.is_cpu() {
        return (f(), None);
    }
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(in_use().unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let result = f();
        stop.store(true, Ordering::Relaxed);
        result
    });
    (result, Some(most.into_inner()).filter(|m| *m > 0))
}

fn in_use() -> Option<u64> {
    let out =
        Command::new("nvidia-smi").args(["--query-gpu=memory.used", "--format=csv,noheader,nounits"]).output().ok()?;
    String::from_utf8(out.stdout).ok()?.lines().next()?.trim().parse::<u64>().ok().map(|mib| mib << 20)
}

/// The most memory this process had, where the system tells.
pub(crate) fn process_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}
