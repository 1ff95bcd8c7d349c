<<<<<<< HEAD
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
=======
//! Device memory: buffers are cudarc's slices, transfers are queued on the stream, only downloads wait.

use super::error::{Driver, describe};
use super::launch::allocate;
use super::view::{View, ViewMut};
use super::Cuda;
use crate::backend::Memory;
use crate::error::{Error, Result};
use crate::op::{Report, length};
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
>>>>>>> cudahost

impl Memory for Cuda {
    type Buffer<T: Pod + Send + Sync> = CudaSlice<T>;
    type View<'a, T: Pod + Send + Sync> = View<'a, T>;
    type ViewMut<'a, T: Pod + Send + Sync> = ViewMut<'a, T>;
    type Reports = Reports;

    fn name(&self) -> String {
<<<<<<< HEAD
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
=======
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
>>>>>>> cudahost
    }

    fn view<T: Pod + Send + Sync>(buffer: &CudaSlice<T>) -> View<'_, T> {
        buffer.into()
    }

    fn view_mut<T: Pod + Send + Sync>(buffer: &mut CudaSlice<T>) -> ViewMut<'_, T> {
        buffer.into()
    }

<<<<<<< HEAD
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
=======
    fn shorten<'s, 'l: 's, T: Pod + Send + Sync>(view: View<'l, T>) -> View<'s, T> {
        view
    }

    fn reborrow<'s, T: Pod + Send + Sync>(view: &'s mut ViewMut<'_, T>) -> ViewMut<'s, T> {
        view.reborrow()
    }

    fn accepts<T: Pod + Send + Sync>(&self, view: &View<'_, T>) -> Result<()> {
        self.holds(view.stream())
    }

    fn slice<T: Pod + Send + Sync>(view: View<'_, T>, range: Range<usize>) -> Option<View<'_, T>> {
        view.get(range)
    }

    fn slice_mut<T: Pod + Send + Sync>(view: ViewMut<'_, T>, range: Range<usize>) -> Option<ViewMut<'_, T>> {
        view.get_mut(range)
    }

    fn split_mut<T: Pod + Send + Sync>(
        view: ViewMut<'_, T>,
        at: usize,
    ) -> Option<(ViewMut<'_, T>, ViewMut<'_, T>)> {
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
>>>>>>> cudahost
    }
}
