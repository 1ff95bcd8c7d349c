//! The conformance suite on wgpu, on every path an adapter may need: with and without 64-bit integers, subgroups,
//! float estimates and hardware sums, with folded dispatches and split tensors. All must give the same bits.
#![cfg(all(feature = "wgpu", feature = "testing"))]

use trigrad::Error;
use trigrad::testing::{Options, cases, conformance};
use trigrad::webgpu::{self, Wgpu};

/// A device, or nothing where the machine has none; demanded, its absence is a failure.
fn device(options: &webgpu::Options) -> Option<Wgpu> {
    match Wgpu::with(options) {
        Ok(gpu) => Some(gpu),
        Err(Error::NoDevice { reason, .. }) if std::env::var_os("TRIGRAD_REQUIRE_WGPU").is_none() => {
            println!("skipped: no adapter ({reason})");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// `TRIGRAD_ONLY=merge,look` runs these operations only.
fn suite(options: &webgpu::Options, budget: &Options) {
    let Some(gpu) = device(options) else { return };
    println!("{}: {}", gpu.adapter().name, gpu.abilities());
    // A software adapter compiles and runs shaders on the CPU: shorter tensors there, every case all the same.
    let software = gpu.adapter().device_type == wgpu::DeviceType::Cpu;
    let budget = if software { budget.clone().max_elements(1_200) } else { budget.clone() };
    let only = std::env::var("TRIGRAD_ONLY").unwrap_or_default();
    for operation in ["memory"].iter().chain(cases::OPERATIONS) {
        if !only.is_empty() && !only.split(',').any(|o| o == *operation) {
            continue;
        }
        let started = std::time::Instant::now();
        match conformance(&gpu, &budget.clone().and(operation)) {
            Ok(covered) => println!("{operation}, {:.1} s: {covered}", started.elapsed().as_secs_f64()),
            Err(failure) => panic!("{failure}"),
        }
    }
}

fn quick() -> Options {
    Options::default().max_elements(70_000)
}

#[test]
fn all_abilities() {
    suite(&webgpu::Options::default(), &quick());
}

#[test]
fn no_abilities() {
    let mut options = webgpu::Options::default();
    (options.int64, options.subgroups) = (false, false);
    suite(&options, &quick().seed(1));
}

#[test]
fn integers_only() {
    let mut options = webgpu::Options::default();
    (options.estimates, options.floats) = (false, false);
    suite(&options, &quick().seed(2));
}
