//! The CPU backend: plain slices, all cores through rayon, SIMD where the machine has it.
//!
//! | file | what |
//! |---|---|
//! | `memory.rs` | buffers are `Vec<T>`, views are slices |
//! | `quantize.rs`, `dequantize.rs`, `accumulate.rs`, `read_out.rs`, `check.rs`, `pack.rs`, `reduce.rs`, `update.rs` | one file an operation: checks and the split over threads; what is not hot does its work there, straight from [`crate::numerics`] |
//! | `split.rs` | a tile: the unit of work of a task |
//! | `tile.rs` | the tiles of the hot operations, and what their blocks share |
//! | `measure.rs` | scale and limit of groups of any length, over the kernels of either kind of code |
//! | `plain/` | the hot tiles, element by element |
//! | `simd/` | the same tiles in AVX-512, or AVX2 and FMA, chosen at run time and held to the plain code bit for bit; all `unsafe` of this backend |
//!
//! Any split gives the same bits: draws are keyed by the element's place in its tensor, maxima and integer sums have
//! no order, and tasks write to disjoint words.

mod accumulate;
mod check;
mod dequantize;
mod measure;
mod memory;
mod pack;
mod plain;
mod quantize;
mod read_out;
mod reduce;
mod simd;
mod split;
#[cfg(test)]
mod tests;
mod tile;
mod update;

use crate::backend::Backend;
use crate::error::Result;
use crate::op::{self, Element, Report};
use simd::Simd;

/// The CPU backend. Views are slices, buffers are vectors, work runs in the current rayon pool.
///
/// # Examples
///
/// ```
/// use trigrad::backend::{Backend, Memory};
/// use trigrad::cpu::Cpu;
/// use trigrad::op::{Draw, quantize::{Item, Quantize}};
///
/// let cpu = Cpu::new();
/// let gradient = [0.5f32, -1.0, 0.25, 3.0];
/// let (mut words, mut scales) = ([0u32; 2], [0u16; 1]);
/// let mut reports = cpu.reports(1)?;
/// let op = Quantize::stochastic(Draw::new(7, 1));
/// let item = Item { tensor: 0, first: 0, x: &gradient[..], words: &mut words[..], scales: &mut scales[..], report: 0 };
/// cpu.quantize(&op, &mut [item], &mut reports)?;
/// assert_eq!(words[0] >> 3 & 1, 1); // the block maximum is always kept
/// assert_eq!(half::bf16::from_bits(scales[0]).to_f32(), 3.0);
/// # Ok::<(), trigrad::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    simd: Simd,
}

impl Cpu {
    /// The fastest code this machine can run.
    #[must_use]
    pub fn new() -> Self {
        Cpu { simd: Simd::detect() }
    }

    /// One backend for each kind of code this machine can run, the fastest first and the plain code last. All give the
    /// same bits; tests and benches compare them.
    ///
    /// # Examples
    ///
    /// ```
    /// use trigrad::backend::Memory;
    /// use trigrad::cpu::Cpu;
    /// let names: Vec<String> = Cpu::kinds().iter().map(|cpu| cpu.name()).collect();
    /// assert_eq!(names.last().map(String::as_str), Some("cpu (plain)"));
    /// ```
    #[must_use]
    pub fn kinds() -> Vec<Self> {
        Simd::kinds().map(|simd| Cpu { simd }).collect()
    }

