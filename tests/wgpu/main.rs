//! What only a wgpu device can do or suffer, and the conformance suite on it. Tests say so where there is no adapter;
//! `TRIGRAD_REQUIRE_WGPU=1` makes that a failure.
#![cfg(feature = "wgpu")]

#[path = "../common/adapter.rs"]
mod adapter;
#[path = "../common/far.rs"]
mod far;
#[path = "../common/given.rs"]
mod given;

mod checkpoint;
mod conformance;
mod device;
mod faults;
mod pieces;
