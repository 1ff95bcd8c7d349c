//! Buffers, views and reports.

use super::view::{Uses, View, ViewMut};
use super::{Cuda, item::Item};
use crate::backend::Memory;
use crate::error::{Error, Result};
use crate::op::Report;
use bytemuck::Pod;
use cudarc::driver::CudaSlice;
use std::ops::Range;

/// Words of a slot: non-finite, the complement of the first index, clipped. All zero is the empty report.
const SLOT: usize = 3;

/// What operations found, in device memory.
#[derive(Debug)]
pub struct Reports {
    slots: CudaSlice<u64>,
}

impl Reports {
    /// The address of slot 0, for an operation that adds to slots.
    pub(super) fn address<'a>(&'a mut self, uses: &mut Uses<'a>) -> Result<u64> {
        uses.write_slice(&mut self.slots)
    }

    /// The address of slot 0, for an operation that looks at them.
    pub(super) fn address_read<'a>(&'a self, uses: &mut Uses<'a>) -> Result<u64> {
        uses.read((&self.slots).into())
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.len() / SLOT
    }
}

/// The address of a slot.
pub(super) const fn slot(base: u64, at: usize) -> u64 {
    base + (at * SLOT * size_of::<u64>()) as u64
}

/// Checks that a report slot exists.
pub(super) fn slot_exists(reports: &Reports, at: usize) -> Result<()> {
    let slots = reports.slots();
    if at < slots {
        Ok(())
    } else {
        Err(Error::Length { what: "report slots", expected: at as u64 + 1, got: slots as u64 })
    }
}

impl Memory for Cuda {
    type Buffer<T: Pod + Send + Sync> = CudaSlice<T>;
    type View<'a, T: Pod + Send + Sync> = View<'a, T>;
    type ViewMut<'a, T: Pod + Send + Sync> = ViewMut<'a, T>;
    type Reports = Reports;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn zeros<T: Pod + Send + Sync>(&self, len: usize) -> Result<CudaSlice<T>> {
        self.allocate_zeros(len)
    }

    fn upload<T: Pod + Send + Sync>(&self, data: &[T]) -> Result<CudaSlice<T>> {
        self.allocate_from(data)
    }

    fn download<T: Pod + Send + Sync>(&self, view: View<'_, T>) -> Result<Vec<T>> {
        let mut uses = Uses::new(self);
        let address = uses.read(view)?;
        self.read_back(address, view.len())
    }

    fn clear<T: Pod + Send + Sync>(&self, mut view: ViewMut<'_, T>) -> Result<()> {
        let bytes = view.len() * size_of::<T>();
        let mut uses = Uses::new(self);
        let address = uses.write(&mut view)?;
        self.fill_zeros(address, bytes)
    }

    fn copy<T: Pod + Send + Sync>(&self, from: View<'_, T>, mut to: ViewMut<'_, T>) -> Result<()> {
        crate::op::length("copy", from.len(), to.len())?;
        let mut uses = Uses::new(self);
        let source = uses.read(from)?;
        let target = uses.write(&mut to)?;
        self.copy_bytes(source, target, from.len() * size_of::<T>())
    }

    fn view<T: Pod + Send + Sync>(buffer: &CudaSlice<T>) -> View<'_, T> {
        buffer.into()
    }

    fn view_mut<T: Pod + Send + Sync>(buffer: &mut CudaSlice<T>) -> ViewMut<'_, T> {
        buffer.into()
    }

    fn slice<T: Pod + Send + Sync>(view: View<'_, T>, range: Range<usize>) -> Option<View<'_, T>> {
        view.slice(range)
    }

    fn slice_mut<T: Pod + Send + Sync>(view: ViewMut<'_, T>, range: Range<usize>) -> Option<ViewMut<'_, T>> {
        view.slice(range)
    }

    fn len<T: Pod + Send + Sync>(view: &View<'_, T>) -> usize {
        view.len()
    }

    fn len_mut<T: Pod + Send + Sync>(view: &ViewMut<'_, T>) -> usize {
        view.len()
    }

    fn reports(&self, slots: usize) -> Result<Reports> {
        Ok(Reports { slots: self.allocate_zeros(SLOT.saturating_mul(slots))? })
    }

    fn report_slots(reports: &Reports) -> usize {
        reports.slots()
    }

    fn read_reports(&self, reports: &Reports) -> Result<Vec<Report>> {
        let words = self.download((&reports.slots).into())?;
        Ok(words
            .chunks_exact(SLOT)
            .map(|w| Report { non_finite: w[0], first: (w[0] > 0).then_some(!w[1]), clipped: w[2] })
            .collect())
    }

    fn clear_reports(&self, reports: &mut Reports) -> Result<()> {
        self.clear((&mut reports.slots).into())
    }
}
