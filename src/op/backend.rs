//! [`Backend`]: every operation, checked once and launched.

use super::side::StateOn;
use super::{
    Element, Launch, accumulate, check, dequantize, pack, quantize, read_out, reduce, run, state, update,
    update_adamw_8bit, window,
};
use crate::error::Result;

/// The operations. On a device they are queued and return at once; every argument is checked before anything is
/// queued, so an error leaves outputs, state and reports as they were. Same inputs, same bits, on every backend.
///
/// Whatever implements [`Launch`] for every operation is a backend.
///
/// # Errors
///
/// Every operation: what [`check()`](super::check()) says of it, and what the device reports.
#[expect(clippy::missing_errors_doc, reason = "said once, above, for all operations")]
pub trait Backend:
    Launch<quantize::Quantize>
    + Launch<dequantize::Dequantize>
    + Launch<accumulate::Adaptive>
    + Launch<accumulate::Exact>
    + Launch<accumulate::F32>
    + Launch<window::Look>
    + Launch<window::WindowScales>
    + Launch<window::CompareScales>
    + Launch<window::Merge>
    + Launch<read_out::ReadOut>
    + Launch<read_out::ReadOutF32>
    + Launch<check::Check>
    + Launch<pack::Pack>
    + Launch<pack::Unpack>
    + Launch<pack::SplitPlanes>
    + Launch<pack::JoinPlanes>
    + Launch<pack::PlanesToFields>
    + Launch<pack::FieldsToPlanes>
    + Launch<reduce::CountNonzero>
    + Launch<reduce::Dot>
    + Launch<reduce::SquaredNorm>
    + Launch<reduce::SquaredNormF32>
    + Launch<update::Sgd>
    + Launch<update::AdamW>
    + Launch<update_adamw_8bit::AdamW8>
    + Launch<state::AdvanceMicroBatch>
    + Launch<state::Decide>
    + Launch<state::AdvanceStep>
{
    /// Gradients to planes and scales. Elements out of range count as zero and are reported.
    fn quantize<T: Element>(
        &self,
        op: &quantize::Quantize,
        items: &mut [quantize::Item<'_, Self, T>],
        reports: &mut Self::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self, op, items, (StateOn(None), reports))
    }

    /// Planes and scales to floats.
    fn dequantize<T: Element>(
        &self,
        op: &dequantize::Dequantize,
        items: &mut [dequantize::Item<'_, Self, T>],
    ) -> Result<()> {
        run::<_, _, T>(self, op, items, ())
    }

    /// Adds gradients to adaptive levels. An element out of range leaves its value as it was and is reported.
    fn accumulate_adaptive<T: Element>(
        &self,
        op: &accumulate::Adaptive,
        items: &mut [accumulate::AdaptiveItem<'_, Self, T>],
        reports: &mut Self::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self, op, items, (StateOn(None), reports))
    }

    /// Adds what gradients come to under fixed scales to exact counts. An element out of range counts as zero and is reported.
    fn accumulate_exact<T: Element>(
        &self,
        op: &accumulate::Exact,
        items: &mut [accumulate::ExactItem<'_, Self, T>],
        reports: &mut Self::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self, op, items, (StateOn(None), reports))
    }

    /// Adds gradients to sums held in f32. An element out of range leaves its sum as it was and is reported.
    fn accumulate_f32<T: Element>(
        &self,
        op: &accumulate::F32,
        items: &mut [accumulate::F32Item<'_, Self, T>],
        reports: &mut Self::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self, op, items, reports)
    }

    /// Joins the block maxima of gradients into `seen`. Elements out of range count as zero and are reported.
    fn look<T: Element>(
        &self,
        op: &window::Look,
        items: &mut [window::LookItem<'_, Self, T>],
        reports: &mut Self::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self, op, items, reports)
    }

    /// The scales of a window from block maxima; those of blocks that were not seen stay.
    fn window_scales(&self, op: &window::WindowScales, items: &mut [window::WindowScalesItem<'_, Self>]) -> Result<()> {
        run::<_, _, f32>(self, op, items, ())
    }

    /// Reports the blocks whose scales differ between two windows.
    fn compare_scales(
        &self,
        op: &window::CompareScales,
        items: &mut [window::CompareScalesItem<'_, Self>],
        reports: &mut Self::Reports,
    ) -> Result<()> {
        run::<_, _, f32>(self, op, items, reports)
    }

    /// Adds counts to counts and joins their maxima.
    fn merge(&self, op: &window::Merge, items: &mut [window::MergeItem<'_, Self>]) -> Result<()> {
        run::<_, _, f32>(self, op, items, ())
    }

    /// Levels or counts to floats. `guards` are the reports that items may name as their guard.
    fn read_out<T: Element>(
        &self,
        op: &read_out::ReadOut,
        items: &mut [read_out::Item<'_, Self, T>],
        guards: Option<&Self::Reports>,
    ) -> Result<()> {
        run::<_, _, T>(self, op, items, guards)
    }

    /// Sums held in f32 to floats; `guards` as for [`read_out`](Self::read_out).
    fn read_out_f32<T: Element>(
        &self,
        op: &read_out::ReadOutF32,
        items: &mut [read_out::F32Item<'_, Self, T>],
        guards: Option<&Self::Reports>,
    ) -> Result<()> {
        run::<_, _, T>(self, op, items, guards)
    }

    /// Reports elements out of range.
    fn check<T: Element>(
        &self,
        op: &check::Check,
        items: &mut [check::Item<'_, Self, T>],
        reports: &mut Self::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self, op, items, reports)
    }

    /// i8 trits to planes; an i8 outside -1..=1 becomes 0 and is reported.
    fn pack(&self, op: &pack::Pack, items: &mut [pack::PackItem<'_, Self>], reports: &mut Self::Reports) -> Result<()> {
        run::<_, _, f32>(self, op, items, reports)
    }

    /// Planes to i8 trits; an invalid pair becomes 0 and is reported.
    fn unpack(
        &self,
        op: &pack::Unpack,
        items: &mut [pack::UnpackItem<'_, Self>],
        reports: &mut Self::Reports,
    ) -> Result<()> {
        run::<_, _, f32>(self, op, items, reports)
    }

    /// Interleaved planes to two separate ones.
    fn split_planes(&self, op: &pack::SplitPlanes, items: &mut [pack::SplitPlanesItem<'_, Self>]) -> Result<()> {
        run::<_, _, f32>(self, op, items, ())
    }

    /// Two separate planes to interleaved ones.
    fn join_planes(&self, op: &pack::JoinPlanes, items: &mut [pack::JoinPlanesItem<'_, Self>]) -> Result<()> {
        run::<_, _, f32>(self, op, items, ())
    }

    /// Planes to 2-bit fields.
    fn planes_to_fields(
        &self,
        op: &pack::PlanesToFields,
        items: &mut [pack::PlanesToFieldsItem<'_, Self>],
    ) -> Result<()> {
        run::<_, _, f32>(self, op, items, ())
    }

    /// 2-bit fields to planes.
    fn fields_to_planes(
        &self,
        op: &pack::FieldsToPlanes,
        items: &mut [pack::FieldsToPlanesItem<'_, Self>],
    ) -> Result<()> {
        run::<_, _, f32>(self, op, items, ())
    }

    /// Adds the number of nonzero trits to sums.
    fn count_nonzero(
        &self,
        op: &reduce::CountNonzero,
        items: &mut [reduce::CountNonzeroItem<'_, Self>],
        mut sums: Self::ViewMut<'_, u32>,
    ) -> Result<()> {
        run::<_, _, f32>(self, op, items, Self::reborrow(&mut sums))
    }

    /// Adds the dot products of packed tensors to sums.
    fn dot(
        &self,
        op: &reduce::Dot,
        items: &mut [reduce::DotItem<'_, Self>],
        mut sums: Self::ViewMut<'_, u32>,
    ) -> Result<()> {
        run::<_, _, f32>(self, op, items, Self::reborrow(&mut sums))
    }

    /// Adds the squared norms of trits, levels or counts to sums.
    fn squared_norm(
        &self,
        op: &reduce::SquaredNorm,
        items: &mut [reduce::SquaredNormItem<'_, Self>],
        mut sums: Self::ViewMut<'_, u32>,
    ) -> Result<()> {
        run::<_, _, f32>(self, op, items, Self::reborrow(&mut sums))
    }

    /// Adds the squared norms of floats to sums.
    fn squared_norm_f32(
        &self,
        op: &reduce::SquaredNormF32,
        items: &mut [reduce::SquaredNormF32Item<'_, Self>],
        mut sums: Self::ViewMut<'_, u32>,
    ) -> Result<()> {
        run::<_, _, f32>(self, op, items, Self::reborrow(&mut sums))
    }

    /// Weights follow their gradients by SGD, in place. Where `guards` are given and any of their slots counts non-finite
    /// elements, nothing is changed: the step is skipped without waiting. An element whose new weight or state would not
    /// be finite keeps what it had and is reported.
    fn update_sgd<T: Element>(
        &self,
        op: &update::Sgd,
        items: &mut [update::SgdItem<'_, Self, T>],
        guards: Option<&Self::Reports>,
        reports: &mut Self::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self, op, items, (StateOn(None), guards, reports))
    }

    /// Weights follow their gradients by AdamW, in place; `guards` and `reports` as for [`update_sgd`](Self::update_sgd).
    fn update_adamw<T: Element>(
        &self,
        op: &update::AdamW,
        items: &mut [update::AdamWItem<'_, Self, T>],
        guards: Option<&Self::Reports>,
        reports: &mut Self::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self, op, items, (StateOn(None), guards, reports))
    }

    /// Weights follow their gradients by AdamW with moments in 8 bits, in place; `guards` and `reports` as for
    /// [`update_sgd`](Self::update_sgd).
    fn update_adamw_8bit<T: Element>(
        &self,
        op: &update_adamw_8bit::AdamW8,
        items: &mut [update_adamw_8bit::AdamW8Item<'_, Self, T>],
        guards: Option<&Self::Reports>,
        reports: &mut Self::Reports,
    ) -> Result<()> {
        run::<_, _, T>(self, op, items, (StateOn(None), guards, reports))
    }

    /// Counts a micro-batch in states.
    fn advance_micro_batch(
        &self,
        op: &state::AdvanceMicroBatch,
        items: &mut [state::AdvanceMicroBatchItem<'_, Self>],
    ) -> Result<()> {
        run::<_, _, f32>(self, op, items, ())
    }

    /// Decides in states whether a window is a step, and by which factor. Where any slot of `found` counts non-finite
    /// elements, it is not.
    fn decide(
        &self,
        op: &state::Decide,
        items: &mut [state::DecideItem<'_, Self>],
        found: Option<&Self::Reports>,
    ) -> Result<()> {
        run::<_, _, f32>(self, op, items, found)
    }

    /// Ends a window in states, after the update.
    fn advance_step(&self, op: &state::AdvanceStep, items: &mut [state::AdvanceStepItem<'_, Self>]) -> Result<()> {
        run::<_, _, f32>(self, op, items, ())
    }
}

impl<B> Backend for B where
    B: Launch<quantize::Quantize>
        + Launch<dequantize::Dequantize>
        + Launch<accumulate::Adaptive>
        + Launch<accumulate::Exact>
        + Launch<accumulate::F32>
        + Launch<window::Look>
        + Launch<window::WindowScales>
        + Launch<window::CompareScales>
        + Launch<window::Merge>
        + Launch<read_out::ReadOut>
        + Launch<read_out::ReadOutF32>
        + Launch<check::Check>
        + Launch<pack::Pack>
        + Launch<pack::Unpack>
        + Launch<pack::SplitPlanes>
        + Launch<pack::JoinPlanes>
        + Launch<pack::PlanesToFields>
        + Launch<pack::FieldsToPlanes>
        + Launch<reduce::CountNonzero>
        + Launch<reduce::Dot>
        + Launch<reduce::SquaredNorm>
        + Launch<reduce::SquaredNormF32>
        + Launch<update::Sgd>
        + Launch<update::AdamW>
        + Launch<update_adamw_8bit::AdamW8>
        + Launch<state::AdvanceMicroBatch>
        + Launch<state::Decide>
        + Launch<state::AdvanceStep>
{
}

/// The names of the operations, in the order of [`Backend`].
pub const OPERATIONS: &[&str] = &[
    <quantize::Quantize as super::Operation>::NAME,
    <dequantize::Dequantize as super::Operation>::NAME,
    <accumulate::Adaptive as super::Operation>::NAME,
    <accumulate::Exact as super::Operation>::NAME,
    <accumulate::F32 as super::Operation>::NAME,
    <window::Look as super::Operation>::NAME,
    <window::WindowScales as super::Operation>::NAME,
    <window::CompareScales as super::Operation>::NAME,
    <window::Merge as super::Operation>::NAME,
    <read_out::ReadOut as super::Operation>::NAME,
    <read_out::ReadOutF32 as super::Operation>::NAME,
    <check::Check as super::Operation>::NAME,
    <pack::Pack as super::Operation>::NAME,
    <pack::Unpack as super::Operation>::NAME,
    <pack::SplitPlanes as super::Operation>::NAME,
    <pack::JoinPlanes as super::Operation>::NAME,
    <pack::PlanesToFields as super::Operation>::NAME,
    <pack::FieldsToPlanes as super::Operation>::NAME,
    <reduce::CountNonzero as super::Operation>::NAME,
    <reduce::Dot as super::Operation>::NAME,
    <reduce::SquaredNorm as super::Operation>::NAME,
    <reduce::SquaredNormF32 as super::Operation>::NAME,
    <update::Sgd as super::Operation>::NAME,
    <update::AdamW as super::Operation>::NAME,
    <update_adamw_8bit::AdamW8 as super::Operation>::NAME,
    <state::AdvanceMicroBatch as super::Operation>::NAME,
    <state::Decide as super::Operation>::NAME,
    <state::AdvanceStep as super::Operation>::NAME,
];
