//! Operations on a tensor that may have more elements than 32 bits can index: elements that are not zero, far apart, and
//! the blocks around them compared with the CPU, which sees each block alone.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use half::bf16;
use trigrad::Result;
use trigrad::cpu::Cpu;
use trigrad::numerics::pack::words;
use trigrad::numerics::reduce::SUM_WORDS;
use trigrad::numerics::update::SgdTerms;
use trigrad::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem};
use trigrad::op::read_out::{self, ReadOut};
use trigrad::op::reduce::{SquaredNorm, SquaredNormItem, read_sums};
use trigrad::op::update::{Gradient, Sgd, SgdItem, Source};
use trigrad::op::{BlockSize, Draw, Grouping, Report};
use trigrad::{Backend, Memory};

const BITS: u32 = 4;
const BLOCK: usize = 64;

/// What comes of a gradient that is -2 at some places and 0 elsewhere.
struct Sums<B: Backend> {
    levels: B::Buffer<u32>,
    scales: B::Buffer<u16>,
    counts: B::Buffer<u32>,
    read: B::Buffer<bf16>,
    weights: B::Buffer<bf16>,
    reports: Vec<Report>,
}

/// Two micro-batches of a gradient that is -2 at `at` in adaptive levels, two in exact counts under scales of 2 in those
/// blocks, a step of SGD from the levels, and these read out. The tensor's elements from `first` on, `n` of them.
fn work<B: Backend>(b: &B, first: usize, n: usize, at: &[usize]) -> Result<Sums<B>> {
    let block = BlockSize::default();
    let mut x = b.zeros::<bf16>(n)?;
    let mut window = b.zeros::<u16>(block.blocks(n))?;
    let (two, scale) = (b.upload(&[bf16::from_f32(-2.0)])?, b.upload(&[0x4000u16])?);
    for i in at.iter().filter(|i| (first..first + n).contains(i)).map(|i| i - first) {
        b.copy(B::view(&two), B::slice_mut(B::view_mut(&mut x), i..i + 1).unwrap())?;
        b.copy(B::view(&scale), B::slice_mut(B::view_mut(&mut window), i / BLOCK..i / BLOCK + 1).unwrap())?;
    }
    let mut levels = b.zeros::<u32>(words(n, BITS))?;
    let mut scales = b.zeros::<u16>(block.blocks(n))?;
    let mut counts = b.zeros::<u32>(words(n, BITS))?;
    let mut seen = b.zeros::<u16>(block.blocks(n))?;
    let mut reports = b.reports(2)?;
    for micro_batch in 0..2 {
        let (draw, weight) = (Draw::new(1, 2).micro_batch(micro_batch), 0.75);
        let item = AdaptiveItem {
            tensor: 0,
            first: first as u64,
            x: B::view(&x),
            levels: B::view_mut(&mut levels),
            scales: B::view_mut(&mut scales),
            report: 0,
        };
        b.accumulate_adaptive(&Adaptive { bits: BITS, block, draw, weight }, &mut [item], &mut reports)?;
        let item = ExactItem {
            tensor: 0,
            first: first as u64,
            x: B::view(&x),
            counts: B::view_mut(&mut counts),
            scales: B::view_mut(&mut window),
            seen: B::view_mut(&mut seen),
            report: 1,
        };
        let op = Exact { bits: BITS, block, draw, weight, held: micro_batch, headroom: None };
        b.accumulate_exact(&op, &mut [item], &mut reports)?;
    }
    let mut weights = b.zeros::<bf16>(n)?;
    let source = Source { bits: BITS, block, factor: 0.3, draw: Draw::new(3, 4) };
    let terms = SgdTerms { learning_rate: 0.1, momentum: 0.0, weight_decay: 0.0 };
    let item = SgdItem {
        tensor: 0,
        first: first as u64,
        gradient: Gradient::Packed { levels: B::view(&levels), scales: B::view(&scales) },
        weights: B::view_mut(&mut weights),
        momentum: None,
        report: 0,
    };
    b.update_sgd(&Sgd { source, terms, nesterov: false }, &mut [item], None, &mut reports)?;
    // Into the gradient's memory: every element is written.
    let mut read = x;
    let (levels_view, scales_view) = (B::view(&levels), B::view(&scales));
    let item = read_out::Item { levels: levels_view, scales: scales_view, out: B::view_mut(&mut read), guard: None };
    b.read_out(&ReadOut { bits: BITS, block, factor: 0.3 }, &mut [item], None)?;
    let reports = b.read_reports(&reports)?;
    Ok(Sums { levels, scales, counts, read, weights, reports })
}

fn part<B: Memory, T: bytemuck::Pod + Send + Sync>(
    b: &B,
    from: &B::Buffer<T>,
    range: std::ops::Range<usize>,
) -> Result<Vec<T>> {
    b.download(B::slice(B::view(from), range).unwrap())
}

/// The squared norm of levels.
fn squared_norm<'a, B: Backend>(b: &B, n: usize, levels: B::View<'a, u32>, scales: B::View<'a, u16>) -> Result<f64> {
    let mut sums = b.zeros(SUM_WORDS)?;
    let op = SquaredNorm { bits: BITS, grouping: Grouping::Block(BlockSize::default()) };
    let item = SquaredNormItem { n, levels: B::shorten(levels), scales: B::shorten(scales), sum: 0 };
    b.squared_norm(&op, &mut [item], B::view_mut(&mut sums))?;
    Ok(read_sums(b, B::view(&sums))?[0].to_f64())
}

/// What a backend makes of `n` elements, against the CPU's blocks around each of `at` and zeros elsewhere.
pub(crate) fn far_apart<B: Backend>(b: &B, n: usize, at: &[usize]) -> Result<()> {
    let sums = work(b, 0, n, at)?;
    assert_eq!(sums.reports, [Report::default(); 2]);
    let cpu = Cpu::new();
    let mut squares = 0.0;
    for &i in at {
        let first = i / BLOCK * BLOCK;
        let end = (first + BLOCK).min(n);
        let alone = work(&cpu, first, end - first, at)?;
        let per = words(BLOCK, BITS) * first / BLOCK..words(BLOCK, BITS) * first / BLOCK + alone.levels.len();
        assert_eq!(part(b, &sums.levels, per.clone())?, alone.levels, "levels around {i}");
        assert_eq!(part(b, &sums.counts, per)?, alone.counts, "counts around {i}");
        let group = first / BLOCK..first / BLOCK + 1;
        assert_eq!(part(b, &sums.scales, group)?, alone.scales, "the scale around {i}");
        assert_eq!(part(b, &sums.read, first..end)?, alone.read, "sums around {i}");
        assert_eq!(part(b, &sums.weights, first..end)?, alone.weights, "weights around {i}");
        assert!(alone.levels.iter().chain(&alone.counts).any(|w| *w != 0));
        assert!(alone.weights.iter().any(|w| w.to_f32() > 0.0) && alone.read.iter().any(|v| v.to_f32() < 0.0));
        squares += squared_norm(&cpu, end - first, &alone.levels, &alone.scales)?;
    }
    // Few terms of few bits: their sum is exact, so nothing else is other than zero.
    assert_eq!(squared_norm(b, n, B::view(&sums.levels), B::view(&sums.scales))?, squares);
    Ok(())
}
