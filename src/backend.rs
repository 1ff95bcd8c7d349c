//! The two traits a backend implements: [`Memory`] for buffers and views, [`Backend`] for the operations on them.
//!
//! Views are the native ones (`&[T]`, a CUDA device pointer with a stream, a range of a wgpu buffer), so whoever
//! holds raw buffers needs no wrapper. Every operation takes a list of items: a whole model in one call.

use crate::error::{Error, Result};
use crate::op::{self, Element, Report};
use bytemuck::Pod;
use std::ops::Range;

/// Buffers and views of one kind of memory.
pub trait Memory {
    /// An owned buffer of `T`.
    type Buffer<T: Pod + Send + Sync>: Send;
    /// A borrowed buffer, or part of one.
    type View<'a, T: Pod + Send + Sync>: Copy;
    /// A mutably borrowed buffer, or part of one.
    type ViewMut<'a, T: Pod + Send + Sync>;
    /// What operations found, one slot a tensor; starts empty.
    type Reports: Send;

    /// A short name of the device, for messages and tables.
    fn name(&self) -> String;
    /// A buffer of `len` zeros.
    ///
    /// # Errors
    ///
    /// [`crate::Error::OutOfMemory`] or what the device reports.
    fn zeros<T: Pod + Send + Sync>(&self, len: usize) -> Result<Self::Buffer<T>>;
    /// A buffer with the host's data.
    ///
    /// # Errors
    ///
    /// [`crate::Error::OutOfMemory`] or what the device reports.
    fn upload<T: Pod + Send + Sync>(&self, data: &[T]) -> Result<Self::Buffer<T>>;
    /// Copies to the host; waits for the device.
    ///
    /// # Errors
    ///
    /// What the device reports.
    fn download<T: Pod + Send + Sync>(&self, view: Self::View<'_, T>) -> Result<Vec<T>>;
    /// Overwrites a buffer with zeros.
    ///
    /// # Errors
    ///
    /// What the device reports.
    fn clear<T: Pod + Send + Sync>(&self, view: Self::ViewMut<'_, T>) -> Result<()>;
    /// Copies one view to another of the same length, on the device.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`] or what the device reports.
    fn copy<T: Pod + Send + Sync>(&self, from: Self::View<'_, T>, to: Self::ViewMut<'_, T>) -> Result<()>;
    /// Borrows a buffer.
    fn view<T: Pod + Send + Sync>(buffer: &Self::Buffer<T>) -> Self::View<'_, T>;
    /// Borrows a buffer mutably.
    fn view_mut<T: Pod + Send + Sync>(buffer: &mut Self::Buffer<T>) -> Self::ViewMut<'_, T>;
    /// The same view for a shorter time (a compiler can not know that the type allows it): `view`.
    fn shorten<'s, 'l: 's, T: Pod + Send + Sync>(view: Self::View<'l, T>) -> Self::View<'s, T>;
    /// Borrows a mutable view for a shorter time.
    fn reborrow<'s, T: Pod + Send + Sync>(view: &'s mut Self::ViewMut<'_, T>) -> Self::ViewMut<'s, T>;
    /// Checks that a view can be read here, so that a list can be refused before any of it is written.
    ///
    /// # Errors
    ///
    /// [`crate::Error::WrongDevice`].
    fn accepts<T: Pod + Send + Sync>(&self, view: &Self::View<'_, T>) -> Result<()> {
        let _ = view;
        Ok(())
    }
    /// A part of a view; `None` where the range does not lie within it.
    fn slice<T: Pod + Send + Sync>(view: Self::View<'_, T>, range: Range<usize>) -> Option<Self::View<'_, T>>;
    /// A part of a mutable view; `None` where the range does not lie within it.
    fn slice_mut<T: Pod + Send + Sync>(view: Self::ViewMut<'_, T>, range: Range<usize>)
    -> Option<Self::ViewMut<'_, T>>;
    /// Divides a mutable view in two: elements before `at`, and from `at` on; `None` where `at` lies past the end.
    /// So that one buffer can hold the outputs of a whole list.
    fn split_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        at: usize,
    ) -> Option<(Self::ViewMut<'_, T>, Self::ViewMut<'_, T>)>;
    /// Elements in a view.
    fn len<T: Pod + Send + Sync>(view: &Self::View<'_, T>) -> usize;
    /// Elements in a mutable view.
    fn len_mut<T: Pod + Send + Sync>(view: &Self::ViewMut<'_, T>) -> usize;

    /// Empty reports with `slots` slots.
    ///
    /// # Errors
    ///
    /// [`crate::Error::OutOfMemory`] or what the device reports.
    fn reports(&self, slots: usize) -> Result<Self::Reports>;
    /// How many slots reports have.
    fn report_slots(reports: &Self::Reports) -> usize;
    /// Copies the reports to the host; waits for the device.
    ///
    /// # Errors
    ///
    /// What the device reports, an asynchronous fault included.
    fn read_reports(&self, reports: &Self::Reports) -> Result<Vec<Report>>;
    /// Empties every slot.
    ///
    /// # Errors
    ///
    /// What the device reports.
    fn clear_reports(&self, reports: &mut Self::Reports) -> Result<()>;
}

/// The operations. On a device they are queued and return at once; every argument is checked before anything is
/// queued, so an error leaves outputs, state and reports as they were. Same inputs, same bits, on every backend.
///
/// # Errors
///
/// Every operation: what its `validate` functions say, [`crate::Error::Length`] for a report slot that does not exist, and
/// what the device reports.
#[expect(clippy::missing_errors_doc, reason = "said once, above, for all operations")]
pub trait Backend: Memory {
    /// Gradients to planes and scales. Elements out of range count as zero and are reported.
    fn quantize<T: Element>(
        &self,
        op: &op::quantize::Quantize,
        items: &mut [op::quantize::Item<'_, Self, T>],
        reports: &mut Self::Reports,
    ) -> Result<()>;

    /// Planes and scales to floats.
    fn dequantize<T: Element>(
        &self,
        op: &op::dequantize::Dequantize,
        items: &mut [op::dequantize::Item<'_, Self, T>],
    ) -> Result<()>;

    /// Adds gradients to adaptive levels. An element out of range leaves its value as it was and is reported.
    fn accumulate_adaptive<T: Element>(
        &self,
        op: &op::accumulate::Adaptive,
        items: &mut [op::accumulate::AdaptiveItem<'_, Self, T>],
        reports: &mut Self::Reports,
    ) -> Result<()>;

    /// Adds the trits of gradients to exact counts. An element out of range counts as zero and is reported.
    fn accumulate_exact<T: Element>(
        &self,
        op: &op::accumulate::Exact,
        items: &mut [op::accumulate::ExactItem<'_, Self, T>],
        reports: &mut Self::Reports,
    ) -> Result<()>;

    /// Joins the block maxima of gradients into `seen`. Elements out of range count as zero and are reported.
    fn look<T: Element>(
        &self,
        op: &op::accumulate::Look,
        items: &mut [op::accumulate::LookItem<'_, Self, T>],
        reports: &mut Self::Reports,
    ) -> Result<()>;

    /// The scales of a window from block maxima.
    fn window_scales(
        &self,
        op: &op::accumulate::WindowScales,
        seen: Self::View<'_, u16>,
        scales: Self::ViewMut<'_, u16>,
    ) -> Result<()>;

    /// Adds counts to counts.
    fn merge(&self, op: &op::accumulate::Merge, from: Self::View<'_, u32>, into: Self::ViewMut<'_, u32>) -> Result<()>;

    /// Levels or counts to floats. `guards` are the reports that items may name as their guard.
    fn read_out<T: Element>(
        &self,
        op: &op::read_out::ReadOut,
        items: &mut [op::read_out::Item<'_, Self, T>],
        guards: Option<&Self::Reports>,
    ) -> Result<()>;

    /// Reports elements out of range.
    fn check<T: Element>(
        &self,
        op: &op::check::Check,
        items: &[op::check::Item<'_, Self, T>],
        reports: &mut Self::Reports,
    ) -> Result<()>;

    /// i8 trits to planes; an i8 outside -1..=1 becomes 0 and is reported in `slot`.
    fn pack(
        &self,
        trits: Self::View<'_, i8>,
        words: Self::ViewMut<'_, u32>,
        reports: &mut Self::Reports,
        slot: usize,
    ) -> Result<()>;

    /// Planes to i8 trits; an invalid pair becomes 0 and is reported in `slot`.
    fn unpack(
        &self,
        words: Self::View<'_, u32>,
        trits: Self::ViewMut<'_, i8>,
        reports: &mut Self::Reports,
        slot: usize,
    ) -> Result<()>;

    /// Interleaved planes to two separate ones.
    fn split_planes(
        &self,
        words: Self::View<'_, u32>,
        plus: Self::ViewMut<'_, u32>,
        minus: Self::ViewMut<'_, u32>,
    ) -> Result<()>;

    /// Two separate planes to interleaved ones.
    fn join_planes(
        &self,
        plus: Self::View<'_, u32>,
        minus: Self::View<'_, u32>,
        words: Self::ViewMut<'_, u32>,
    ) -> Result<()>;

    /// Planes to 2-bit fields.
    fn planes_to_fields(&self, words: Self::View<'_, u32>, fields: Self::ViewMut<'_, u32>) -> Result<()>;

    /// 2-bit fields to planes.
    fn fields_to_planes(&self, fields: Self::View<'_, u32>, words: Self::ViewMut<'_, u32>) -> Result<()>;

    /// Nonzero trits in planes; waits for the device.
    fn count_nonzero(&self, words: Self::View<'_, u32>) -> Result<u64>;

    /// The dot product of two packed tensors, the exact sum rounded once to f64; waits for the device.
    fn dot(
        &self,
        op: &op::reduce::Dot,
        words_a: Self::View<'_, u32>,
        scales_a: Self::View<'_, u16>,
        words_b: Self::View<'_, u32>,
        scales_b: Self::View<'_, u16>,
    ) -> Result<f64>;

    /// The squared norm of trits, levels or counts, the exact sum rounded once to f64; waits for the device.
    fn squared_norm(
        &self,
        op: &op::reduce::SquaredNorm,
        levels: Self::View<'_, u32>,
        scales: Self::View<'_, u16>,
    ) -> Result<f64>;

    /// Weights follow their gradients by SGD, in place. Where `guards` are given and any of their slots counts
    /// non-finite elements, nothing is changed: the step is skipped without waiting. A backend without this operation
    /// answers [`Error::Unsupported`].
    fn update_sgd<T: Element>(
        &self,
        op: &op::update::Sgd,
        items: &mut [op::update::SgdItem<'_, Self, T>],
        guards: Option<&Self::Reports>,
    ) -> Result<()> {
        let _ = (op, items, guards);
        Err(Error::Unsupported { operation: "update_sgd", device: self.name() })
    }

    /// Weights follow their gradients by AdamW, in place; `guards` as for [`update_sgd`](Self::update_sgd).
    fn update_adamw<T: Element>(
        &self,
        op: &op::update::AdamW,
        items: &mut [op::update::AdamWItem<'_, Self, T>],
        guards: Option<&Self::Reports>,
    ) -> Result<()> {
        let _ = (op, items, guards);
        Err(Error::Unsupported { operation: "update_adamw", device: self.name() })
    }
}
