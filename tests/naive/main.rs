//! A slow version written from NUMERICS.md: real numbers as integers times powers of two, searches in place of bit tricks.
//! Section numbers are that page's. It is compared with `numerics` function by function, and with the CPU backend
//! operation by operation.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "../common/mod.rs"]
mod common;
mod functions;
mod operations;
mod page;

use trigrad::testing::values::Rng;

fn rng(purpose: u64) -> Rng {
    Rng::new(2024, purpose)
}
