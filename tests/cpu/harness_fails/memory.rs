//! Memory whose views can be overrun without undefined behaviour: cells of a whole buffer, and a range.

use super::faulty::{Fault, Faulty};
use bytemuck::Pod;
use std::cell::{Cell, OnceCell};
use std::ops::Range;
use trigrad::op::Report;
use trigrad::{Error, Memory, Result};

/// A buffer, and the copies of its parts that were lent.
pub(crate) struct Cells<B: Memory, T: Pod + Send + Sync> {
    cells: Vec<Cell<T>>,
    lent: Chain<B::Buffer<T>>,
}

impl<B: Memory, T: Pod + Send + Sync> Cells<B, T> {
    fn new(of: impl IntoIterator<Item = T>) -> Self {
        Cells { cells: of.into_iter().map(Cell::new).collect(), lent: Chain(OnceCell::new()) }
    }
}

/// A list that only grows, so that what it holds can be borrowed for as long as the list.
struct Chain<X>(OnceCell<Box<(X, Chain<X>)>>);

impl<X> Chain<X> {
    fn push(&self, x: X) -> &X {
        let mut end = self;
        while let Some(link) = end.0.get() {
            end = &link.1;
        }
        &end.0.get_or_init(|| Box::new((x, Chain(OnceCell::new())))).0
    }
}

/// A part of a buffer that knows all of it.
pub(crate) struct Part<'a, B: Memory, T: Pod + Send + Sync> {
    all: &'a Cells<B, T>,
    start: usize,
    len: usize,
}

impl<B: Memory, T: Pod + Send + Sync> Clone for Part<'_, B, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Memory, T: Pod + Send + Sync> Copy for Part<'_, B, T> {}

impl<'a, B: Memory, T: Pod + Send + Sync> Part<'a, B, T> {
    fn whole(all: &'a Cells<B, T>) -> Self {
        Part { all, start: 0, len: all.cells.len() }
    }

    fn part(self, range: Range<usize>) -> Option<Self> {
        let fits = range.start <= range.end && range.end <= self.len;
        fits.then(|| Part { all: self.all, start: self.start + range.start, len: range.end - range.start })
    }

    pub(crate) fn is_odd(&self) -> bool {
        self.start % 2 == 1
    }

    pub(crate) fn read(&self) -> Vec<T> {
        self.all.cells[self.start..self.start + self.len].iter().map(Cell::get).collect()
    }

    /// Writes from an offset on, past the edges of the view too, within the buffer.
    pub(crate) fn write(&self, offset: isize, data: &[T]) {
        let start = self.start.saturating_add_signed(offset);
        for (cell, value) in self.all.cells.iter().skip(start).zip(data) {
            cell.set(*value);
        }
    }

    /// Keeps a copy as long as the buffer.
    pub(crate) fn lend(&self, copy: B::Buffer<T>) -> &'a B::Buffer<T> {
        self.all.lent.push(copy)
    }
}

/// A part that is written, and the copy that an operation works on.
pub(crate) struct Written<'a, B: Memory, T: Pod + Send + Sync> {
    pub(crate) part: Part<'a, B, T>,
    pub(crate) copy: Option<B::Buffer<T>>,
}

impl<'a, B: Memory, T: Pod + Send + Sync> Written<'a, B, T> {
    fn new(part: Part<'a, B, T>) -> Self {
        Written { part, copy: None }
    }
}

/// Reports: all that was found, what one call found, and none.
pub(crate) struct Found {
    pub(crate) total: Vec<Report>,
    pub(crate) call: Vec<Report>,
    pub(crate) blank: Vec<Report>,
}

