//! The conformance suite on an NVIDIA card, each operation on its own so that one failure does not hide another.
#![cfg(feature = "cuda-kernels")]
#![expect(clippy::panic, clippy::print_stdout, reason = "a test that fails may panic, one that is skipped says so")]

#[path = "common/card.rs"]
mod card;

use card::card;
use cudarc::driver::CudaContext;
use trigrad::cuda::Cuda;
use trigrad::op::OPERATIONS;
use trigrad::testing::{Options, conformance};

/// Short tensors, for compute-sanitizer, which also wants one operation at a time: see `TRIGRAD_ONLY` below; and
/// `TRIGRAD_PART=1/3` for the second of three parts.
fn sized(options: Options) -> Options {
    let options = if std::env::var_os("TRIGRAD_SMALL").is_some() { options.max_elements(16_384) } else { options };
    let Ok(part) = std::env::var("TRIGRAD_PART") else { return options };
    let numbers = part.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
    let Some((index, of)) = numbers.filter(|(index, of)| index < of) else { panic!("TRIGRAD_PART: {part}") };
    options.part(index, of)
}

fn suite(cuda: &Cuda, options: impl Fn(&str) -> Options) {
    let mut failures = Vec::new();
    let only = std::env::var("TRIGRAD_ONLY").unwrap_or_default();
    let operations: Vec<&str> = ["memory"].iter().chain(OPERATIONS).copied().collect();
    assert!(only.is_empty() || operations.contains(&only.as_str()), "TRIGRAD_ONLY: no operation is called {only}");
    for operation in operations.into_iter().filter(|name| only.is_empty() || only == *name) {
        match conformance(cuda, &sized(options(operation))) {
            Ok(covered) => println!("{covered}"),
            Err(failure) => {
                println!("{operation}: FAILED");
                failures.push(failure.to_string());
            }
        }
    }
    assert!(failures.is_empty(), "{} operations failed:\n{}", failures.len(), failures.join("\n\n"));
}

/// What `scripts/sanitize.sh` runs one by one; needs no card.
#[test]
fn names() {
    for operation in ["memory"].iter().chain(OPERATIONS) {
        println!("operation: {operation}");
    }
}

#[test]
fn on_the_default_stream() {
    if let Some(cuda) = card() {
        suite(&cuda, Options::only);
    }
}

/// A stream of the caller's, in a context where cudarc orders uses by events.
#[test]
fn on_a_stream_of_its_own() {
    if card().is_some() {
        let stream = CudaContext::new(0).and_then(|context| context.new_stream()).unwrap();
        suite(&Cuda::with_stream(stream).unwrap(), |operation| Options::only(operation).seed(1));
    }
}

#[test]
#[ignore = "minutes: the full budget"]
fn full() {
    if let Some(cuda) = card() {
        suite(&cuda, |operation| Options::only(operation).full().seed(2));
    }
}
