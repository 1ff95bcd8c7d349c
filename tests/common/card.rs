//! The card that CUDA tests run on.
#![expect(clippy::panic, clippy::print_stdout, reason = "a test that fails may panic, one that is skipped says so")]

use trigrad::Error;
use trigrad::cuda::Cuda;

/// The first card, or nothing where the machine has none; demanded, its absence is a failure.
pub(crate) fn card() -> Option<Cuda> {
    match Cuda::new(0) {
        Ok(cuda) => Some(cuda),
        Err(Error::NoDevice { reason, .. }) if std::env::var_os("TRIGRAD_REQUIRE_CUDA").is_none() => {
            println!("skipped: no CUDA device ({reason})");
            None
        }
        Err(e) => panic!("{e}"),
    }
}