impl<B: Memory<Reports = Vec<Report>> + 'static> Memory for Faulty<B> {
    type Buffer<T: Pod + Send + Sync> = Cells<B, T>;
    type View<'a, T: Pod + Send + Sync> = Part<'a, B, T>;
    type ViewMut<'a, T: Pod + Send + Sync> = Written<'a, B, T>;
    type Reports = Found;

    fn name(&self) -> String {
        format!("{:?}", self.fault)
    }

    fn zeros<T: Pod + Send + Sync>(&self, len: usize) -> Result<Cells<B, T>> {
        Ok(Cells::new(std::iter::repeat_n(T::zeroed(), len)))
    }

    fn upload<T: Pod + Send + Sync>(&self, data: &[T]) -> Result<Cells<B, T>> {
        Ok(Cells::new(data.iter().copied()))
    }

    fn download<T: Pod + Send + Sync>(&self, view: Part<'_, B, T>) -> Result<Vec<T>> {
        Ok(view.read())
    }

    fn clear<T: Pod + Send + Sync>(&self, view: Written<'_, B, T>) -> Result<()> {
        self.store(view.part, &vec![T::zeroed(); view.part.len]);
        Ok(())
    }

    fn clear_all<T: Pod + Send + Sync>(&self, views: Vec<Written<'_, B, T>>) -> Result<()> {
        views.into_iter().try_for_each(|view| self.clear(view))
    }

    fn copy<T: Pod + Send + Sync>(&self, from: Part<'_, B, T>, to: Written<'_, B, T>) -> Result<()> {
        if from.len != to.part.len {
            return Err(Error::Length { what: "copy", expected: to.part.len as u64, got: from.len as u64 });
        }
        self.store(to.part, &from.read());
        Ok(())
    }

    fn view<T: Pod + Send + Sync>(buffer: &Cells<B, T>) -> Part<'_, B, T> {
        Part::whole(buffer)
    }

    fn view_mut<T: Pod + Send + Sync>(buffer: &mut Cells<B, T>) -> Written<'_, B, T> {
        Written::new(Part::whole(buffer))
    }

    fn shorten<'s, 'l: 's, T: Pod + Send + Sync>(view: Part<'l, B, T>) -> Part<'s, B, T> {
        view
    }

    fn reborrow<'s, T: Pod + Send + Sync>(view: &'s mut Written<'_, B, T>) -> Written<'s, B, T> {
        Written::new(view.part)
    }

    fn accepts<T: Pod + Send + Sync>(&self, _: &Part<'_, B, T>) -> Result<()> {
        Ok(())
    }

    fn accepts_mut<T: Pod + Send + Sync>(&self, _: &Written<'_, B, T>) -> Result<()> {
        Ok(())
    }

    fn accepts_reports(&self, _: &Found) -> Result<()> {
        Ok(())
    }

    fn slice<T: Pod + Send + Sync>(view: Self::View<'_, T>, range: Range<usize>) -> Option<Self::View<'_, T>> {
        view.part(range)
    }

    fn slice_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        range: Range<usize>,
    ) -> Option<Self::ViewMut<'_, T>> {
        Some(Written::new(view.part.part(range)?))
    }

    fn split_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        at: usize,
    ) -> Option<(Self::ViewMut<'_, T>, Self::ViewMut<'_, T>)> {
        let (left, right) = (view.part.part(0..at)?, view.part.part(at..view.part.len)?);
        Some((Written::new(left), Written::new(right)))
    }

    fn len<T: Pod + Send + Sync>(view: &Part<'_, B, T>) -> usize {
        view.len
    }

    fn len_mut<T: Pod + Send + Sync>(view: &Written<'_, B, T>) -> usize {
        view.part.len
    }

    fn reports(&self, slots: usize) -> Result<Found> {
        let blank = vec![Report::default(); slots];
        Ok(Found { total: blank.clone(), call: blank.clone(), blank })
    }

    fn report_slots(reports: &Found) -> usize {
        reports.total.len()
    }

    fn read_reports(&self, reports: &Found) -> Result<Vec<Report>> {
        Ok(reports.total.clone())
    }

    fn clear_reports(&self, reports: &mut Found) -> Result<()> {
        if self.fault != Fault::StaleOutput {
            reports.total.fill(Report::default());
        }
        Ok(())
    }
}
