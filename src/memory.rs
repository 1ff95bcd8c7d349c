//! [`Memory`]: the buffers, views and reports of one kind of memory.
//!
//! Views are the native ones (`&[T]`, a CUDA device pointer with a stream, a range of a wgpu buffer), so whoever
//! holds raw buffers needs no wrapper.

use crate::error::Result;
use crate::types::Report;
use bytemuck::Pod;
use std::ops::Range;

/// Buffers and views of one kind of memory.
pub trait Memory {
    /// An owned buffer of `T`.
    type Buffer<T: Pod + Send + Sync>: Send + 'static;
    /// A borrowed buffer, or part of one.
    type View<'a, T: Pod + Send + Sync>: Copy;
    /// A mutably borrowed buffer, or part of one.
    type ViewMut<'a, T: Pod + Send + Sync>;
    /// What operations found, one slot a tensor; starts empty.
    type Reports: Send + 'static;

    /// A short name of the device, for messages and tables.
    fn name(&self) -> String;
    /// A buffer of `len` zeros.
    ///
    /// # Errors
    ///
    /// [`crate::Error::OutOfMemory`] or what the device reports.
    fn zeros<T: Pod + Send + Sync>(&self, len: usize) -> Result<Self::Buffer<T>>;
    /// A buffer with the host's data.
    ///
    /// # Errors
    ///
    /// [`crate::Error::OutOfMemory`] or what the device reports.
    fn upload<T: Pod + Send + Sync>(&self, data: &[T]) -> Result<Self::Buffer<T>>;
    /// Copies to the host; waits for the device.
    ///
    /// # Errors
    ///
    /// What the device reports.
    fn download<T: Pod + Send + Sync>(&self, view: Self::View<'_, T>) -> Result<Vec<T>>;
    /// Overwrites a buffer with zeros.
    ///
    /// # Errors
    ///
    /// What the device reports.
    fn clear<T: Pod + Send + Sync>(&self, view: Self::ViewMut<'_, T>) -> Result<()>;
    /// The same for a list, in a bounded number of launches.
    ///
    /// # Errors
    ///
    /// As for [`clear`](Self::clear); a view of another device is found before anything is written.
    fn clear_all<T: Pod + Send + Sync>(&self, views: Vec<Self::ViewMut<'_, T>>) -> Result<()>;
    /// Copies one view to another of the same length, on the device.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`] or what the device reports.
    fn copy<T: Pod + Send + Sync>(&self, from: Self::View<'_, T>, to: Self::ViewMut<'_, T>) -> Result<()>;
    /// Borrows a buffer.
    fn view<T: Pod + Send + Sync>(buffer: &Self::Buffer<T>) -> Self::View<'_, T>;
    /// Borrows a buffer mutably.
    fn view_mut<T: Pod + Send + Sync>(buffer: &mut Self::Buffer<T>) -> Self::ViewMut<'_, T>;
    /// The same view for a shorter time (a compiler can not know that the type allows it): `view`.
    fn shorten<'s, 'l: 's, T: Pod + Send + Sync>(view: Self::View<'l, T>) -> Self::View<'s, T>;
    /// Borrows a mutable view for a shorter time.
    fn reborrow<'s, T: Pod + Send + Sync>(view: &'s mut Self::ViewMut<'_, T>) -> Self::ViewMut<'s, T>;
    /// Checks that a view can be read here, so that a list can be refused before any of it is written.
    ///
    /// # Errors
    ///
    /// [`crate::Error::WrongDevice`].
    fn accepts<T: Pod + Send + Sync>(&self, view: &Self::View<'_, T>) -> Result<()>;
    /// Checks that a view can be written here.
    ///
    /// # Errors
    ///
    /// [`crate::Error::WrongDevice`].
    fn accepts_mut<T: Pod + Send + Sync>(&self, view: &Self::ViewMut<'_, T>) -> Result<()>;
    /// Checks that reports can be used here.
    ///
    /// # Errors
    ///
    /// [`crate::Error::WrongDevice`].
    fn accepts_reports(&self, reports: &Self::Reports) -> Result<()>;
    /// A part of a view; `None` where the range does not lie within it.
    fn slice<T: Pod + Send + Sync>(view: Self::View<'_, T>, range: Range<usize>) -> Option<Self::View<'_, T>>;
    /// A part of a mutable view; `None` where the range does not lie within it.
    fn slice_mut<T: Pod + Send + Sync>(view: Self::ViewMut<'_, T>, range: Range<usize>)
    -> Option<Self::ViewMut<'_, T>>;
    /// Divides a mutable view in two: elements before `at`, and from `at` on; `None` where `at` lies past the end.
    /// So that one buffer can hold the outputs of a whole list.
    fn split_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        at: usize,
    ) -> Option<(Self::ViewMut<'_, T>, Self::ViewMut<'_, T>)>;
    /// Elements in a view.
    fn len<T: Pod + Send + Sync>(view: &Self::View<'_, T>) -> usize;
    /// Elements in a mutable view.
    fn len_mut<T: Pod + Send + Sync>(view: &Self::ViewMut<'_, T>) -> usize;

    /// Empty reports with `slots` slots.
    ///
    /// # Errors
    ///
    /// [`crate::Error::OutOfMemory`] or what the device reports.
    fn reports(&self, slots: usize) -> Result<Self::Reports>;
    /// How many slots reports have.
    fn report_slots(reports: &Self::Reports) -> usize;
    /// Copies the reports to the host; waits for the device.
    ///
    /// # Errors
    ///
    /// What the device reports, an asynchronous fault included.
    fn read_reports(&self, reports: &Self::Reports) -> Result<Vec<Report>>;
    /// Empties every slot.
    ///
    /// # Errors
    ///
    /// What the device reports.
    fn clear_reports(&self, reports: &mut Self::Reports) -> Result<()>;
}
