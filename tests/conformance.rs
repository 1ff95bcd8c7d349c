//! The conformance suite on the backends that every machine has.

use std::time::Instant;
use trigrad::testing::cases::OPERATIONS;
use trigrad::testing::{Options, Reference, conformance};

/// The suite holds for the specification itself: no case depends on what outputs held before, and none fails.
#[test]
fn reference() {
    for operation in OPERATIONS.iter().copied().chain(["memory"]) {
        let start = Instant::now();
        let covered = conformance(&Reference, &Options::only(operation)).unwrap();
        println!("{:6.2} s {covered}", start.elapsed().as_secs_f64());
    }
}
