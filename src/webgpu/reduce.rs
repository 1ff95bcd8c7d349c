//! Reductions: bins of exact sums on the device, joined and rounded once on the host.

use super::Wgpu;
use super::accumulate::{bits, words_of};
use super::dequantize::grouped;
use super::launch::Batch;
use super::memory::{Raw, USAGE, View};
use super::shaders::{self, Params};
use crate::error::Result;
use crate::numerics::reduce::ExactSum;
use crate::op::Grouping;
use crate::op::reduce::{Dot, SquaredNorm};

/// Bins, one for each exponent of a product of two scales, of three words.
const BINS: u64 = 512 * 12;
/// Groups of 32 elements that a thread takes.
const EACH: u64 = 16;

struct Side<'a> {
    words: Raw<'a>,
    scales: Raw<'a>,
}

fn bins(
    gpu: &Wgpu,
    flags: &[&'static str],
    width: u32,
    grouping: Grouping,
    n: usize,
    a: &Side<'_>,
    b: &Side<'_>,
) -> Result<Vec<u32>> {
    gpu.submits("reduce")?;
    let sums = gpu.allocate(BINS, USAGE)?;
    let sums = Raw { buffer: &sums, offset: 0, bytes: BINS };
    let mut batch = Batch::new(gpu);
    for window in gpu.windows(n, u64::from(width / 8).max(1)) {
        let mut params = Params { n: window.len as u32, ..Params::default() };
        let (wa, wb) = (words_of(a.words, width, window), words_of(b.words, width, window));
        let sa = grouped(&mut params, grouping, n as u64, a.scales, window);
        let sb = grouped(&mut params, grouping, n as u64, b.scales, window);
        (params.words, params.other) = (wa.skip(4), wb.skip(4));
        (params.scales, params.seen) = (sa.skip(2), sb.skip(2));
        let threads = window.len.div_ceil(32).div_ceil(EACH);
        batch.dispatch(&shaders::REDUCE, flags.to_vec(), &[wa, sa, wb, sb, sums], params, threads)?;
    }
    batch.run("reduce")?;
    gpu.read(sums)
}

fn rounded(bins: &[u32]) -> f64 {
    let mut sum = ExactSum::default();
    for (exponent, bin) in bins.chunks_exact(3).enumerate() {
        // 96 bits in two's complement, a limb at a time.
        for (i, &limb) in bin.iter().enumerate() {
            let term = if i == 2 { i64::from(limb as i32) } else { i64::from(limb) };
            if term != 0 {
                sum.add(term, exponent as u32 + 32 * i as u32);
            }
        }
    }
    sum.to_f64()
}

pub(super) fn count_nonzero(gpu: &Wgpu, words: View<'_, u32>) -> Result<u64> {
    // An odd last word is no pair; nothing is counted in it.
    let pairs = words.raw.bytes / 8;
    let side = Side { words: words.raw.part(0, 8 * pairs), scales: words.raw.part(0, 8 * pairs) };
    let grouping = Grouping::Tensor;
    let bins = bins(gpu, &["COUNT", "BITS2"], 2, grouping, 32 * pairs as usize, &side, &side)?;
    let at = |i: usize| u64::from(bins.get(i).copied().unwrap_or(0));
    Ok(at(0) | at(1) << 32)
}

pub(super) fn dot(
    gpu: &Wgpu,
    op: &Dot,
    words_a: View<'_, u32>,
    scales_a: View<'_, u16>,
    words_b: View<'_, u32>,
    scales_b: View<'_, u16>,
) -> Result<f64> {
    let count = |raw: Raw<'_>, size: u64| (raw.bytes / size) as usize;
    op.validate(count(words_a.raw, 4), count(scales_a.raw, 2), count(words_b.raw, 4), count(scales_b.raw, 2))?;
    let a = Side { words: words_a.raw, scales: scales_a.raw };
    let b = Side { words: words_b.raw, scales: scales_b.raw };
    Ok(rounded(&bins(gpu, &["DOT", "BITS2"], 2, op.grouping, op.n, &a, &b)?))
}

pub(super) fn squared_norm(gpu: &Wgpu, op: &SquaredNorm, levels: View<'_, u32>, scales: View<'_, u16>) -> Result<f64> {
    op.validate((levels.raw.bytes / 4) as usize, (scales.raw.bytes / 2) as usize)?;
    let side = Side { words: levels.raw, scales: scales.raw };
    Ok(rounded(&bins(gpu, &[bits(op.bits)], op.bits, op.grouping, op.n, &side, &side)?))
}
