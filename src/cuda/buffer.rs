//! What this backend allocates: cudarc's slice, which may be dropped on any thread.

use super::order::Binding;
use super::view::{View, ViewMut};
use cudarc::driver::CudaSlice;
use std::ops::{Deref, DerefMut};

/// An owned buffer on a CUDA device: cudarc's slice. It is freed in the order of the stream that it was allocated on,
/// after every use through a [`Cuda`](super::Cuda) on whatever stream, and on whatever thread it is dropped.
///
/// # Examples
///
/// ```no_run
/// use trigrad::Memory;
/// let cuda = trigrad::cuda::Cuda::new(0)?;
/// let buffer = cuda.zeros::<f32>(1 << 20)?;
/// assert_eq!(buffer.len(), 1 << 20);
/// std::thread::spawn(move || drop(buffer));
/// # Ok::<(), trigrad::Error>(())
/// ```
#[derive(Debug)]
pub struct Buffer<T> {
    /// Dropped before the slice, which cudarc frees without a look at the thread's context.
    _binding: Binding,
    slice: CudaSlice<T>,
}

impl<T> Buffer<T> {
    /// cudarc's slice, which is freed only where it is dropped on a thread with its context.
    #[must_use]
    pub fn into_native(self) -> CudaSlice<T> {
        self.slice
    }
}

impl<T> From<CudaSlice<T>> for Buffer<T> {
    fn from(slice: CudaSlice<T>) -> Self {
        Buffer { _binding: Binding::new(slice.context()), slice }
    }
}

impl<T> Deref for Buffer<T> {
    type Target = CudaSlice<T>;

    fn deref(&self) -> &CudaSlice<T> {
        &self.slice
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut CudaSlice<T> {
        &mut self.slice
    }
}

impl<'a, T> From<&'a Buffer<T>> for View<'a, T> {
    fn from(buffer: &'a Buffer<T>) -> Self {
        View::from(&buffer.slice)
    }
}

impl<'a, T> From<&'a mut Buffer<T>> for ViewMut<'a, T> {
    fn from(buffer: &'a mut Buffer<T>) -> Self {
        ViewMut::from(&mut buffer.slice)
    }
}