    /// Only the plain code of [`crate::numerics`]: slower, the same bits. The reference the fast code is held to.
    #[must_use]
    pub const fn plain() -> Self {
        Cpu { simd: Simd::Plain }
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for Cpu {
    fn quantize<T: Element>(
        &self,
        op: &op::quantize::Quantize,
        items: &mut [op::quantize::Item<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        quantize::quantize(self.simd, op, items, reports)
    }

    fn dequantize<T: Element>(
        &self,
        op: &op::dequantize::Dequantize,
        items: &mut [op::dequantize::Item<'_, Self, T>],
    ) -> Result<()> {
        dequantize::dequantize(self.simd, op, items)
    }

    fn accumulate_adaptive<T: Element>(
        &self,
        op: &op::accumulate::Adaptive,
        items: &mut [op::accumulate::AdaptiveItem<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        accumulate::adaptive(self.simd, op, items, reports)
    }

    fn accumulate_exact<T: Element>(
        &self,
        op: &op::accumulate::Exact,
        items: &mut [op::accumulate::ExactItem<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        accumulate::exact(self.simd, op, items, reports)
    }

    fn look<T: Element>(
        &self,
        op: &op::accumulate::Look,
        items: &mut [op::accumulate::LookItem<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        accumulate::look(self.simd, op, items, reports)
    }

    fn window_scales(&self, op: &op::accumulate::WindowScales, seen: &[u16], scales: &mut [u16]) -> Result<()> {
        accumulate::window_scales(op, seen, scales)
    }

    fn merge(&self, op: &op::accumulate::Merge, from: &[u32], into: &mut [u32]) -> Result<()> {
        accumulate::merge(op, from, into)
    }

    fn read_out<T: Element>(
        &self,
        op: &op::read_out::ReadOut,
        items: &mut [op::read_out::Item<'_, Self, T>],
        guards: Option<&Vec<Report>>,
    ) -> Result<()> {
        read_out::read_out(self.simd, op, items, guards.map(Vec::as_slice))
    }

    fn check<T: Element>(
        &self,
        op: &op::check::Check,
        items: &[op::check::Item<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        check::check(self.simd, op, items, reports)
    }

    fn pack(&self, trits: &[i8], words: &mut [u32], reports: &mut Vec<Report>, slot: usize) -> Result<()> {
        pack::pack(trits, words, reports, slot)
    }

    fn unpack(&self, words: &[u32], trits: &mut [i8], reports: &mut Vec<Report>, slot: usize) -> Result<()> {
        pack::unpack(words, trits, reports, slot)
    }

    fn split_planes(&self, words: &[u32], plus: &mut [u32], minus: &mut [u32]) -> Result<()> {
        pack::split_planes(words, plus, minus)
    }

    fn join_planes(&self, plus: &[u32], minus: &[u32], words: &mut [u32]) -> Result<()> {
        pack::join_planes(plus, minus, words)
    }

    fn planes_to_fields(&self, words: &[u32], fields: &mut [u32]) -> Result<()> {
        pack::planes_to_fields(words, fields)
    }

    fn fields_to_planes(&self, fields: &[u32], words: &mut [u32]) -> Result<()> {
        pack::fields_to_planes(fields, words)
    }

    fn count_nonzero(&self, words: &[u32]) -> Result<u64> {
        reduce::count_nonzero(words)
    }

    fn dot(
        &self,
        op: &op::reduce::Dot,
        words_a: &[u32],
        scales_a: &[u16],
        words_b: &[u32],
        scales_b: &[u16],
    ) -> Result<f64> {
        reduce::dot(op, words_a, scales_a, words_b, scales_b)
    }

    fn squared_norm(&self, op: &op::reduce::SquaredNorm, levels: &[u32], scales: &[u16]) -> Result<f64> {
        reduce::squared_norm(op, levels, scales)
    }

    fn update_sgd<T: Element>(
        &self,
        op: &op::update::Sgd,
        items: &mut [op::update::SgdItem<'_, Self, T>],
        guards: Option<&Vec<Report>>,
    ) -> Result<()> {
        update::sgd(op, items, guards.map(Vec::as_slice))
    }

    fn update_adamw<T: Element>(
        &self,
        op: &op::update::AdamW,
        items: &mut [op::update::AdamWItem<'_, Self, T>],
        guards: Option<&Vec<Report>>,
    ) -> Result<()> {
        update::adamw(op, items, guards.map(Vec::as_slice))
    }
}
