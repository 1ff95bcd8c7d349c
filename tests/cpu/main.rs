//! What holds on every machine. One program, because each program of tests compiles the crate's generic code again: a
//! minute of two cores for each. `cargo test --features testing --test cpu goldens::` runs one module of it.
//!
//! `training_backends`, `training_queued` and `moments` run on every backend that is built in and has a device.

#[cfg(feature = "wgpu")]
#[path = "../common/adapter.rs"]
mod adapter;
#[cfg(feature = "cuda-kernels")]
#[path = "../common/card.rs"]
mod card;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/training.rs"]
mod training;

mod accumulation_noise;
mod accumulator;
mod accumulator_failure;
mod architecture;
mod checkpoint;
mod checkpoint_versions;
mod conformance;
mod determinism;
mod faults;
mod goldens;
mod harness_fails;
mod moments;
mod numerics_total;
mod optimizer_update;
mod page;
mod parts;
mod properties;
mod published;
mod support;
mod training_backends;
mod training_groups;
mod training_queued;
mod unbiased;
