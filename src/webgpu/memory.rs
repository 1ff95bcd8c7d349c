//! [`Memory`] of a wgpu device.

use super::device::Wgpu;
use super::reports::Reports;
use super::view::{Buffer, View, ViewMut};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::types::Report;
use bytemuck::Pod;
use std::ops::Range;

impl Memory for Wgpu {
    type Buffer<T: Pod + Send + Sync> = Buffer<T>;
    type View<'a, T: Pod + Send + Sync> = View<'a, T>;
    type ViewMut<'a, T: Pod + Send + Sync> = ViewMut<'a, T>;
    type Reports = Reports;

    fn name(&self) -> String {
        self.inner.name()
    }

    fn zeros<T: Pod + Send + Sync>(&self, len: usize) -> Result<Buffer<T>> {
        // wgpu fills new buffers with zeros.
        let raw = self.inner.link.allocate((len as u64).saturating_mul(size_of::<T>() as u64))?;
        self.inner.link.probe_alive("zeros")?;
        Ok(Buffer::new(&self.inner, raw, len))
    }

    fn upload<T: Pod + Send + Sync>(&self, data: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.zeros(data.len())?;
        self.fill(data, &mut buffer)?;
        Ok(buffer)
    }

    fn download<T: Pod + Send + Sync>(&self, view: View<'_, T>) -> Result<Vec<T>> {
        self.accepts(&view)?;
        self.read(view.raw)
    }

    fn clear<T: Pod + Send + Sync>(&self, view: ViewMut<'_, T>) -> Result<()> {
        self.accepts_mut(&view)?;
        self.clear_bytes(&[view.raw])
    }

    fn clear_all<T: Pod + Send + Sync>(&self, views: Vec<ViewMut<'_, T>>) -> Result<()> {
        views.iter().try_for_each(|view| self.accepts_mut(view))?;
        let raws: Vec<_> = views.iter().map(|view| view.raw).collect();
        self.clear_bytes(&raws)
    }

    fn copy<T: Pod + Send + Sync>(&self, from: View<'_, T>, to: ViewMut<'_, T>) -> Result<()> {
        if from.len != to.len {
            return Err(Error::Length { what: "copy", expected: to.len as u64, got: from.len as u64 });
        }
        self.accepts(&from)?;
        self.accepts_mut(&to)?;
        self.copy_bytes(from.raw, to.raw)
    }

    fn view<T: Pod + Send + Sync>(buffer: &Buffer<T>) -> View<'_, T> {
        buffer.view()
    }

    fn view_mut<T: Pod + Send + Sync>(buffer: &mut Buffer<T>) -> ViewMut<'_, T> {
        buffer.view_mut()
    }

    fn shorten<'s, 'l: 's, T: Pod + Send + Sync>(view: View<'l, T>) -> View<'s, T> {
        view
    }

    fn reborrow<'s, T: Pod + Send + Sync>(view: &'s mut Self::ViewMut<'_, T>) -> ViewMut<'s, T> {
        view.again()
    }

    fn accepts<T: Pod + Send + Sync>(&self, view: &View<'_, T>) -> Result<()> {
        self.usable(view.maker, view.raw)
    }

    fn accepts_mut<T: Pod + Send + Sync>(&self, view: &ViewMut<'_, T>) -> Result<()> {
        self.usable(view.maker, view.raw)
    }

    fn accepts_reports(&self, reports: &Reports) -> Result<()> {
        self.usable(Some(reports.maker()), reports.raw())
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
        view.parts(at)
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
        self.accepts_reports(reports)?;
        reports.read(self)
    }

    fn clear_reports(&self, reports: &mut Reports) -> Result<()> {
        self.accepts_reports(reports)?;
        self.clear_bytes(&[reports.raw()])
    }
}
