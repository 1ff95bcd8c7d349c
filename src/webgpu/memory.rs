//! Buffers and views: a view is a wgpu buffer, a byte offset and a length, at any element offset.

use super::Wgpu;
use super::error::backend;
use super::reports::Reports;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::op::Report;
use bytemuck::Pod;
use std::marker::PhantomData;
use std::ops::Range;

/// An owned buffer of `T` on the device.
#[derive(Debug)]
pub struct Buffer<T> {
    raw: wgpu::Buffer,
    len: usize,
    element: PhantomData<T>,
}

impl<T> Buffer<T> {
    /// The wgpu buffer; it is at least as long as the elements and padded to 16 bytes.
    #[must_use]
    pub fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }
}

/// A borrowed range of a wgpu buffer.
#[derive(Debug)]
pub struct View<'a, T> {
    pub(super) raw: Raw<'a>,
    len: usize,
    element: PhantomData<T>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

/// A mutably borrowed range of a wgpu buffer.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    pub(super) raw: Raw<'a>,
    len: usize,
    element: PhantomData<T>,
}

/// Bytes of a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw<'a> {
    pub(super) buffer: &'a wgpu::Buffer,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl<'a> Raw<'a> {
    /// A part, in bytes from the start of this one.
    pub(super) fn part(self, offset: u64, bytes: u64) -> Raw<'a> {
        Raw { buffer: self.buffer, offset: self.offset + offset, bytes }
    }
}

/// A range of a buffer that somebody else made, checked.
fn foreign<T: Pod>(buffer: &wgpu::Buffer, offset: u64, len: usize) -> Result<Raw<'_>> {
    let size = size_of::<T>() as u64;
    if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
        return Err(backend("view", "the buffer was not made with BufferUsages::STORAGE"));
    }
    if size == 0 || !offset.is_multiple_of(size) {
        return Err(Error::Alignment { what: "byte offset in a wgpu buffer", got: offset, multiple: size });
    }
    let bytes = size.checked_mul(len as u64).and_then(|b| Some((b, b.checked_add(offset)?)));
    match bytes {
        // Storage is bound in words of 4 bytes, so what follows the last whole one cannot be reached.
        Some((bytes, end)) if end <= buffer.size() / 4 * 4 => Ok(Raw { buffer, offset, bytes }),
        _ => Err(Error::Length {
            what: "elements in a wgpu buffer",
            expected: len as u64,
            got: (buffer.size() / 4 * 4).saturating_sub(offset) / size,
        }),
    }
}

impl<'a, T: Pod> View<'a, T> {
    /// `len` elements of a buffer from a byte offset on; the buffer has usage `STORAGE` (and `COPY_SRC` to be
    /// downloaded or copied).
    ///
    /// # Errors
    ///
    /// [`Error::Alignment`] for an offset that is not a multiple of the element's size, [`Error::Length`] for a
    /// range outside the buffer, [`Error::Backend`] for a buffer without `STORAGE`.
    pub fn new(buffer: &'a wgpu::Buffer, offset: u64, len: usize) -> Result<Self> {
        Ok(View { raw: foreign::<T>(buffer, offset, len)?, len, element: PhantomData })
    }
}

impl<'a, T: Pod> ViewMut<'a, T> {
    /// [`View::new`], to be written: the caller sees to it that nothing else writes there. `COPY_DST` is needed to be
    /// cleared or copied to.
    ///
    /// # Errors
    ///
    /// As [`View::new`].
    pub fn new(buffer: &'a wgpu::Buffer, offset: u64, len: usize) -> Result<Self> {
        Ok(ViewMut { raw: foreign::<T>(buffer, offset, len)?, len, element: PhantomData })
    }
}

impl Wgpu {
    /// A buffer of at least `bytes` bytes, zeros.
    pub(super) fn allocate(&self, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let (size, limit) = (bytes.max(1).checked_next_multiple_of(16), self.inner.buffer_max);
        let Some(size) = size.filter(|size| *size <= limit) else {
            return Err(Error::Limit { what: "bytes in a wgpu buffer", got: bytes, limit });
        };
        self.scoped("create_buffer", size, || {
            Ok(self.inner.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("trigrad"),
                size,
                usage,
                mapped_at_creation: false,
            }))
        })
    }
}

/// What every buffer of this backend can be used for.
pub(super) const USAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

impl Memory for Wgpu {
    type Buffer<T: Pod + Send + Sync> = Buffer<T>;
    type View<'a, T: Pod + Send + Sync> = View<'a, T>;
    type ViewMut<'a, T: Pod + Send + Sync> = ViewMut<'a, T>;
    type Reports = Reports;

