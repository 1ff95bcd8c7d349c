//! Accumulators for a list of tensors.
