//! Device memory: buffers are cudarc's slices, transfers are queued on the stream, only downloads wait.

use super::Cuda;
use super::error::{Driver, describe};
use super::launch::{allocate, pinned};
use super::view::{View, ViewMut};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::types::{Report, length};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::{CudaSlice, DeviceSlice};
use std::ops::Range;

/// A report as kernels keep it; all-zero memory is the empty one. Mirrors `kernels/include/report.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Cell {
    non_finite: u64,
    /// The complement of the first index.
    not_first: u64,
    clipped: u64,
}

impl From<Cell> for Report {
    fn from(cell: Cell) -> Self {
        let first = (cell.non_finite > 0).then_some(!cell.not_first);
        Report { non_finite: cell.non_finite, first, clipped: cell.clipped }
    }
}

/// Reports on a CUDA device.
#[derive(Debug)]
pub struct Reports(pub(super) CudaSlice<Cell>);

impl Memory for Cuda {
    type Buffer<T: Pod + Send + Sync> = CudaSlice<T>;
    type View<'a, T: Pod + Send + Sync> = View<'a, T>;
    type ViewMut<'a, T: Pod + Send + Sync> = ViewMut<'a, T>;
    type Reports = Reports;

    fn name(&self) -> String {
        describe(self.stream().context())
    }

    fn zeros<T: Pod + Send + Sync>(&self, len: usize) -> Result<CudaSlice<T>> {
        let mut buffer = allocate(self, len)?;
        self.clear(Self::view_mut(&mut buffer))?;
        Ok(buffer)
    }

    fn upload<T: Pod + Send + Sync>(&self, data: &[T]) -> Result<CudaSlice<T>> {
        let mut buffer = allocate(self, data.len())?;
        let mut view = ViewMut::from(&mut buffer);
        if let Some(mut bytes) = view.bytes_mut().filter(|bytes| !bytes.is_empty()) {
            self.stream().memcpy_htod(bytemuck::cast_slice::<T, u8>(data), &mut bytes).during("cuMemcpyHtoDAsync")?;
            if pinned(data) {
                self.synchronize()?;
            }
        }
        Ok(buffer)
    }

    fn download<T: Pod + Send + Sync>(&self, view: View<'_, T>) -> Result<Vec<T>> {
        self.accepts(&view)?;
        let mut data = Vec::new();
        data.try_reserve_exact(view.len()).map_err(|_| Error::OutOfMemory {
            device: "cpu".to_owned(),
            asked: view.num_bytes() as u64,
            free: None,
        })?;
        data.resize(view.len(), T::zeroed());
        if let Some(bytes) = view.bytes().filter(|bytes| !bytes.is_empty()) {
            let to: &mut [u8] = bytemuck::cast_slice_mut(&mut data);
            self.stream().memcpy_dtoh(&bytes, to).during("cuMemcpyDtoHAsync")?;
        }
        self.synchronize()?;
        Ok(data)
    }

    fn clear<T: Pod + Send + Sync>(&self, mut view: ViewMut<'_, T>) -> Result<()> {
        self.holds(view.stream())?;
        match view.bytes_mut().filter(|bytes| !bytes.is_empty()) {
            Some(mut bytes) => self.stream().memset_zeros(&mut bytes).during("cuMemsetD8Async"),
            None => Ok(()),
        }
    }

    fn copy<T: Pod + Send + Sync>(&self, from: View<'_, T>, mut to: ViewMut<'_, T>) -> Result<()> {
        length("copy", from.len(), to.len())?;
        self.accepts(&from)?;
        self.holds(to.stream())?;
        if from.is_empty() {
            return Ok(());
        }
        self.stream().memcpy_dtod(&from, &mut to).during("cuMemcpyDtoDAsync")
    }

    fn view<T: Pod + Send + Sync>(buffer: &CudaSlice<T>) -> View<'_, T> {
        buffer.into()
    }

    fn view_mut<T: Pod + Send + Sync>(buffer: &mut CudaSlice<T>) -> ViewMut<'_, T> {
        buffer.into()
    }

    fn shorten<'s, 'l: 's, T: Pod + Send + Sync>(view: View<'l, T>) -> View<'s, T> {
        view
    }

    fn reborrow<'s, T: Pod + Send + Sync>(view: &'s mut ViewMut<'_, T>) -> ViewMut<'s, T> {
        view.reborrow()
    }

    fn accepts<T: Pod + Send + Sync>(&self, view: &View<'_, T>) -> Result<()> {
        self.holds(view.stream())
    }

    fn accepts_mut<T: Pod + Send + Sync>(&self, view: &ViewMut<'_, T>) -> Result<()> {
        self.holds(view.stream())
    }

    fn accepts_reports(&self, reports: &Reports) -> Result<()> {
        self.holds(reports.0.stream())
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
        view.split_at(at)
    }

    fn len<T: Pod + Send + Sync>(view: &View<'_, T>) -> usize {
        DeviceSlice::len(view)
    }

    fn len_mut<T: Pod + Send + Sync>(view: &ViewMut<'_, T>) -> usize {
        DeviceSlice::len(view)
    }

    fn reports(&self, slots: usize) -> Result<Reports> {
        self.zeros(slots).map(Reports)
    }

    fn report_slots(reports: &Reports) -> usize {
        reports.0.len()
    }

    fn read_reports(&self, reports: &Reports) -> Result<Vec<Report>> {
        Ok(self.download(Self::view(&reports.0))?.into_iter().map(Report::from).collect())
    }

    fn clear_reports(&self, reports: &mut Reports) -> Result<()> {
        self.clear(Self::view_mut(&mut reports.0))
    }
}
