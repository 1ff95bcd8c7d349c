//! Views of device memory: cudarc's own, made to be copied and divided.

#![expect(unsafe_code, reason = "part of the launch floor: reinterpretations that cudarc leaves to its caller")]

use super::item::Pointer;
use super::order::event;
use cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop, sys,
};
use std::ops::Range;
use std::sync::Arc;

/// A borrowed buffer on a CUDA device, or part of one: made from `&CudaSlice<T>` or `&CudaView<T>`.
///
/// It remembers what it was made from, so that cudarc's events order reads and writes between streams.
#[derive(Debug)]
pub struct View<'a, T> {
    of: Source<'a, T>,
    start: usize,
    len: usize,
}

#[derive(Debug)]
enum Source<'a, T> {
    Slice(&'a CudaSlice<T>),
    View(&'a CudaView<'a, T>),
}

impl<T> Clone for Source<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Source<'_, T> {}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T> From<&'a CudaSlice<T>> for View<'a, T> {
    fn from(slice: &'a CudaSlice<T>) -> Self {
        View { of: Source::Slice(slice), start: 0, len: slice.len() }
    }
}

impl<'a, T> From<&'a CudaView<'a, T>> for View<'a, T> {
    fn from(view: &'a CudaView<'a, T>) -> Self {
        View { of: Source::View(view), start: 0, len: view.len() }
    }
}

impl<'a, T> View<'a, T> {
    /// A part; `None` where the range does not lie within the view.
    #[must_use]
    pub fn get(self, range: Range<usize>) -> Option<Self> {
        (range.start <= range.end && range.end <= self.len).then(|| View {
            of: self.of,
            start: self.start + range.start,
            len: range.end - range.start,
        })
    }

    /// cudarc's view of the same elements.
    #[must_use]
    pub fn native(self) -> CudaView<'a, T> {
        let range = self.start..self.start + self.len;
        match self.of {
            Source::Slice(slice) => slice.slice(range),
            Source::View(view) => view.slice(range),
        }
    }
}

impl<T> DeviceSlice<T> for View<'_, T> {
    fn len(&self) -> usize {
        self.len
    }

    fn stream(&self) -> &Arc<CudaStream> {
        match self.of {
            Source::Slice(slice) => slice.stream(),
            Source::View(view) => view.stream(),
        }
    }
}

impl<T> DevicePtr<T> for View<'_, T> {
    fn device_ptr<'s>(&'s self, stream: &'s CudaStream) -> (sys::CUdeviceptr, SyncOnDrop<'s>) {
        self.native().view_ptr(stream)
    }
}

/// Where a slice lies. Whoever uses it sees to its order.
pub(super) fn address<T>(slice: &CudaSlice<T>) -> Pointer {
    // No wait: a stream is behind what was queued on it.
    let (address, note) = slice.device_ptr(slice.stream());
    let _ = event(note);
    Pointer::new(address)
}

/// A mutably borrowed buffer on a CUDA device, or part of one: made from `&mut CudaSlice<T>` or a `CudaViewMut<T>`.
#[derive(Debug)]
pub struct ViewMut<'a, T>(CudaViewMut<'a, T>);

impl<'a, T> From<&'a mut CudaSlice<T>> for ViewMut<'a, T> {
    fn from(slice: &'a mut CudaSlice<T>) -> Self {
        ViewMut(slice.as_view_mut())
    }
}

impl<'a, T> From<CudaViewMut<'a, T>> for ViewMut<'a, T> {
    fn from(view: CudaViewMut<'a, T>) -> Self {
        ViewMut(view)
    }
}

impl<'a, T> ViewMut<'a, T> {
    /// Borrows for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut(self.0.slice_mut(..))
    }

    /// A part; `None` where the range does not lie within the view.
    #[must_use]
    pub fn get_mut(mut self, range: Range<usize>) -> Option<Self> {
        let part = self.0.try_slice_mut(range)?;
        // SAFETY: see `whole_life`; `self` is gone after this call.
        Some(ViewMut(unsafe { whole_life(part) }))
    }

    /// The elements before `at` and those from `at` on; `None` where `at` lies past the end.
    #[must_use]
    pub fn split_at(mut self, at: usize) -> Option<(Self, Self)> {
        let (low, high) = self.0.try_split_at_mut(at)?;
        // SAFETY: see `whole_life`; the halves do not overlap, and `self` is gone after this call.
        let low = unsafe { whole_life(low) };
        // SAFETY: as above.
        let high = unsafe { whole_life(high) };
        Some((ViewMut(low), ViewMut(high)))
    }

    /// cudarc's view of the same elements.
    #[must_use]
    pub fn native(self) -> CudaViewMut<'a, T> {
        self.0
    }
}

/// A part of a view, with the life of the whole. cudarc divides a mutable view only for the time it is borrowed.
///
/// # Safety
///
/// 1. `part` was made from a view of life `'a`: what it refers to (the buffer, its events and its stream) lives for
///    `'a`.
/// 2. That view is not used again, so that the part's elements stay borrowed once.
unsafe fn whole_life<'a, T>(part: CudaViewMut<'_, T>) -> CudaViewMut<'a, T> {
    // SAFETY: the types differ in their lifetime alone, and by 1 and 2 the longer one holds.
    unsafe { std::mem::transmute::<CudaViewMut<'_, T>, CudaViewMut<'a, T>>(part) }
}

impl<T> DeviceSlice<T> for ViewMut<'_, T> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn stream(&self) -> &Arc<CudaStream> {
        self.0.stream()
    }
}

impl<T> DevicePtrMut<T> for ViewMut<'_, T> {
    fn device_ptr_mut<'s>(&'s mut self, stream: &'s CudaStream) -> (sys::CUdeviceptr, SyncOnDrop<'s>) {
        self.0.device_ptr_mut(stream)
    }
}
