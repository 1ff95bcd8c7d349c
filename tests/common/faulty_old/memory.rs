//! Memory whose views can be overrun without undefined behaviour: cells of a whole buffer, and a range.

use super::Faulty;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::op::Report;
use bytemuck::Pod;
use std::cell::Cell;
use std::ops::Range;

/// A part of a buffer that knows all of it.
pub struct Part<'a, T> {
    all: &'a [Cell<T>],
    start: usize,
    len: usize,
}

impl<T> Clone for Part<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Part<'_, T> {}

impl<'a, T: Copy> Part<'a, T> {
    fn whole(all: &'a [Cell<T>]) -> Self {
        Part { all, start: 0, len: all.len() }
    }

    fn part(self, range: Range<usize>) -> Option<Self> {
        let fits = range.start <= range.end && range.end <= self.len;
        fits.then(|| Part { all: self.all, start: self.start + range.start, len: range.end - range.start })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_odd(&self) -> bool {
        self.start % 2 == 1
    }

    pub(super) fn read(&self) -> Vec<T> {
        self.all[self.start..self.start + self.len].iter().map(Cell::get).collect()
    }

    /// Writes from an offset on, past the edges of the view too, within the buffer.
    pub(super) fn write(&self, offset: isize, data: &[T]) {
        let start = self.start.saturating_add_signed(offset);
        for (cell, value) in self.all.iter().skip(start).zip(data) {
            cell.set(*value);
        }
    }
}

impl Memory for Faulty {
    type Buffer<T: Pod + Send + Sync> = Vec<Cell<T>>;
    type View<'a, T: Pod + Send + Sync> = Part<'a, T>;
    type ViewMut<'a, T: Pod + Send + Sync> = Part<'a, T>;
    type Reports = Vec<Report>;

    fn name(&self) -> String {
        format!("{:?}", self.fault)
    }

    fn zeros<T: Pod + Send + Sync>(&self, len: usize) -> Result<Vec<Cell<T>>> {
        Ok((0..len).map(|_| Cell::new(T::zeroed())).collect())
    }

    fn upload<T: Pod + Send + Sync>(&self, data: &[T]) -> Result<Vec<Cell<T>>> {
        Ok(data.iter().copied().map(Cell::new).collect())
    }

    fn download<T: Pod + Send + Sync>(&self, view: Part<'_, T>) -> Result<Vec<T>> {
        Ok(view.read())
    }

    fn clear<T: Pod + Send + Sync>(&self, view: Part<'_, T>) -> Result<()> {
        self.store(&view, &vec![T::zeroed(); view.len()], true);
        Ok(())
    }

    fn copy<T: Pod + Send + Sync>(&self, from: Part<'_, T>, to: Part<'_, T>) -> Result<()> {
        if from.len() != to.len() {
            return Err(Error::Length { what: "copy", expected: to.len() as u64, got: from.len() as u64 });
        }
        self.store(&to, &from.read(), true);
        Ok(())
    }

    fn view<T: Pod + Send + Sync>(buffer: &Vec<Cell<T>>) -> Part<'_, T> {
        Part::whole(buffer)
    }

    fn view_mut<T: Pod + Send + Sync>(buffer: &mut Vec<Cell<T>>) -> Part<'_, T> {
        Part::whole(buffer)
    }

    fn shorten<'s, 'l: 's, T: Pod + Send + Sync>(view: Self::View<'l, T>) -> Self::View<'s, T> {
        view
    }

    fn reborrow<'s, T: Pod + Send + Sync>(view: &'s mut Self::ViewMut<'_, T>) -> Self::ViewMut<'s, T> {
        *view
    }

    fn slice<T: Pod + Send + Sync>(view: Self::View<'_, T>, range: Range<usize>) -> Option<Self::View<'_, T>> {
        view.part(range)
    }

    fn slice_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        range: Range<usize>,
    ) -> Option<Self::ViewMut<'_, T>> {
        view.part(range)
    }

    fn split_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        at: usize,
    ) -> Option<(Self::ViewMut<'_, T>, Self::ViewMut<'_, T>)> {
        Some((view.part(0..at)?, view.part(at..view.len())?))
    }

    fn len<T: Pod + Send + Sync>(view: &Self::View<'_, T>) -> usize {
        Part::len(view)
    }

    fn len_mut<T: Pod + Send + Sync>(view: &Self::ViewMut<'_, T>) -> usize {
        Part::len(view)
    }

    fn reports(&self, slots: usize) -> Result<Vec<Report>> {
        Ok(vec![Report::default(); slots])
    }

    fn report_slots(reports: &Vec<Report>) -> usize {
        reports.len()
    }

    fn read_reports(&self, reports: &Vec<Report>) -> Result<Vec<Report>> {
        Ok(reports.clone())
    }

    fn clear_reports(&self, reports: &mut Vec<Report>) -> Result<()> {
        if !self.is(super::Fault::StaleOutput) {
            reports.fill(Report::default());
        }
        Ok(())
    }
}
