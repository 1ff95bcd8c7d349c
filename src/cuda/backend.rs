//! [`Backend`] for [`Cuda`]: each operation in its own file.

use super::memory::Reports;
use super::view::{View, ViewMut};
use super::{Cuda, accumulate, check, dequantize, pack, quantize, read_out, reduce, update};
use crate::error::Result;
use crate::op::Backend;
use crate::op::{self, Element};

impl Backend for Cuda {
    fn quantize<T: Element>(
        &self,
        op: &op::quantize::Quantize,
        items: &mut [op::quantize::Item<'_, Self, T>],
        reports: &mut Reports,
    ) -> Result<()> {
        quantize::quantize(self, op, items, reports)
    }

    fn dequantize<T: Element>(
        &self,
        op: &op::dequantize::Dequantize,
        items: &mut [op::dequantize::Item<'_, Self, T>],
    ) -> Result<()> {
        dequantize::dequantize(self, op, items)
    }

    fn accumulate_adaptive<T: Element>(
        &self,
        op: &op::accumulate::Adaptive,
        items: &mut [op::accumulate::AdaptiveItem<'_, Self, T>],
        reports: &mut Reports,
    ) -> Result<()> {
        accumulate::adaptive(self, op, items, reports)
    }

    fn accumulate_exact<T: Element>(
        &self,
        op: &op::accumulate::Exact,
        items: &mut [op::accumulate::ExactItem<'_, Self, T>],
        reports: &mut Reports,
    ) -> Result<()> {
        accumulate::exact(self, op, items, reports)
    }

    fn look<T: Element>(
        &self,
        op: &op::accumulate::Look,
        items: &mut [op::accumulate::LookItem<'_, Self, T>],
        reports: &mut Reports,
    ) -> Result<()> {
        accumulate::look(self, op, items, reports)
    }

    fn window_scales(
        &self,
        op: &op::accumulate::WindowScales,
        seen: View<'_, u16>,
        scales: ViewMut<'_, u16>,
    ) -> Result<()> {
        accumulate::window_scales(self, op, seen, scales)
    }

    fn merge(&self, op: &op::accumulate::Merge, from: View<'_, u32>, into: ViewMut<'_, u32>) -> Result<()> {
        accumulate::merge(self, op, from, into)
    }

    fn read_out<T: Element>(
        &self,
        op: &op::read_out::ReadOut,
        items: &mut [op::read_out::Item<'_, Self, T>],
        guards: Option<&Reports>,
    ) -> Result<()> {
        read_out::read_out(self, op, items, guards)
    }

    fn check<T: Element>(
        &self,
        op: &op::check::Check,
        items: &[op::check::Item<'_, Self, T>],
        reports: &mut Reports,
    ) -> Result<()> {
        check::check(self, op, items, reports)
    }

    fn pack(&self, trits: View<'_, i8>, words: ViewMut<'_, u32>, reports: &mut Reports, slot: usize) -> Result<()> {
        pack::pack(self, trits, words, reports, slot)
    }

    fn unpack(&self, words: View<'_, u32>, trits: ViewMut<'_, i8>, reports: &mut Reports, slot: usize) -> Result<()> {
        pack::unpack(self, words, trits, reports, slot)
    }

    fn split_planes(&self, words: View<'_, u32>, plus: ViewMut<'_, u32>, minus: ViewMut<'_, u32>) -> Result<()> {
        pack::split_planes(self, words, plus, minus)
    }

    fn join_planes(&self, plus: View<'_, u32>, minus: View<'_, u32>, words: ViewMut<'_, u32>) -> Result<()> {
        pack::join_planes(self, plus, minus, words)
    }

    fn planes_to_fields(&self, words: View<'_, u32>, fields: ViewMut<'_, u32>) -> Result<()> {
        pack::planes_to_fields(self, words, fields)
    }

    fn fields_to_planes(&self, fields: View<'_, u32>, words: ViewMut<'_, u32>) -> Result<()> {
        pack::fields_to_planes(self, fields, words)
    }

    fn count_nonzero(&self, words: View<'_, u32>) -> Result<u64> {
        reduce::count_nonzero(self, words)
    }

    fn dot(
        &self,
        op: &op::reduce::Dot,
        words_a: View<'_, u32>,
        scales_a: View<'_, u16>,
        words_b: View<'_, u32>,
        scales_b: View<'_, u16>,
    ) -> Result<f64> {
        reduce::dot(self, op, words_a, scales_a, words_b, scales_b)
    }

    fn squared_norm(&self, op: &op::reduce::SquaredNorm, levels: View<'_, u32>, scales: View<'_, u16>) -> Result<f64> {
        reduce::squared_norm(self, op, levels, scales)
    }

    fn update_sgd<T: Element>(
        &self,
        op: &op::update::Sgd,
        items: &mut [op::update::SgdItem<'_, Self, T>],
        guards: Option<&Reports>,
    ) -> Result<()> {
        update::sgd(self, op, items, guards)
    }

    fn update_adamw<T: Element>(
        &self,
        op: &op::update::AdamW,
        items: &mut [op::update::AdamWItem<'_, Self, T>],
        guards: Option<&Reports>,
    ) -> Result<()> {
        update::adamw(self, op, items, guards)
    }
}
