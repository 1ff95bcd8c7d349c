//! Host memory: buffers are vectors, views are slices.

use super::Cpu;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::types::{Report, length};
use bytemuck::Pod;
use std::ops::Range;

fn reserve<T>(len: usize) -> Result<Vec<T>> {
    let mut v = Vec::new();
    v.try_reserve_exact(len).map_err(|_| Error::OutOfMemory {
        device: "cpu".to_owned(),
        asked: (len as u64).saturating_mul(size_of::<T>() as u64),
        free: None,
    })?;
    Ok(v)
}

fn copied<T: Copy>(data: &[T]) -> Result<Vec<T>> {
    let mut v = reserve(data.len())?;
    v.extend_from_slice(data);
    Ok(v)
}

impl Memory for Cpu {
    type Buffer<T: Pod + Send + Sync> = Vec<T>;
    type View<'a, T: Pod + Send + Sync> = &'a [T];
    type ViewMut<'a, T: Pod + Send + Sync> = &'a mut [T];
    type Reports = Vec<Report>;

    fn name(&self) -> String {
        format!("cpu ({})", self.simd.name())
    }

    fn zeros<T: Pod + Send + Sync>(&self, len: usize) -> Result<Vec<T>> {
        let mut v = reserve(len)?;
        v.resize(len, T::zeroed());
        Ok(v)
    }

    fn upload<T: Pod + Send + Sync>(&self, data: &[T]) -> Result<Vec<T>> {
        copied(data)
    }

    fn download<T: Pod + Send + Sync>(&self, view: &[T]) -> Result<Vec<T>> {
        copied(view)
    }

    fn clear<T: Pod + Send + Sync>(&self, view: &mut [T]) -> Result<()> {
        view.fill(T::zeroed());
        Ok(())
    }

    fn clear_all<T: Pod + Send + Sync>(&self, views: Vec<&mut [T]>) -> Result<()> {
        views.into_iter().for_each(|view| view.fill(T::zeroed()));
        Ok(())
    }

    fn copy<T: Pod + Send + Sync>(&self, from: &[T], to: &mut [T]) -> Result<()> {
        length("copy", from.len(), to.len())?;
        to.copy_from_slice(from);
        Ok(())
    }

    fn view<T: Pod + Send + Sync>(buffer: &Self::Buffer<T>) -> Self::View<'_, T> {
        buffer
    }

    fn view_mut<T: Pod + Send + Sync>(buffer: &mut Self::Buffer<T>) -> Self::ViewMut<'_, T> {
        buffer
    }

    fn shorten<'s, 'l: 's, T: Pod + Send + Sync>(view: Self::View<'l, T>) -> Self::View<'s, T> {
        view
    }

    fn reborrow<'s, T: Pod + Send + Sync>(view: &'s mut Self::ViewMut<'_, T>) -> Self::ViewMut<'s, T> {
        view
    }

    fn accepts<T: Pod + Send + Sync>(&self, _: &Self::View<'_, T>) -> Result<()> {
        Ok(())
    }

    fn accepts_mut<T: Pod + Send + Sync>(&self, _: &Self::ViewMut<'_, T>) -> Result<()> {
        Ok(())
    }

    fn accepts_reports(&self, _: &Vec<Report>) -> Result<()> {
        Ok(())
    }

    fn slice<T: Pod + Send + Sync>(view: Self::View<'_, T>, range: Range<usize>) -> Option<Self::View<'_, T>> {
        view.get(range)
    }

    fn slice_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        range: Range<usize>,
    ) -> Option<Self::ViewMut<'_, T>> {
        view.get_mut(range)
    }

    fn split_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        at: usize,
    ) -> Option<(Self::ViewMut<'_, T>, Self::ViewMut<'_, T>)> {
        view.split_at_mut_checked(at)
    }

    fn len<T: Pod + Send + Sync>(view: &Self::View<'_, T>) -> usize {
        view.len()
    }

    fn len_mut<T: Pod + Send + Sync>(view: &Self::ViewMut<'_, T>) -> usize {
        view.len()
    }

    fn reports(&self, slots: usize) -> Result<Vec<Report>> {
        let mut v = reserve(slots)?;
        v.resize(slots, Report::default());
        Ok(v)
    }

    fn report_slots(reports: &Vec<Report>) -> usize {
        reports.len()
    }

    fn read_reports(&self, reports: &Vec<Report>) -> Result<Vec<Report>> {
        copied(reports)
    }

    fn clear_reports(&self, reports: &mut Vec<Report>) -> Result<()> {
        reports.fill(Report::default());
        Ok(())
    }
}
