//! The same training on a card, twice, and on the CPU: equal bits after every step.
#![cfg(feature = "cuda")]
#![expect(clippy::panic, clippy::print_stdout, reason = "a test that fails may panic, one that is skipped says so")]

#[path = "common/training.rs"]
mod training;

use training::{FORMATS, sound, train};
use trigrad::cpu::Cpu;
use trigrad::cuda::Cuda;
use trigrad::{Error, Result};

/// The first card, or nothing where the machine has none; demanded, its absence is a failure.
fn card() -> Option<Cuda> {
    match Cuda::new(0) {
        Ok(cuda) => Some(cuda),
        Err(Error::NoDevice { reason, .. }) if std::env::var_os("TRIGRAD_REQUIRE_CUDA").is_none() => {
            println!("skipped: no CUDA device ({reason})");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn a_training_on_a_card_is_the_one_on_the_cpu() -> Result<()> {
    let Some(cuda) = card() else { return Ok(()) };
    for format in FORMATS {
        for adam in [true, false] {
            let expected = train(&Cpu::new(), format, adam)?;
            assert!(sound(&expected));
            assert_eq!(train(&cuda, format, adam)?, expected, "{format:?}, AdamW: {adam}");
            assert_eq!(train(&cuda, format, adam)?, expected, "{format:?}, AdamW: {adam}, the second time");
        }
    }
    Ok(())
}
