//! The conformance suite on wgpu, on every path an adapter may need: with and without 64-bit integers, subgroups,
//! float estimates and hardware sums. All must give the same bits.
//!
//! `TRIGRAD_REQUIRE_WGPU=1`: a machine without an adapter fails instead of saying so. `TRIGRAD_ONLY=merge,look`: only
//! these operations.
//!
//! A software adapter compiles and runs shaders on the CPU. It takes shorter tensors, and every fifth of the thousand
//! cases of `quantize`, another fifth on each path. `TRIGRAD_ALL_CASES=1`: all of them, and longer tensors;
//! `TRIGRAD_LONG=1`: what a card takes.
#![expect(clippy::print_stdout, reason = "the suite says what it covered")]

use crate::adapter::device;
use trigrad::op::OPERATIONS;
use trigrad::testing::{Options, conformance};
use trigrad::webgpu;

/// Runs operations with a seed; on a software adapter, which compiles and runs shaders on the CPU, with tensors of
/// at most `short` elements: every case all the same.
fn suite(options: &webgpu::Options, operations: &[&str], seed: u64, short: usize) {
    let Some(gpu) = device(options) else { return };
    println!("{}: {}", gpu.adapter().name, gpu.abilities());
    let set = |name: &str| std::env::var_os(name).is_some();
    let software = gpu.adapter().device_type == wgpu::DeviceType::Cpu && !set("TRIGRAD_LONG");
    let some = software && !set("TRIGRAD_ALL_CASES");
    // Of what is cut to chunks of 4096 elements, two chunks.
    let longest = if some {
        short.min(4_200)
    } else if software {
        short
    } else {
        70_000
    };
    let only = std::env::var("TRIGRAD_ONLY").unwrap_or_default();
    let mut failures = Vec::new();
    for operation in operations.iter().filter(|o| only.is_empty() || only.split(',').any(|only| only == **o)) {
        let started = std::time::Instant::now();
        // An update is some hundred integer operations an element.
        let longest = if software && operation.starts_with("update") { longest.min(700) } else { longest };
        let options = Options::only(operation).seed(seed).max_elements(longest);
        let options = if some && *operation == "quantize" { options.part(seed, 5) } else { options };
        match conformance(&gpu, &options) {
            Ok(covered) => println!("{operation}, {:.1} s: {covered}", started.elapsed().as_secs_f64()),
            Err(failure) => {
                println!("{operation}: FAILED");
                failures.push(failure.to_string());
            }
        }
    }
    assert!(failures.is_empty(), "{} operations failed:\n{}", failures.len(), failures.join("\n\n"));
}

/// Whatever the adapter has.
#[test]
fn all_abilities() {
    let all: Vec<&str> = ["memory"].iter().chain(OPERATIONS).copied().collect();
    suite(&webgpu::Options::default(), &all, 0, 9_000);
}

/// WebGPU's defaults: Philox by 16-bit halves, blocks joined in workgroup memory.
#[test]
fn no_abilities() {
    let mut options = webgpu::Options::default();
    (options.int64, options.subgroups) = (false, false);
    let operations = [
        "quantize",
        "accumulate_adaptive",
        "accumulate_exact",
        "look",
        "update_sgd",
        "update_adamw",
        "update_adamw_8bit",
    ];
    suite(&options, &operations, 1, 1_100);
}

/// Every decision in integers, and f32 sums and products too.
#[test]
fn integers_only() {
    let mut options = webgpu::Options::default();
    (options.estimates, options.floats) = (false, false);
    let operations = [
        "quantize",
        "accumulate_adaptive",
        "accumulate_exact",
        "accumulate_f32",
        "look",
        "check",
        "read_out",
        "read_out_f32",
        "update_sgd",
        "update_adamw",
        "update_adamw_8bit",
    ];
    suite(&options, &operations, 2, 360);
}
