//! candle tensors in and out.