    fn name(&self) -> String {
        format!("wgpu: {} ({:?})", self.inner.info.name, self.inner.info.backend)
    }

    fn zeros<T: Pod + Send + Sync>(&self, len: usize) -> Result<Buffer<T>> {
        // wgpu fills new buffers with zeros.
        let raw = self.allocate((len as u64).saturating_mul(size_of::<T>() as u64), USAGE)?;
        self.probe_alive("zeros")?;
        Ok(Buffer { raw, len, element: PhantomData })
    }

    fn upload<T: Pod + Send + Sync>(&self, data: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.zeros(data.len())?;
        self.fill(data, &mut buffer)?;
        Ok(buffer)
    }

    fn download<T: Pod + Send + Sync>(&self, view: View<'_, T>) -> Result<Vec<T>> {
        self.read(view.raw)
    }

    fn clear<T: Pod + Send + Sync>(&self, view: ViewMut<'_, T>) -> Result<()> {
        self.clear_bytes(view.raw)
    }

    fn copy<T: Pod + Send + Sync>(&self, from: View<'_, T>, to: ViewMut<'_, T>) -> Result<()> {
        if from.len != to.len {
            return Err(Error::Length { what: "copy", expected: to.len as u64, got: from.len as u64 });
        }
        self.copy_bytes(from.raw, to.raw)
    }

    fn view<T: Pod + Send + Sync>(buffer: &Buffer<T>) -> View<'_, T> {
        let bytes = buffer.len as u64 * size_of::<T>() as u64;
        View { raw: Raw { buffer: &buffer.raw, offset: 0, bytes }, len: buffer.len, element: PhantomData }
    }

    fn view_mut<T: Pod + Send + Sync>(buffer: &mut Buffer<T>) -> ViewMut<'_, T> {
        let bytes = buffer.len as u64 * size_of::<T>() as u64;
        ViewMut { raw: Raw { buffer: &buffer.raw, offset: 0, bytes }, len: buffer.len, element: PhantomData }
    }

    fn shorten<'s, 'l: 's, T: Pod + Send + Sync>(view: View<'l, T>) -> View<'s, T> {
        view
    }

    fn reborrow<'s, T: Pod + Send + Sync>(view: &'s mut Self::ViewMut<'_, T>) -> ViewMut<'s, T> {
        ViewMut { raw: view.raw, len: view.len, element: PhantomData }
    }

    fn slice<T: Pod + Send + Sync>(view: Self::View<'_, T>, range: Range<usize>) -> Option<Self::View<'_, T>> {
        let (raw, len) = cut::<T>(view.raw, view.len, range)?;
        Some(View { raw, len, element: PhantomData })
    }

    fn slice_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        range: Range<usize>,
    ) -> Option<Self::ViewMut<'_, T>> {
        let (raw, len) = cut::<T>(view.raw, view.len, range)?;
        Some(ViewMut { raw, len, element: PhantomData })
    }

    fn split_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        at: usize,
    ) -> Option<(Self::ViewMut<'_, T>, Self::ViewMut<'_, T>)> {
        let (left, before) = cut::<T>(view.raw, view.len, 0..at)?;
        let (right, after) = cut::<T>(view.raw, view.len, at..view.len)?;
        let half = |raw, len| ViewMut { raw, len, element: PhantomData };
        Some((half(left, before), half(right, after)))
    }

    fn len<T: Pod + Send + Sync>(view: &View<'_, T>) -> usize {
        view.len
    }

    fn len_mut<T: Pod + Send + Sync>(view: &ViewMut<'_, T>) -> usize {
        view.len
    }

    fn reports(&self, slots: usize) -> Result<Reports> {
        Reports::new(self, slots)
    }

    fn report_slots(reports: &Reports) -> usize {
        reports.slots()
    }

    fn read_reports(&self, reports: &Reports) -> Result<Vec<Report>> {
        reports.read(self)
    }

    fn clear_reports(&self, reports: &mut Reports) -> Result<()> {
        self.clear_bytes(reports.raw())
    }
}

fn cut<T>(raw: Raw<'_>, len: usize, range: Range<usize>) -> Option<(Raw<'_>, usize)> {
    if range.start > range.end || range.end > len {
        return None;
    }
    let (size, count) = (size_of::<T>() as u64, range.end - range.start);
    Some((raw.part(range.start as u64 * size, count as u64 * size), count))
}
