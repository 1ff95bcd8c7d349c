//! Quantize: gradients become planes and scales.

use super::Cuda;
use super::memory::Reports;
use crate::error::{Error, Result};
use crate::op::Element;
use crate::op::quantize::{Item, Quantize};

pub(super) fn quantize<T: Element>(
    _cuda: &Cuda,
    op: &Quantize,
    _items: &mut [Item<'_, Cuda, T>],
    _reports: &mut Reports,
) -> Result<()> {
    op.validate()?;
    Err(Error::Backend { backend: "cuda", call: "quantize", message: "no kernel in this build".to_owned() })
}
