//! Buffers and views: a view is a wgpu buffer, a byte offset and a length, at any element offset.

use super::device::Inner;
use super::error::backend;
use super::raw::Raw;
use crate::error::{Error, Result};
use bytemuck::Pod;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An owned buffer of `T` on the device.
#[derive(Debug)]
pub struct Buffer<T> {
    raw: wgpu::Buffer,
    len: usize,
    maker: Arc<Inner>,
    /// Whether the wgpu buffer was handed out: somebody else may then destroy it.
    lent: AtomicBool,
    element: PhantomData<T>,
}

impl<T> Buffer<T> {
    pub(super) fn new(maker: &Arc<Inner>, raw: wgpu::Buffer, len: usize) -> Self {
        Buffer { raw, len, maker: Arc::clone(maker), lent: AtomicBool::new(false), element: PhantomData }
    }

    /// The wgpu buffer; it is at least as long as the elements and padded to 16 bytes.
    #[must_use]
    pub fn raw(&self) -> &wgpu::Buffer {
        self.lent.store(true, Ordering::Relaxed);
        &self.raw
    }

    /// Whose buffer it is, as long as nobody else has it too.
    fn maker(&self) -> Option<&Arc<Inner>> {
        (!self.lent.load(Ordering::Relaxed)).then_some(&self.maker)
    }

    /// The bytes of its elements.
    pub(super) fn all(&self) -> Raw<'_> {
        Raw { buffer: &self.raw, offset: 0, bytes: self.len as u64 * size_of::<T>() as u64 }
    }

    pub(super) fn view(&self) -> View<'_, T> {
        View { raw: self.all(), len: self.len, maker: self.maker(), element: PhantomData }
    }

    pub(super) fn view_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut { raw: self.all(), len: self.len, maker: self.maker(), element: PhantomData }
    }
}

/// A borrowed range of a wgpu buffer.
#[derive(Debug)]
pub struct View<'a, T> {
    pub(super) raw: Raw<'a>,
    pub(super) len: usize,
    /// Whose buffer it is; `None` for one that somebody else made or has too.
    pub(super) maker: Option<&'a Arc<Inner>>,
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
    pub(super) len: usize,
    /// Whose buffer it is; `None` for one that somebody else made or has too.
    pub(super) maker: Option<&'a Arc<Inner>>,
    element: PhantomData<T>,
}

impl<'a, T> View<'a, T> {
    /// A part; `None` where the range does not lie within it.
    pub(super) fn part(self, range: Range<usize>) -> Option<View<'a, T>> {
        let (raw, len) = cut::<T>(self.raw, self.len, range)?;
        Some(View { raw, len, ..self })
    }
}

impl<'a, T> ViewMut<'a, T> {
    /// The same for a shorter time.
    pub(super) fn again(&mut self) -> ViewMut<'_, T> {
        ViewMut { raw: self.raw, len: self.len, maker: self.maker, element: PhantomData }
    }

    /// A part; `None` where the range does not lie within it.
    pub(super) fn part(self, range: Range<usize>) -> Option<ViewMut<'a, T>> {
        let (raw, len) = cut::<T>(self.raw, self.len, range)?;
        Some(ViewMut { raw, len, ..self })
    }

    /// Two parts: before `at`, and from there on.
    pub(super) fn parts(self, at: usize) -> Option<(ViewMut<'a, T>, ViewMut<'a, T>)> {
        let (left, before) = cut::<T>(self.raw, self.len, 0..at)?;
        let (right, after) = cut::<T>(self.raw, self.len, at..self.len)?;
        let half = |raw, len| ViewMut { raw, len, maker: self.maker, element: PhantomData };
        Some((half(left, before), half(right, after)))
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
        Ok(View { raw: foreign::<T>(buffer, offset, len)?, len, maker: None, element: PhantomData })
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
        Ok(ViewMut { raw: foreign::<T>(buffer, offset, len)?, len, maker: None, element: PhantomData })
    }
}

fn cut<T>(raw: Raw<'_>, len: usize, range: Range<usize>) -> Option<(Raw<'_>, usize)> {
    if range.start > range.end || range.end > len {
        return None;
    }
    let (size, count) = (size_of::<T>() as u64, range.end - range.start);
    Some((raw.part(range.start as u64 * size, count as u64 * size), count))
}
