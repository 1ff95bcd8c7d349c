//! [`Memory`] of a [`Device`]: its backend's.

use super::arm::{Arm, on};
use super::{Buffer, Device, Reports, View, ViewMut};
use crate::error::Result;
use crate::memory::Memory;
use crate::op::Report;
use bytemuck::Pod;
use std::ops::Range;

fn zeros<B: Arm, T: Pod + Send + Sync>(b: &B, len: usize) -> Result<Buffer<T>> {
    b.zeros(len).map(B::wrap)
}

fn upload<B: Arm, T: Pod + Send + Sync>(b: &B, data: &[T]) -> Result<Buffer<T>> {
    b.upload(data).map(B::wrap)
}

fn copy<B: Arm, T: Pod + Send + Sync>(b: &B, from: View<'_, T>, mut to: ViewMut<'_, T>) -> Result<()> {
    b.copy(b.of(from)?, b.of_mut(&mut to)?)
}

fn clear_all<B: Arm, T: Pod + Send + Sync>(b: &B, views: &mut [ViewMut<'_, T>]) -> Result<()> {
    b.clear_all(views.iter_mut().map(|view| b.of_mut(view)).collect::<Result<_>>()?)
}

fn reports<B: Arm>(b: &B, slots: usize) -> Result<Reports> {
    b.reports(slots).map(B::wrap_reports)
}

impl Memory for Device {
    type Buffer<T: Pod + Send + Sync> = Buffer<T>;
    type View<'a, T: Pod + Send + Sync> = View<'a, T>;
    type ViewMut<'a, T: Pod + Send + Sync> = ViewMut<'a, T>;
    type Reports = Reports;

    fn name(&self) -> String {
        on!(Device(b) = self => b.name())
    }

    fn zeros<T: Pod + Send + Sync>(&self, len: usize) -> Result<Buffer<T>> {
        on!(Device(b) = self => zeros(b, len))
    }

    fn upload<T: Pod + Send + Sync>(&self, data: &[T]) -> Result<Buffer<T>> {
        on!(Device(b) = self => upload(b, data))
    }

    fn download<T: Pod + Send + Sync>(&self, view: View<'_, T>) -> Result<Vec<T>> {
        on!(Device(b) = self => b.download(b.of(view)?))
    }

    fn clear<T: Pod + Send + Sync>(&self, mut view: ViewMut<'_, T>) -> Result<()> {
        on!(Device(b) = self => b.clear(b.of_mut(&mut view)?))
    }

    fn clear_all<T: Pod + Send + Sync>(&self, mut views: Vec<ViewMut<'_, T>>) -> Result<()> {
        on!(Device(b) = self => clear_all(b, &mut views))
    }

    fn copy<T: Pod + Send + Sync>(&self, from: View<'_, T>, to: ViewMut<'_, T>) -> Result<()> {
        on!(Device(b) = self => copy(b, from, to))
    }

    fn view<T: Pod + Send + Sync>(buffer: &Buffer<T>) -> View<'_, T> {
        on!(Buffer(b): B = buffer => B::wrap_view(B::view(b)))
    }

    fn view_mut<T: Pod + Send + Sync>(buffer: &mut Buffer<T>) -> ViewMut<'_, T> {
        on!(Buffer(b): B = buffer => B::wrap_view_mut(B::view_mut(b)))
    }

    fn shorten<'s, 'l: 's, T: Pod + Send + Sync>(view: View<'l, T>) -> View<'s, T> {
        on!(View(v): B = view => B::wrap_view(B::shorten(v)))
    }

    fn reborrow<'s, T: Pod + Send + Sync>(view: &'s mut ViewMut<'_, T>) -> ViewMut<'s, T> {
        on!(ViewMut(v): B = view => B::wrap_view_mut(B::reborrow(v)))
    }

    fn accepts<T: Pod + Send + Sync>(&self, view: &View<'_, T>) -> Result<()> {
        on!(Device(b) = self => b.accepts(&b.of(*view)?))
    }

    fn accepts_mut<T: Pod + Send + Sync>(&self, view: &ViewMut<'_, T>) -> Result<()> {
        on!(Device(b) = self => b.accepts_mut(b.borrow_mut(view)?))
    }

    fn accepts_reports(&self, reports: &Reports) -> Result<()> {
        on!(Device(b) = self => b.accepts_reports(b.of_reports(reports)?))
    }

    fn slice<T: Pod + Send + Sync>(view: Self::View<'_, T>, range: Range<usize>) -> Option<Self::View<'_, T>> {
        on!(View(v): B = view => B::slice(v, range).map(B::wrap_view))
    }

    fn slice_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        range: Range<usize>,
    ) -> Option<Self::ViewMut<'_, T>> {
        on!(ViewMut(v): B = view => B::slice_mut(v, range).map(B::wrap_view_mut))
    }

    fn split_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        at: usize,
    ) -> Option<(Self::ViewMut<'_, T>, Self::ViewMut<'_, T>)> {
        on!(ViewMut(v): B = view => {
            B::split_mut(v, at).map(|(low, high)| (B::wrap_view_mut(low), B::wrap_view_mut(high)))
        })
    }

    fn len<T: Pod + Send + Sync>(view: &View<'_, T>) -> usize {
        on!(View(v): B = view => B::len(v))
    }

    fn len_mut<T: Pod + Send + Sync>(view: &ViewMut<'_, T>) -> usize {
        on!(ViewMut(v): B = view => B::len_mut(v))
    }

    fn reports(&self, slots: usize) -> Result<Reports> {
        on!(Device(b) = self => reports(b, slots))
    }

    fn report_slots(reports: &Reports) -> usize {
        on!(Reports(r): B = reports => B::report_slots(r))
    }

    fn read_reports(&self, reports: &Reports) -> Result<Vec<Report>> {
        on!(Device(b) = self => b.read_reports(b.of_reports(reports)?))
    }

    fn clear_reports(&self, reports: &mut Reports) -> Result<()> {
        on!(Device(b) = self => b.clear_reports(b.of_reports_mut(reports)?))
    }
}
