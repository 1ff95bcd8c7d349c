//! Which code the machine runs: every tile that has a fast form is dispatched here.
//!
//! | file | what |
//! |---|---|
//! | `vector.rs` | the traits that a kind of vector implements |
//! | `generic/` | quantize (stochastic, clipped, threshold), adaptive and exact accumulation: one body, no `unsafe` |
//! | `avx2/`, `avx512/` | the two kinds: their operations, and how they lay out levels and counts |
//! | `avx2/{sums, read_out, levels}.rs` | sums of chunks, read-out and dequantize: AVX2 alone, which both kinds run |
//!
//! The last three have one body as well: they wait for memory in AVX2 already, so AVX-512 was never written for them.
//! What a kind does by itself, because the two differ by more than width, stands in [`vector::Fields`]: AVX2 packs two
//! levels of few bits in a lane and keeps bytes out of order, AVX-512 narrows lanes and reads levels from a table.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod generic;
#[cfg(target_arch = "x86_64")]
mod vector;

#[cfg(target_arch = "x86_64")]
use avx512::Avx512;

use super::measure::Kernels;
#[cfg(target_arch = "x86_64")]
use super::measure::rows;
use super::plain::{accumulate, dequantize, quantize, read_out};
use super::tile::{AdaptiveTile, ExactTile, Measure, Method, QuantizeTile, ReadOutTile};
use crate::numerics::threshold::{Moments, Sum};
use crate::op::{Element, Report};

/// The kind of code, chosen once by [`Simd::detect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Simd {
    /// The executable spec itself; also what runs where no other kind is written (NEON, for one).
    Plain,
    /// AVX2, FMA, F16C and POPCNT.
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    /// AVX-512, and AVX2 for what waits for memory anyway.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Simd {
    /// The kinds this machine can run, the fastest first: the one place where that is decided.
    pub(super) fn kinds() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let vectors = [Avx512::new().map(Simd::Avx512), avx2::Avx2::new().map(Simd::Avx2)];
        #[cfg(not(target_arch = "x86_64"))]
        let vectors = [None];
        vectors.into_iter().flatten().chain([Simd::Plain])
    }

    /// The fastest kind this machine can run.
    pub(super) fn detect() -> Self {
        Self::kinds().next().unwrap_or(Simd::Plain)
    }

    /// A short name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Simd::Plain => "plain",
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(_) => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512(_) => "AVX-512",
        }
    }

    /// Quantizes whole blocks (the last may be shorter).
    pub(super) fn quantize_blocks<T: Element>(self, method: &Method, w: QuantizeTile<'_, T>) -> Report {
        match self {
            Simd::Plain => quantize::blocks(method, w),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) => generic::quantize::tile(cpu, method, w, |rest| rows(&cpu, method, rest)),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512(cpu) => generic::quantize::tile(cpu, method, w, |rest| {
                generic::quantize::tile(cpu.avx2, method, rest, |rest| rows(&cpu.avx2, method, rest))
            }),
        }
    }

    /// Dequantizes a run under one scale: see [`dequantize::run`].
    pub(super) fn dequantize_run<T: Element>(self, words: &[u32], start: usize, scale: u32, out: &mut [T]) {
        match self {
            Simd::Plain => dequantize::run(words, start, scale, out),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) | Simd::Avx512(Avx512 { avx2: cpu }) => cpu.dequantize_run(words, start, scale, out),
        }
    }

    /// Accumulates whole blocks adaptively.
    pub(super) fn adaptive_blocks<T: Element>(self, w: AdaptiveTile<'_, T>) -> Report {
        match self {
            Simd::Plain => accumulate::adaptive(w),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) => generic::accumulate::tile(cpu, w, accumulate::adaptive),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512(cpu) => generic::accumulate::tile(cpu, w, |rest| {
                generic::accumulate::tile(cpu.avx2, rest, accumulate::adaptive)
            }),
        }
    }

    /// Accumulates whole blocks exactly.
    pub(super) fn exact_blocks<T: Element>(self, w: ExactTile<'_, T>) -> Report {
        match self {
            Simd::Plain => accumulate::exact(w),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) => generic::exact::tile(cpu, w, accumulate::exact),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512(cpu) => {
                generic::exact::tile(cpu, w, |rest| generic::exact::tile(cpu.avx2, rest, accumulate::exact))
            }
        }
    }

    /// Reads out whole blocks.
    pub(super) fn read_out_blocks<T: Element>(self, w: ReadOutTile<'_, T>) {
        match self {
            Simd::Plain => read_out::blocks(w),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) | Simd::Avx512(Avx512 { avx2: cpu }) => cpu.read_out_blocks(w),
        }
    }
}

impl Kernels for Simd {
    fn max<T: Element>(&self, x: &[T]) -> u32 {
        match *self {
            Simd::Plain => quantize::max(x),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) | Simd::Avx512(Avx512 { avx2: cpu }) => cpu.max(x),
        }
    }

    fn moments<T: Element>(&self, x: &[T]) -> Moments {
        match *self {
            Simd::Plain => quantize::moments(x),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) | Simd::Avx512(Avx512 { avx2: cpu }) => cpu.moments(x),
        }
    }

    fn sum<T: Element>(&self, x: &[T], t: Option<u32>) -> Sum {
        match *self {
            Simd::Plain => quantize::sum(x, t),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) | Simd::Avx512(Avx512 { avx2: cpu }) => cpu.sum(x, t),
        }
    }

    fn encode<T: Element>(
        &self,
        method: &Method,
        measure: &Measure,
        x: &[T],
        words: &mut [u32],
        start: usize,
        first: u64,
        report: &mut Report,
    ) {
        match *self {
            Simd::Plain => quantize::encode(method, measure, x, words, start, first, report),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) => cpu.encode(method, measure, x, words, start, first, report),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512(cpu) => cpu.encode(method, measure, x, words, start, first, report),
        }
    }
}
