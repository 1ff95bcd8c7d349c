//! Update: weights follow gradients straight out of levels and scales.

use super::Cuda;
use super::memory::Reports;
use crate::error::{Error, Result};
use crate::op::Element;
use crate::op::update::{AdamW, AdamWItem, Sgd, SgdItem};

fn missing(call: &'static str) -> Result<()> {
    Err(Error::Backend { backend: "cuda", call, message: "no kernel in this build".to_owned() })
}

pub(super) fn sgd<T: Element>(
    _cuda: &Cuda,
    op: &Sgd,
    _items: &mut [SgdItem<'_, Cuda, T>],
    _guards: Option<&Reports>,
) -> Result<()> {
    op.validate()?;
    missing("update_sgd")
}

pub(super) fn adamw<T: Element>(
    _cuda: &Cuda,
    op: &AdamW,
    _items: &mut [AdamWItem<'_, Cuda, T>],
    _guards: Option<&Reports>,
) -> Result<()> {
    op.validate()?;
    missing("update_adamw")
}
