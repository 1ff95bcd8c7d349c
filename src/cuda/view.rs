//! Borrowed device memory: a cudarc slice or view, and a range within it.

use super::Cuda;
use crate::error::Result;
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, SyncOnDrop};
use std::ops::Range;

/// A borrowed buffer, or part of one; from `&CudaSlice` or `&CudaView`.
pub struct View<'a, T> {
    owner: Owner<'a, T>,
    start: usize,
    len: usize,
}

enum Owner<'a, T> {
    Slice(&'a CudaSlice<T>),
    View(&'a CudaView<'a, T>),
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<T> Clone for Owner<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Owner<'_, T> {}

impl<'a, T> From<&'a CudaSlice<T>> for View<'a, T> {
    fn from(slice: &'a CudaSlice<T>) -> Self {
        View { owner: Owner::Slice(slice), start: 0, len: slice.len() }
    }
}

impl<'a, T> From<&'a CudaView<'a, T>> for View<'a, T> {
    fn from(view: &'a CudaView<'a, T>) -> Self {
        View { owner: Owner::View(view), start: 0, len: view.len() }
    }
}

impl<T> View<'_, T> {
    /// Elements in the view.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the view has no elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn slice(self, range: Range<usize>) -> Option<Self> {
        let len = within(&range, self.len)?;
        Some(View { start: self.start + range.start, len, ..self })
    }
}

/// A mutably borrowed buffer, or part of one; from `&mut CudaSlice` or `CudaViewMut`.
pub struct ViewMut<'a, T> {
    owner: OwnerMut<'a, T>,
    start: usize,
    len: usize,
}

enum OwnerMut<'a, T> {
    Slice(&'a mut CudaSlice<T>),
    View(CudaViewMut<'a, T>),
}

impl<'a, T> From<&'a mut CudaSlice<T>> for ViewMut<'a, T> {
    fn from(slice: &'a mut CudaSlice<T>) -> Self {
        let len = slice.len();
        ViewMut { owner: OwnerMut::Slice(slice), start: 0, len }
    }
}

impl<'a, T> From<CudaViewMut<'a, T>> for ViewMut<'a, T> {
    fn from(view: CudaViewMut<'a, T>) -> Self {
        let len = view.len();
        ViewMut { owner: OwnerMut::View(view), start: 0, len }
    }
}

impl<T> ViewMut<'_, T> {
    /// Elements in the view.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the view has no elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn slice(self, range: Range<usize>) -> Option<Self> {
        let len = within(&range, self.len)?;
        Some(ViewMut { start: self.start + range.start, len, ..self })
    }
}

fn within(range: &Range<usize>, len: usize) -> Option<usize> {
    (range.end <= len).then_some(())?;
    range.end.checked_sub(range.start)
}

/// The addresses of one operation's arguments. Where cudarc tracks uses by events, the stream waits for earlier uses
/// as the addresses are taken, and dropping this records the new ones: keep it until the work is queued.
pub(super) struct Uses<'a> {
    cuda: &'a Cuda,
    tracked: bool,
    records: Vec<SyncOnDrop<'a>>,
}

impl<'a> Uses<'a> {
    pub(super) fn new(cuda: &'a Cuda) -> Self {
        let tracked = cuda.stream().context().is_managing_stream_synchronization();
        Uses { cuda, tracked, records: Vec::new() }
    }

    /// The address of what is read.
    pub(super) fn read<T>(&mut self, view: View<'a, T>) -> Result<u64> {
        let stream = self.cuda.stream();
        let (address, record) = match view.owner {
            Owner::Slice(slice) => {
                self.cuda.same_context(slice.context())?;
                slice.device_ptr(stream)
            }
            Owner::View(inner) => {
                self.cuda.same_context(cudarc::driver::DeviceSlice::stream(inner).context())?;
                inner.device_ptr(stream)
            }
        };
        if self.tracked {
            self.records.push(record);
        }
        Ok(address + (view.start * size_of::<T>()) as u64)
    }

    /// The address of what is written.
    pub(super) fn write<T>(&mut self, view: &'a mut ViewMut<'_, T>) -> Result<u64> {
        let stream = self.cuda.stream();
        let offset = (view.start * size_of::<T>()) as u64;
        let (address, record) = match &mut view.owner {
            OwnerMut::Slice(slice) => {
                self.cuda.same_context(slice.context())?;
                slice.device_ptr_mut(stream)
            }
            OwnerMut::View(inner) => {
                self.cuda.same_context(cudarc::driver::DeviceSlice::stream(inner).context())?;
                inner.device_ptr_mut(stream)
            }
        };
        if self.tracked {
            self.records.push(record);
        }
        Ok(address + offset)
    }
}
