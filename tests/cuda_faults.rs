//! A kernel that fails while it runs, which the driver reports by a later call and which no call of its context survives:
//! errors with fields, no panic, sums that are refused, and a card on which another process goes on.
#![cfg(feature = "cuda-kernels")]
#![expect(clippy::panic, reason = "a test that fails may panic")]
#![expect(unsafe_code, reason = "a kernel that fails on purpose has to be launched")]

#[path = "common/card.rs"]
mod card;

use card::card;
use cudarc::driver::{DriverError, LaunchConfig};
use cudarc::nvrtc::Ptx;
use std::process::Command;
use trigrad::Memory;
use trigrad::accumulator::{Accumulator, Config, Floats, Id, Reduce, Spec};
use trigrad::cuda::Cuda;
use trigrad::{Error, Result};

/// Set in the process that fails.
const CHILD: &str = "TRIGRAD_FAULT_CHILD";

/// Queues a kernel that ends in a trap.
fn fault(cuda: &Cuda) -> std::result::Result<(), DriverError> {
    let text = ".version 7.0\n.target sm_75\n.address_size 64\n.visible .entry fault() { trap; }\n";
    let module = cuda.stream().context().load_module(Ptx::from_src(text))?;
    let kernel = module.load_function("fault")?;
    let mut launch = cuda.stream().launch_builder(&kernel);
    // SAFETY: the kernel takes nothing and touches no memory.
    unsafe { launch.launch(LaunchConfig::for_num_elems(1)) }?;
    Ok(())
}

/// The error of a driver that has lost its context, of a tensor or of a call.
fn lost<T>(what: &str, result: Result<T>) {
    match result {
        Err(Error::InTensor { source, .. }) => lost(what, Err::<(), _>(*source)),
        Err(Error::Backend { backend: "cuda", call, message }) => {
            assert!(call.starts_with("cu") && message.starts_with("CUDA_ERROR_"), "{what}: {call}: {message}");
        }
        Err(e) => panic!("{what}: {e:?}"),
        Ok(_) => panic!("{what} succeeded on a lost context"),
    }
}

fn one_sum(cuda: &Cuda) -> Result<Accumulator<Cuda>> {
    Accumulator::new(cuda.clone(), &[Spec::new("weights", [1000])], Config::default())
}

#[test]
fn a_kernel_that_fails_ends_in_errors_and_refused_sums() -> Result<()> {
    let Some(cuda) = card() else { return Ok(()) };
    if std::env::var_os("TRIGRAD_SMALL").is_some() {
        println!("left out: compute-sanitizer would report the trap");
        return Ok(());
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_fails", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
    assert!(said.contains("survived"), "{said}");
    // This process shares the card with the one that failed, and goes on.
    let x = cuda.upload(&[1.0f32; 1000])?;
    let mut sum = one_sum(&cuda)?;
    sum.accumulate(&[(Id::Index(0), Floats::F32(Cuda::view(&x)))], 1.0)?;
    assert_eq!(sum.found()?.non_finite, 0);
    Ok(())
}

#[test]
#[ignore = "run by the test above in a process of its own"]
fn the_process_that_fails() -> Result<()> {
    if std::env::var_os(CHILD).is_none() {
        return Ok(());
    }
    let cuda = Cuda::new(0)?;
    let x = cuda.upload(&[1.0f32; 1000])?;
    let mut out = cuda.zeros::<f32>(1000)?;
    let (mut used, mut behind, mut unused) = (one_sum(&cuda)?, one_sum(&cuda)?, one_sum(&cuda)?);
    let list = [(Id::Index(0), Floats::F32(Cuda::view(&x)))];
    used.accumulate(&list, 1.0)?;
    cuda.synchronize()?;

    assert_eq!(fault(&cuda), Ok(()));
    // Queued behind the kernel that fails: this call may or may not know yet.
    let queued = behind.accumulate(&list, 1.0);
    lost("synchronize", cuda.synchronize());
    if let Err(e) = queued {
        lost("the call behind the fault", Err::<(), _>(e));
    }
    lost("accumulate", used.accumulate(&list, 1.0));
    match used.accumulate(&list, 1.0) {
        Err(Error::Refused { .. }) => {}
        other => panic!("a sum whose update failed goes on: {other:?}"),
    }
    match used.to_vec::<f32>(Id::Index(0), Reduce::Mean) {
        Err(Error::Refused { .. }) => {}
        other => panic!("a refused sum is read: {other:?}"),
    }
    lost("accumulate, another sum", unused.accumulate(&list, 1.0));
    lost("upload", cuda.upload(&[1u32]));
    lost("zeros", cuda.zeros::<u32>(5));
    lost("reports", cuda.reports(3));
    lost("download", cuda.download(Cuda::view(&x)));
    lost("copy", cuda.copy(Cuda::view(&x), Cuda::view_mut(&mut out)));
    assert!(used.reset().is_err(), "a reset that cannot clear does not say that it did");
    drop((used, behind, unused, x, out));
    lost("a new sum", one_sum(&cuda));
    println!("survived");
    Ok(())
}
