//! How a tensor lies in its storage.

use crate::error::Error;
use candle_core::Layout;

/// The error for a layout whose elements do not lie one after the other in their storage.
pub(crate) fn not_contiguous(layout: &Layout) -> Error {
    Error::NotContiguous { shape: layout.dims().to_vec(), strides: layout.stride().to_vec() }
}
