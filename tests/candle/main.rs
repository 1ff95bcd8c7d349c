//! The adapter for candle: tensors in and out, training, and vsa-optim-rs's names.

#[cfg(feature = "wgpu")]
#[path = "../common/adapter.rs"]
mod adapter;

mod checkpoint_training;
#[cfg(feature = "wgpu")]
mod on_wgpu;
mod optimizer_failure;
mod optimizer_training;
mod release;
mod resume;
mod seed_api;
mod segments;
mod tensors;
mod training;
