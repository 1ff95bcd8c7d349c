//! Device memory: buffers are cudarc's slices, transfers are queued on the stream, only downloads wait.

use super::error::describe;
use super::item::{Pointer, item};
use super::launch::{Call, allocate, copy_from_host, copy_to_host, copy_within, fill_with_zeros, pinned};
use super::modules::Module;
use super::reports::Reports;
use super::view::{View, ViewMut};
use super::{Buffer, Cuda};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::types::{Report, length};
use bytemuck::Pod;
use cudarc::driver::DeviceSlice;
use std::ops::Range;

/// Bytes that a CTA clears.
const CLEAR_TILE: u64 = 1 << 16;

item! {
    /// `ClearItem` in kernels/clear.cu.
    struct ClearItem {
        out: Pointer,
        /// Bytes.
        n: u64,
        begin: u32,
        pad: u32,
    }
}

/// Bytes of elements that lie in memory.
const fn num_bytes<T>(len: usize) -> usize {
    len * size_of::<T>()
}

impl Memory for Cuda {
    type Buffer<T: Pod + Send + Sync> = Buffer<T>;
    type View<'a, T: Pod + Send + Sync> = View<'a, T>;
    type ViewMut<'a, T: Pod + Send + Sync> = ViewMut<'a, T>;
    type Reports = Reports;

    fn name(&self) -> String {
        describe(self.stream().context())
    }

    fn zeros<T: Pod + Send + Sync>(&self, len: usize) -> Result<Buffer<T>> {
        let mut buffer = allocate(self, len)?;
        self.clear(Self::view_mut(&mut buffer))?;
        Ok(buffer)
    }

    fn upload<T: Pod + Send + Sync>(&self, data: &[T]) -> Result<Buffer<T>> {
        let mut buffer = allocate(self, data.len())?;
        if num_bytes::<T>(data.len()) > 0 {
            let mut view = ViewMut::from(&mut buffer);
            let mut call = Call::new(self)?;
            let to = call.write(&mut view)?;
            copy_from_host(&call, bytemuck::cast_slice(data), to)?;
            if pinned(data) {
                call.wait()?;
            }
        }
        Ok(buffer)
    }

    fn download<T: Pod + Send + Sync>(&self, view: View<'_, T>) -> Result<Vec<T>> {
        self.accepts(&view)?;
        self.not_captured("a download or a reading of reports", "make it after the graph was launched")?;
        let mut data = Vec::new();
        data.try_reserve_exact(view.len()).map_err(|_| Error::OutOfMemory {
            device: "cpu".to_owned(),
            asked: view.num_bytes() as u64,
            free: None,
        })?;
        data.resize(view.len(), T::zeroed());
        let mut call = Call::new(self)?;
        if num_bytes::<T>(view.len()) == 0 {
            // Nothing to copy, but a download waits.
            call.wait()?;
            return Ok(data);
        }
        let from = call.read(view)?;
        copy_to_host(call, from, bytemuck::cast_slice_mut(&mut data))?;
        Ok(data)
    }

    fn clear<T: Pod + Send + Sync>(&self, mut view: ViewMut<'_, T>) -> Result<()> {
        self.holds(view.stream())?;
        let bytes = num_bytes::<T>(view.len());
        if bytes == 0 {
            return Ok(());
        }
        let mut call = Call::new(self)?;
        let at = call.write(&mut view)?;
        fill_with_zeros(&call, at, bytes)
    }

    fn clear_all<T: Pod + Send + Sync>(&self, mut views: Vec<ViewMut<'_, T>>) -> Result<()> {
        views.iter().try_for_each(|view| self.holds(view.stream()))?;
        if let [_] = &views[..] {
            return views.pop().map_or(Ok(()), |view| self.clear(view));
        }
        let mut call = Call::new(self)?;
        let mut rows = Vec::with_capacity(views.len());
        for view in &mut views {
            let n = num_bytes::<T>(view.len()) as u64;
            rows.push(ClearItem { out: call.write(view)?, n, ..ClearItem::default() });
        }
        call.launch(Module::Clear, "clear", &0u64, &rows, |row| row.n.div_ceil(CLEAR_TILE), 0)
    }

    fn copy<T: Pod + Send + Sync>(&self, from: View<'_, T>, mut to: ViewMut<'_, T>) -> Result<()> {
        length("copy", from.len(), to.len())?;
        self.accepts(&from)?;
        self.holds(to.stream())?;
        let bytes = num_bytes::<T>(from.len());
        if bytes == 0 {
            return Ok(());
        }
        let mut call = Call::new(self)?;
        let (from, to) = (call.read(from)?, call.write(&mut to)?);
        copy_within(&call, from, to, bytes)
    }

    fn view<T: Pod + Send + Sync>(buffer: &Buffer<T>) -> View<'_, T> {
        buffer.into()
    }

    fn view_mut<T: Pod + Send + Sync>(buffer: &mut Buffer<T>) -> ViewMut<'_, T> {
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
