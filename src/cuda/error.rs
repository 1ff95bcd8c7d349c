//! Driver errors as errors of this crate.

use super::Cuda;
use crate::error::{Error, Result};
use cudarc::driver::{CudaContext, DriverError, result};

/// A driver's result becomes this crate's.
pub(super) trait Driver<T> {
    /// Names the call that failed, or that reported an earlier asynchronous failure.
    fn during(self, call: &'static str) -> Result<T>;
}

impl<T> Driver<T> for Result<T, DriverError> {
    fn during(self, call: &'static str) -> Result<T> {
        self.map_err(|e| Error::Backend { backend: "cuda", call, message: text(e) })
    }
}

/// Name and sentence of a driver error.
pub(super) fn text(error: DriverError) -> String {
    let name = error.error_name().map_or_else(|_| format!("{:?}", error.0), |s| s.to_string_lossy().into_owned());
    error.error_string().map_or_else(|_| name.clone(), |s| format!("{name}: {}", s.to_string_lossy()))
}

impl Cuda {
    /// A view that lives in another context.
    pub(super) fn foreign(&self, got: &CudaContext) -> Error {
        let ours = describe(self.stream().context());
        let theirs = describe(got);
        let got = if ours == theirs { format!("{theirs}, in another context") } else { theirs };
        Error::WrongDevice { expected: ours, got }
    }
}

/// `cuda:0 (NVIDIA H200)`.
pub(super) fn describe(context: &CudaContext) -> String {
    // Not cudarc's own: it would take an error away that is somebody else's.
    let name = result::device::get_name(context.cu_device()).unwrap_or_else(|_| "unnamed".to_owned());
    format!("cuda:{} ({name})", context.ordinal())
}
