//! The adapter that wgpu tests run on.
#![expect(clippy::panic, clippy::print_stdout, reason = "a test that fails may panic, one that is skipped says so")]

use trigrad::Error;
use trigrad::webgpu::{Options, Wgpu};

/// A device, or nothing where the machine has none; demanded, its absence is a failure.
pub(crate) fn device(options: &Options) -> Option<Wgpu> {
    match Wgpu::with(options) {
        Ok(gpu) => Some(gpu),
        Err(Error::NoDevice { reason, .. }) if std::env::var_os("TRIGRAD_REQUIRE_WGPU").is_none() => {
            println!("skipped: no adapter ({reason})");
            None
        }
        Err(e) => panic!("{e}"),
    }
}
