//! [`Backend`] of a [`Device`]: items are unwrapped, and its backend is called.

use super::arm::{Arm, on};
use super::{Device, Reports, View, ViewMut};
use crate::backend::Backend;
use crate::error::Result;
use crate::op::{self, Element};

/// The items of a list with the backend's own views, or the first error with nothing called.
fn unwrap<I, O>(items: impl IntoIterator<Item = I>, f: impl FnMut(I) -> Result<O>) -> Result<Vec<O>> {
    items.into_iter().map(f).collect()
}

fn quantize<B: Arm, T: Element>(
    b: &B,
    op: &op::quantize::Quantize,
    items: &mut [op::quantize::Item<'_, Device, T>],
    reports: &mut Reports,
) -> Result<()> {
    let mut items = unwrap(items, |i| {
        Ok(op::quantize::Item {
            tensor: i.tensor,
            first: i.first,
            x: b.of(i.x)?,
            words: b.of_mut(&mut i.words)?,
            scales: b.of_mut(&mut i.scales)?,
            report: i.report,
        })
    })?;
    b.quantize(op, &mut items, b.of_reports_mut(reports)?)
}

fn dequantize<B: Arm, T: Element>(
    b: &B,
    op: &op::dequantize::Dequantize,
    items: &mut [op::dequantize::Item<'_, Device, T>],
) -> Result<()> {
    let mut items = unwrap(items, |i| {
        Ok(op::dequantize::Item { words: b.of(i.words)?, scales: b.of(i.scales)?, out: b.of_mut(&mut i.out)? })
    })?;
    b.dequantize(op, &mut items)
}

fn accumulate_adaptive<B: Arm, T: Element>(
    b: &B,
    op: &op::accumulate::Adaptive,
    items: &mut [op::accumulate::AdaptiveItem<'_, Device, T>],
    reports: &mut Reports,
) -> Result<()> {
    let mut items = unwrap(items, |i| {
        Ok(op::accumulate::AdaptiveItem {
            tensor: i.tensor,
            first: i.first,
            x: b.of(i.x)?,
            levels: b.of_mut(&mut i.levels)?,
            scales: b.of_mut(&mut i.scales)?,
            report: i.report,
        })
    })?;
    b.accumulate_adaptive(op, &mut items, b.of_reports_mut(reports)?)
}

fn accumulate_exact<B: Arm, T: Element>(
    b: &B,
    op: &op::accumulate::Exact,
    items: &mut [op::accumulate::ExactItem<'_, Device, T>],
    reports: &mut Reports,
) -> Result<()> {
    let mut items = unwrap(items, |i| {
        Ok(op::accumulate::ExactItem {
            tensor: i.tensor,
            first: i.first,
            x: b.of(i.x)?,
            counts: b.of_mut(&mut i.counts)?,
            scales: b.of(i.scales)?,
            seen: b.of_mut(&mut i.seen)?,
            report: i.report,
        })
    })?;
    b.accumulate_exact(op, &mut items, b.of_reports_mut(reports)?)
}

fn look<B: Arm, T: Element>(
    b: &B,
    op: &op::accumulate::Look,
    items: &mut [op::accumulate::LookItem<'_, Device, T>],
    reports: &mut Reports,
) -> Result<()> {
    let mut items = unwrap(items, |i| {
        Ok(op::accumulate::LookItem { x: b.of(i.x)?, seen: b.of_mut(&mut i.seen)?, report: i.report })
    })?;
    b.look(op, &mut items, b.of_reports_mut(reports)?)
}

fn read_out<B: Arm, T: Element>(
    b: &B,
    op: &op::read_out::ReadOut,
    items: &mut [op::read_out::Item<'_, Device, T>],
    guards: Option<&Reports>,
) -> Result<()> {
    let mut items = unwrap(items, |i| {
        Ok(op::read_out::Item {
            levels: b.of(i.levels)?,
            scales: b.of(i.scales)?,
            out: b.of_mut(&mut i.out)?,
            guard: i.guard,
        })
    })?;
    b.read_out(op, &mut items, guards.map(|g| b.of_reports(g)).transpose()?)
}

fn check<B: Arm, T: Element>(
    b: &B,
    op: &op::check::Check,
    items: &[op::check::Item<'_, Device, T>],
    reports: &mut Reports,
) -> Result<()> {
    let items = unwrap(items, |i| Ok(op::check::Item { x: b.of(i.x)?, first: i.first, report: i.report }))?;
    b.check(op, &items, b.of_reports_mut(reports)?)
}

fn gradient<'s, 'l: 's, B: Arm>(
    b: &B,
    gradient: op::update::Gradient<'l, Device>,
) -> Result<op::update::Gradient<'s, B>> {
    Ok(match gradient {
        op::update::Gradient::Packed { levels, scales } => {
            op::update::Gradient::Packed { levels: b.of(levels)?, scales: b.of(scales)? }
        }
        op::update::Gradient::Dense(x) => op::update::Gradient::Dense(b.of(x)?),
    })
}

fn update_sgd<B: Arm, T: Element>(
    b: &B,
    op: &op::update::Sgd,
    items: &mut [op::update::SgdItem<'_, Device, T>],
    guards: Option<&Reports>,
) -> Result<()> {
    let mut items = unwrap(items, |i| {
        Ok(op::update::SgdItem {
            tensor: i.tensor,
            first: i.first,
            gradient: gradient(b, i.gradient)?,
            weights: b.of_mut(&mut i.weights)?,
            momentum: i.momentum.as_mut().map(|m| b.of_mut(m)).transpose()?,
        })
    })?;
    b.update_sgd(op, &mut items, guards.map(|g| b.of_reports(g)).transpose()?)
}

fn update_adamw<B: Arm, T: Element>(
    b: &B,
    op: &op::update::AdamW,
    items: &mut [op::update::AdamWItem<'_, Device, T>],
    guards: Option<&Reports>,
) -> Result<()> {
    let mut items = unwrap(items, |i| {
        Ok(op::update::AdamWItem {
            tensor: i.tensor,
            first: i.first,
            gradient: gradient(b, i.gradient)?,
            weights: b.of_mut(&mut i.weights)?,
            first_moment: b.of_mut(&mut i.first_moment)?,
            second_moment: b.of_mut(&mut i.second_moment)?,
        })
    })?;
    b.update_adamw(op, &mut items, guards.map(|g| b.of_reports(g)).transpose()?)
}

impl Backend for Device {
    fn quantize<T: Element>(
        &self,
        op: &op::quantize::Quantize,
        items: &mut [op::quantize::Item<'_, Self, T>],
        reports: &mut Reports,
    ) -> Result<()> {
        on!(Device(b) = self => quantize(b, op, items, reports))
    }

    fn dequantize<T: Element>(
        &self,
        op: &op::dequantize::Dequantize,
        items: &mut [op::dequantize::Item<'_, Self, T>],
    ) -> Result<()> {
        on!(Device(b) = self => dequantize(b, op, items))
    }

    fn accumulate_adaptive<T: Element>(
        &self,
        op: &op::accumulate::Adaptive,
        items: &mut [op::accumulate::AdaptiveItem<'_, Self, T>],
        reports: &mut Reports,
    ) -> Result<()> {
        on!(Device(b) = self => accumulate_adaptive(b, op, items, reports))
    }

    fn accumulate_exact<T: Element>(
        &self,
        op: &op::accumulate::Exact,
        items: &mut [op::accumulate::ExactItem<'_, Self, T>],
        reports: &mut Reports,
    ) -> Result<()> {
        on!(Device(b) = self => accumulate_exact(b, op, items, reports))
    }

    fn look<T: Element>(
        &self,
        op: &op::accumulate::Look,
        items: &mut [op::accumulate::LookItem<'_, Self, T>],
        reports: &mut Reports,
    ) -> Result<()> {
        on!(Device(b) = self => look(b, op, items, reports))
    }

    fn window_scales(
        &self,
        op: &op::accumulate::WindowScales,
        seen: View<'_, u16>,
        mut scales: ViewMut<'_, u16>,
    ) -> Result<()> {
        on!(Device(b) = self => b.window_scales(op, b.of(seen)?, b.of_mut(&mut scales)?))
    }

    fn merge(&self, op: &op::accumulate::Merge, from: View<'_, u32>, mut into: ViewMut<'_, u32>) -> Result<()> {
        on!(Device(b) = self => b.merge(op, b.of(from)?, b.of_mut(&mut into)?))
    }

    fn read_out<T: Element>(
        &self,
        op: &op::read_out::ReadOut,
        items: &mut [op::read_out::Item<'_, Self, T>],
        guards: Option<&Reports>,
    ) -> Result<()> {
        on!(Device(b) = self => read_out(b, op, items, guards))
    }

    fn check<T: Element>(
        &self,
        op: &op::check::Check,
        items: &[op::check::Item<'_, Self, T>],
        reports: &mut Reports,
    ) -> Result<()> {
        on!(Device(b) = self => check(b, op, items, reports))
    }

    fn pack(&self, trits: View<'_, i8>, mut words: ViewMut<'_, u32>, reports: &mut Reports, slot: usize) -> Result<()> {
        on!(Device(b) = self => b.pack(b.of(trits)?, b.of_mut(&mut words)?, b.of_reports_mut(reports)?, slot))
    }

    fn unpack(
        &self,
        words: View<'_, u32>,
        mut trits: ViewMut<'_, i8>,
        reports: &mut Reports,
        slot: usize,
    ) -> Result<()> {
        on!(Device(b) = self => b.unpack(b.of(words)?, b.of_mut(&mut trits)?, b.of_reports_mut(reports)?, slot))
    }

    fn split_planes(
        &self,
        words: View<'_, u32>,
        mut plus: ViewMut<'_, u32>,
        mut minus: ViewMut<'_, u32>,
    ) -> Result<()> {
        on!(Device(b) = self => b.split_planes(b.of(words)?, b.of_mut(&mut plus)?, b.of_mut(&mut minus)?))
    }

    fn join_planes(&self, plus: View<'_, u32>, minus: View<'_, u32>, mut words: ViewMut<'_, u32>) -> Result<()> {
        on!(Device(b) = self => b.join_planes(b.of(plus)?, b.of(minus)?, b.of_mut(&mut words)?))
    }

    fn planes_to_fields(&self, words: View<'_, u32>, mut fields: ViewMut<'_, u32>) -> Result<()> {
        on!(Device(b) = self => b.planes_to_fields(b.of(words)?, b.of_mut(&mut fields)?))
    }

    fn fields_to_planes(&self, fields: View<'_, u32>, mut words: ViewMut<'_, u32>) -> Result<()> {
        on!(Device(b) = self => b.fields_to_planes(b.of(fields)?, b.of_mut(&mut words)?))
    }

    fn count_nonzero(&self, words: View<'_, u32>) -> Result<u64> {
        on!(Device(b) = self => b.count_nonzero(b.of(words)?))
    }

    fn dot(
        &self,
        op: &op::reduce::Dot,
        words_a: View<'_, u32>,
        scales_a: View<'_, u16>,
        words_b: View<'_, u32>,
        scales_b: View<'_, u16>,
    ) -> Result<f64> {
        on!(Device(b) = self => b.dot(op, b.of(words_a)?, b.of(scales_a)?, b.of(words_b)?, b.of(scales_b)?))
    }

    fn squared_norm(&self, op: &op::reduce::SquaredNorm, levels: View<'_, u32>, scales: View<'_, u16>) -> Result<f64> {
        on!(Device(b) = self => b.squared_norm(op, b.of(levels)?, b.of(scales)?))
    }

    fn update_sgd<T: Element>(
        &self,
        op: &op::update::Sgd,
        items: &mut [op::update::SgdItem<'_, Self, T>],
        guards: Option<&Reports>,
    ) -> Result<()> {
        on!(Device(b) = self => update_sgd(b, op, items, guards))
    }

    fn update_adamw<T: Element>(
        &self,
        op: &op::update::AdamW,
        items: &mut [op::update::AdamWItem<'_, Self, T>],
        guards: Option<&Reports>,
    ) -> Result<()> {
        on!(Device(b) = self => update_adamw(b, op, items, guards))
    }
}
