//! The input of a segment of a model: a tensor that starts a graph of its own and keeps the gradient that comes back.

use super::graft::graft;
use candle_core::{Result, Tensor, Var};
use std::sync::{Arc, Mutex, PoisonError};

/// Where the gradient of a segment's input arrives.
pub(in crate::candle) struct Entry(Arc<Mutex<Option<Tensor>>>);

impl Entry {
    /// A copy of `x` that knows nothing of how it came about, and where its gradient will be.
    pub(in crate::candle) fn new(x: &Tensor) -> Result<(Tensor, Self)> {
        let gradient = Arc::new(Mutex::new(None));
        let to = Arc::clone(&gradient);
        // candle walks back only to where a variable is.
        let start = Var::zeros(1, x.dtype(), x.device())?;
        let backward = move |_: &Tensor, _: &Tensor, g: &Tensor| {
            *to.lock().unwrap_or_else(PoisonError::into_inner) = Some(g.clone());
            Ok(None)
        };
        let copy = x.detach().force_contiguous()?;
        Ok((graft("input of a segment", &start, &start, &copy, Box::new(backward))?, Entry(gradient)))
    }

    /// Whether a graph leads back here, once the tensor itself is dropped: the graph holds the backward pass.
    pub(in crate::candle) fn reached(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// The gradient, where a backward pass came here.
    pub(in crate::candle) fn gradient(&self) -> Option<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
