//! Which code the machine runs: every tile that has a fast form is dispatched here.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
use avx512::Avx512;

use super::{accumulate, dequantize, quantize, read_out};
use crate::numerics::threshold::{Moments, Sum};
use crate::op::{Element, Report};

/// The kind of code, chosen once by [`Simd::detect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Simd {
    /// The executable spec itself; also what runs where no other kind is written (NEON, for one).
    Plain,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    /// AVX-512 where it gains, AVX2 elsewhere.
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

    /// The largest of `bits & 0x7fffffff`, NaN and Inf included.
    pub(super) fn max<T: Element>(self, x: &[T]) -> u32 {
        match self {
            Simd::Plain => x.iter().map(|x| x.to_f32_bits() & 0x7fff_ffff).max().unwrap_or(0),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) | Simd::Avx512(Avx512 { avx2: cpu }) => cpu.max(x),
        }
    }

    /// Moments of a chunk of at most 4096 elements; what is out of range counts as zero.
    pub(super) fn moments<T: Element>(self, x: &[T]) -> Moments {
        match self {
            Simd::Plain => quantize::plain_moments(x),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) | Simd::Avx512(Avx512 { avx2: cpu }) => cpu.moments(x),
        }
    }

    /// The sum of a chunk of at most 4096 elements over what lies above `t`; what is out of range counts as zero.
    pub(super) fn sum<T: Element>(self, x: &[T], t: Option<u32>) -> Sum {
        match self {
            Simd::Plain => quantize::plain_sum(x, t),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) | Simd::Avx512(Avx512 { avx2: cpu }) => cpu.sum(x, t),
        }
    }

    /// Quantizes whole blocks (the last may be shorter).
    pub(super) fn quantize_blocks<T: Element>(self, method: &quantize::Method, w: quantize::Work<'_, T>) -> Report {
        match self {
            Simd::Plain => quantize::plain_blocks(method, w),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) => cpu.quantize_blocks(method, w),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512(cpu) => cpu.quantize_blocks(method, w),
        }
    }

    /// Writes the trits of `x` under one measure: see [`quantize::plain_encode`].
    #[expect(clippy::too_many_arguments, reason = "a piece of a group and where it lies")]
    pub(super) fn encode<T: Element>(
        self,
        method: &quantize::Method,
        measure: &quantize::Measure,
        x: &[T],
        words: &mut [u32],
        start: usize,
        first: u64,
        report: &mut Report,
    ) {
        match self {
            Simd::Plain => quantize::plain_encode(method, measure, x, words, start, first, report),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) | Simd::Avx512(Avx512 { avx2: cpu }) => {
                cpu.encode(method, measure, x, words, start, first, report);
            }
        }
    }

    /// Dequantizes a run under one scale: see [`dequantize::plain_run`].
    pub(super) fn dequantize_run<T: Element>(self, words: &[u32], start: usize, scale: u32, out: &mut [T]) {
        match self {
            Simd::Plain => dequantize::plain_run(words, start, scale, out),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) | Simd::Avx512(Avx512 { avx2: cpu }) => cpu.dequantize_run(words, start, scale, out),
        }
    }

    /// Accumulates whole blocks adaptively.
    pub(super) fn adaptive_blocks<T: Element>(self, w: accumulate::AdaptiveWork<'_, T>) -> Report {
        match self {
            Simd::Plain => accumulate::plain_adaptive(w),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) => cpu.adaptive_blocks(w),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512(cpu) => cpu.adaptive_blocks(w),
        }
    }

    /// Accumulates whole blocks exactly.
    pub(super) fn exact_blocks<T: Element>(self, w: accumulate::ExactWork<'_, T>) -> Report {
        match self {
            Simd::Plain => accumulate::plain_exact(w),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) | Simd::Avx512(Avx512 { avx2: cpu }) => cpu.exact_blocks(w),
        }
    }

    /// Reads out whole blocks.
    pub(super) fn read_out_blocks<T: Element>(self, w: read_out::Work<'_, T>) {
        match self {
            Simd::Plain => read_out::plain_blocks(w),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2(cpu) | Simd::Avx512(Avx512 { avx2: cpu }) => cpu.read_out_blocks(w),
        }
    }
}
