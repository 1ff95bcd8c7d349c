//! Host memory for the reference.

use super::Reference;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::op::Report;
use bytemuck::Pod;
use std::ops::Range;

impl Memory for Reference {
    type Buffer<T: Pod + Send + Sync> = Vec<T>;
    type View<'a, T: Pod + Send + Sync> = &'a [T];
    type ViewMut<'a, T: Pod + Send + Sync> = &'a mut [T];
    type Reports = Vec<Report>;

    fn name(&self) -> String {
        "reference".to_owned()
    }

    fn zeros<T: Pod + Send + Sync>(&self, len: usize) -> Result<Vec<T>> {
        Ok(vec![T::zeroed(); len])
    }

    fn upload<T: Pod + Send + Sync>(&self, data: &[T]) -> Result<Vec<T>> {
        Ok(data.to_vec())
    }

    fn download<T: Pod + Send + Sync>(&self, view: &[T]) -> Result<Vec<T>> {
        Ok(view.to_vec())
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
        if from.len() != to.len() {
            return Err(Error::Length { what: "copy", expected: to.len() as u64, got: from.len() as u64 });
        }
        to.copy_from_slice(from);
        Ok(())
    }

    fn view<T: Pod + Send + Sync>(buffer: &Vec<T>) -> &[T] {
        buffer
    }

    fn view_mut<T: Pod + Send + Sync>(buffer: &mut Vec<T>) -> &mut [T] {
        buffer
    }

    fn shorten<'s, 'l: 's, T: Pod + Send + Sync>(view: Self::View<'l, T>) -> Self::View<'s, T> {
        view
    }

    fn reborrow<'s, T: Pod + Send + Sync>(view: &'s mut Self::ViewMut<'_, T>) -> Self::ViewMut<'s, T> {
        view
    }

    fn accepts<T: Pod + Send + Sync>(&self, _: &&[T]) -> Result<()> {
        Ok(())
    }

    fn accepts_mut<T: Pod + Send + Sync>(&self, _: &&mut [T]) -> Result<()> {
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

    fn len<T: Pod + Send + Sync>(view: &&[T]) -> usize {
        view.len()
    }

    fn len_mut<T: Pod + Send + Sync>(view: &&mut [T]) -> usize {
        view.len()
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
        reports.fill(Report::default());
        Ok(())
    }
}
