//! Accumulate: gradients are added to levels or counts where they lie.

use super::Cuda;
use super::memory::Reports;
use super::view::{View, ViewMut};
use crate::error::{Error, Result};
use crate::op::Element;
use crate::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, Look, LookItem, Merge, WindowScales};

fn missing(call: &'static str) -> Result<()> {
    Err(Error::Backend { backend: "cuda", call, message: "no kernel in this build".to_owned() })
}

pub(super) fn adaptive<T: Element>(
    _cuda: &Cuda,
    op: &Adaptive,
    _items: &mut [AdaptiveItem<'_, Cuda, T>],
    _reports: &mut Reports,
) -> Result<()> {
    op.validate()?;
    missing("accumulate_adaptive")
}

pub(super) fn exact<T: Element>(
    _cuda: &Cuda,
    op: &Exact,
    _items: &mut [ExactItem<'_, Cuda, T>],
    _reports: &mut Reports,
) -> Result<()> {
    op.validate()?;
    missing("accumulate_exact")
}

pub(super) fn look<T: Element>(
    _cuda: &Cuda,
    op: &Look,
    _items: &mut [LookItem<'_, Cuda, T>],
    _reports: &mut Reports,
) -> Result<()> {
    op.validate()?;
    missing("look")
}

pub(super) fn window_scales(
    _cuda: &Cuda,
    _op: &WindowScales,
    _seen: View<'_, u16>,
    _scales: ViewMut<'_, u16>,
) -> Result<()> {
    missing("window_scales")
}

pub(super) fn merge(_cuda: &Cuda, _op: &Merge, _from: View<'_, u32>, _into: ViewMut<'_, u32>) -> Result<()> {
    missing("merge")
}
