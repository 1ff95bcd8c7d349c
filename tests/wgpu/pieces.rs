//! Tensors that a wgpu device takes in parts, and dispatches folded to two dimensions: the bits of one dispatch.

use crate::adapter::device;
use crate::given::{adaptive, gradient, rules};
use bytemuck::Pod;
use half::f16;
use trigrad::cpu::Cpu;
use trigrad::numerics::pack::words;
use trigrad::numerics::reduce::SUM_WORDS;
use trigrad::numerics::update::{AdamWTerms, SgdTerms};
use trigrad::op::accumulate::{AdaptiveItem, Exact, ExactItem, F32, F32Item};
use trigrad::op::check::{self, Check};
use trigrad::op::dequantize::{self, Dequantize};
use trigrad::op::quantize::Item;
use trigrad::op::read_out::{self, ReadOut};
use trigrad::op::reduce::{
    CountNonzero, CountNonzeroItem, Dot, DotItem, SquaredNorm, SquaredNormF32, SquaredNormF32Item, SquaredNormItem,
};
use trigrad::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};
use trigrad::op::update_adamw_8bit::{AdamW8, AdamW8Item};
use trigrad::op::window::{
    CompareScales, CompareScalesItem, Look, LookItem, Merge, MergeItem, WindowScales, WindowScalesItem,
};
use trigrad::op::{BlockSize, Draw, Grouping, Report};
use trigrad::webgpu::Options;
use trigrad::{Backend, Result};

/// What a gradient comes to, operation by operation: the bits of each output.
#[derive(Debug, Default)]
struct Outcome {
    outputs: Vec<(&'static str, Vec<u32>)>,
    reports: Vec<Report>,
}

impl Outcome {
    fn keep<B: Backend, T: Pod + Send + Sync>(
        &mut self,
        backend: &B,
        name: &'static str,
        view: B::View<'_, T>,
    ) -> Result<()> {
        let values = backend.download(view)?;
        let bits =
            values.iter().map(|v| bytemuck::bytes_of(v).iter().rev().fold(0, |bits, b| bits << 8 | u32::from(*b)));
        self.outputs.push((name, bits.collect()));
        Ok(())
    }

    /// Panics at the first output that differs.
    fn equals(&self, other: &Self, what: &str) {
        assert_eq!(self.outputs.len(), other.outputs.len());
        for ((name, one), (_, two)) in self.outputs.iter().zip(&other.outputs) {
            let differs = one.iter().zip(two).position(|(a, b)| a != b);
            assert_eq!((one.len(), differs), (two.len(), None), "{what}: {name}");
        }
        assert_eq!(self.reports, other.reports, "{what}");
    }
}

/// Every operation that takes or gives a tensor, one after the other.
fn work<B: Backend>(b: &B, x: &[f32]) -> Result<Outcome> {
    let (n, block) = (x.len(), BlockSize::default());
    let mut out = Outcome::default();
    let given = b.upload(x)?;
    let mut reports = b.reports(8)?;
    let mut sums = b.zeros::<u32>(4 * SUM_WORDS)?;
    let mut levels = b.zeros::<u32>(words(n, 4))?;
    let mut scales = b.zeros::<u16>(block.blocks(n))?;
    for micro_batch in 0..2 {
        let mut op = adaptive();
        op.draw = op.draw.micro_batch(micro_batch);
        let item = AdaptiveItem {
            tensor: 4,
            first: 64,
            x: B::view(&given),
            levels: B::view_mut(&mut levels),
            scales: B::view_mut(&mut scales),
            report: 1,
        };
        b.accumulate_adaptive(&op, &mut [item], &mut reports)?;
    }
    out.keep(b, "levels", B::view(&levels))?;
    out.keep(b, "scales", B::view(&scales))?;
    for op in rules() {
        let mut packed = b.zeros::<u32>(words(n, 2))?;
        let mut plane_scales = b.zeros::<u16>(op.grouping.groups(n))?;
        let (tensor, first) = (1, 0);
        let (planes, scales) = (B::view_mut(&mut packed), B::view_mut(&mut plane_scales));
        let item = Item { tensor, first, x: B::view(&given), words: planes, scales, report: 0 };
        b.quantize(&op, &mut [item], &mut reports)?;
        out.keep(b, "planes", B::view(&packed))?;
        out.keep(b, "scales of planes", B::view(&plane_scales))?;
        let (planes, scales) = (B::view(&packed), B::view(&plane_scales));
        let dot = DotItem { n, words_a: planes, scales_a: scales, words_b: planes, scales_b: scales, sum: 0 };
        b.dot(&Dot { grouping: op.grouping }, &mut [dot], B::view_mut(&mut sums))?;
        let count = CountNonzeroItem { words: planes, sum: 1 };
        b.count_nonzero(&CountNonzero, &mut [count], B::view_mut(&mut sums))?;
        let mut floats = b.zeros::<f16>(n)?;
        let op = Dequantize { grouping: op.grouping };
        b.dequantize(&op, &mut [dequantize::Item { words: planes, scales, out: B::view_mut(&mut floats) }])?;
        out.keep(b, "dequantized", B::view(&floats))?;
    }

    // Windows of exact counts: scales from a look or a first micro-batch, two micro-batches, merged with themselves.
    let mut window = b.zeros::<u16>(block.blocks(n))?;
    let mut merged = b.zeros::<u32>(words(n, 8))?;
    for (bits, headroom) in [(32, None), (32, Some(1.5)), (8, Some(0.25)), (8, None)] {
        let mut seen = b.zeros::<u16>(block.blocks(n))?;
        window = b.zeros::<u16>(block.blocks(n))?;
        if headroom.is_none() {
            let item = LookItem { x: B::view(&given), seen: B::view_mut(&mut seen), report: 2 };
            b.look(&Look { block, weight: 0.75 }, &mut [item], &mut reports)?;
            out.keep(b, "seen", B::view(&seen))?;
            let item = WindowScalesItem { seen: B::view(&seen), scales: B::view_mut(&mut window) };
            b.window_scales(&WindowScales { headroom: 0.5, bits }, &mut [item])?;
            b.clear(B::view_mut(&mut seen))?;
        }
        let mut counts = b.zeros::<u32>(words(n, bits))?;
        for held in 0..2 {
            let item = ExactItem {
                tensor: 4,
                first: 64,
                x: B::view(&given),
                counts: B::view_mut(&mut counts),
                scales: B::view_mut(&mut window),
                seen: B::view_mut(&mut seen),
                report: 3,
            };
            let draw = Draw::new(3, 5).micro_batch(held);
            let op = Exact { bits, block, draw, weight: 0.75, held, headroom };
            b.accumulate_exact(&op, &mut [item], &mut reports)?;
        }
        merged = b.zeros::<u32>(words(n, bits))?;
        let mut more = b.zeros::<u16>(block.blocks(n))?;
        for held in [0, 2] {
            let (from, into) = (B::view(&counts), B::view_mut(&mut merged));
            let item = MergeItem { from, into, seen_from: B::view(&seen), seen: B::view_mut(&mut more) };
            b.merge(&Merge { bits, held, added: 2 }, &mut [item])?;
        }
        let item = CompareScalesItem { a: B::view(&scales), b: B::view(&window), report: 5 };
        b.compare_scales(&CompareScales, &mut [item], &mut reports)?;
        out.keep(b, "window", B::view(&window))?;
        out.keep(b, "counts", B::view(&counts))?;
        out.keep(b, "seen by counts", B::view(&more))?;
        out.keep(b, "merged", B::view(&merged))?;
        let mut read = b.zeros::<f16>(n)?;
        let (levels, scales) = (B::view(&merged), B::view(&window));
        let item = read_out::Item { levels, scales, out: B::view_mut(&mut read), guard: None };
        b.read_out(&ReadOut { bits, block, factor: 0.25 }, &mut [item], None)?;
        out.keep(b, "counts read out", B::view(&read))?;
        let norm = SquaredNorm { bits, grouping: Grouping::Block(block) };
        let item = SquaredNormItem { n, levels: B::view(&merged), scales: B::view(&window), sum: 2 };
        b.squared_norm(&norm, &mut [item], B::view_mut(&mut sums))?;
    }

    let mut read = b.zeros::<f32>(n)?;
    for (bits, levels, scales) in [(4, &levels, &scales), (8, &merged, &window)] {
        let into = B::view_mut(&mut read);
        let item = read_out::Item { levels: B::view(levels), scales: B::view(scales), out: into, guard: None };
        b.read_out(&ReadOut { bits, block, factor: 0.5 }, &mut [item], None)?;
        out.keep(b, "read out", B::view(&read))?;
        let norm = SquaredNorm { bits, grouping: Grouping::Block(block) };
        let item = SquaredNormItem { n, levels: B::view(levels), scales: B::view(scales), sum: 2 };
        b.squared_norm(&norm, &mut [item], B::view_mut(&mut sums))?;
    }
    let item = check::Item { x: B::view(&given), first: 64, report: 4 };
    b.check(&Check { weight: 1.0 }, &mut [item], &mut reports)?;
    let item = F32Item { first: 64, x: B::view(&given), sum: B::view_mut(&mut read), report: 6 };
    b.accumulate_f32(&F32 { weight: 0.3 }, &mut [item], &mut reports)?;
    out.keep(b, "sums", B::view(&read))?;
    let item = SquaredNormF32Item { x: B::view(&read), sum: 3 };
    b.squared_norm_f32(&SquaredNormF32, &mut [item], B::view_mut(&mut sums))?;
    let mut halves = b.zeros::<half::bf16>(n)?;
    let item = read_out::F32Item { sum: B::view(&read), out: B::view_mut(&mut halves), guard: None };
    b.read_out_f32(&read_out::ReadOutF32 { factor: 3.0 }, &mut [item], None)?;
    out.keep(b, "sums read out", B::view(&halves))?;
    out.keep(b, "exact sums", B::view(&sums))?;

    let source = Source { bits: 4, block, factor: 0.5, draw: Draw::new(6, 7) };
    let mut weights = b.upload(&vec![half::bf16::from_f32(0.3); n])?;
    let (mut one, mut two) = (b.zeros::<f32>(n)?, b.zeros::<f32>(n)?);
    for step in 1..3 {
        let item = AdamWItem {
            tensor: 2,
            first: 0,
            gradient: Gradient::Packed { levels: B::view(&levels), scales: B::view(&scales) },
            weights: B::view_mut(&mut weights),
            first_moment: B::view_mut(&mut one),
            second_moment: B::view_mut(&mut two),
            report: 7,
        };
        let op = AdamW { source, terms: AdamWTerms::new(0.01, (0.9, 0.99), 1e-8, 0.1, step) };
        b.update_adamw(&op, &mut [item], None, &mut reports)?;
    }
    let (mut moments, mut moment_scales) = (b.zeros::<u16>(n)?, b.zeros::<u16>(AdamW8::scales(n))?);
    for step in 1..3 {
        let item = AdamW8Item {
            tensor: 2,
            first: 64,
            gradient: Gradient::Packed { levels: B::view(&levels), scales: B::view(&scales) },
            weights: B::view_mut(&mut weights),
            moments: B::view_mut(&mut moments),
            moment_scales: B::view_mut(&mut moment_scales),
            report: 7,
        };
        let op = AdamW8 { source, terms: AdamWTerms::new(0.01, (0.9, 0.99), 1e-8, 0.1, step) };
        b.update_adamw_8bit(&op, &mut [item], None, &mut reports)?;
    }
    out.keep(b, "moments", B::view(&moments))?;
    out.keep(b, "moment scales", B::view(&moment_scales))?;
    let item = SgdItem {
        tensor: 3,
        first: 0,
        gradient: Gradient::Dense(B::view(&two)),
        weights: B::view_mut(&mut weights),
        momentum: Some(B::view_mut(&mut one)),
        report: 7,
    };
    let terms = SgdTerms { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01 };
    b.update_sgd(&Sgd { source, terms, nesterov: true }, &mut [item], None, &mut reports)?;
    out.keep(b, "weights", B::view(&weights))?;
    out.keep(b, "momentum", B::view(&one))?;
    out.keep(b, "second moment", B::view(&two))?;
    out.reports = b.read_reports(&reports)?;
    Ok(out)
}

/// Tensors split into pieces, dispatches folded to two dimensions, and both, give the bits of one dispatch and of the
/// CPU, in every operation.
#[test]
fn splitting_and_folding_move_no_bit() {
    let Some(gpu) = device(&Options::default()) else { return };
    let mut x = gradient(263_000);
    x[200_001] = f32::NAN;
    x[70_000] = f32::INFINITY;
    let whole = work(&gpu, &x).unwrap();
    assert_eq!(whole.reports[1], Report { non_finite: 4, first: Some(70_064), clipped: 0 });
    assert_eq!(whole.reports[0].first, Some(70_000));
    assert_eq!(whole.reports[4], Report { non_finite: 2, first: Some(70_064), clipped: 0 });
    assert!(whole.reports[3].clipped > 0);
    whole.equals(&work(&Cpu::new(), &x).unwrap(), "the CPU");
    for (piece, workgroups) in [(65_536, u32::MAX), (1 << 31, 67), (131_072, 47)] {
        let mut options = Options::default();
        (options.piece, options.workgroups) = (piece, workgroups);
        let parts = work(&device(&options).unwrap(), &x).unwrap();
        parts.equals(&whole, &format!("pieces of {piece} elements, {workgroups} workgroups in a dimension"));
    }
}

/// Blocks far apart have the bits that each has alone, whatever lies between.
#[test]
fn blocks_far_apart_are_what_each_is_alone() {
    let (n, at) = (200_077, [5, 65_543, 131_075, 200_076]);
    crate::far::far_apart(&Cpu::new(), n, &at).unwrap();
    let Some(gpu) = device(&Options::default()) else { return };
    crate::far::far_apart(&gpu, n, &at).unwrap();
}

/// Exact sums at both ends of what scales and floats can be, on top of sums that are there already: the CPU's words.
#[test]
fn exact_sums_at_the_ends_of_the_range() {
    fn sums<B: Backend>(b: &B) -> Result<Vec<u32>> {
        let (n, block) = (101, BlockSize::new(32)?);
        let bits: Vec<u32> = (0..words(n, 32) as u32).map(|i| i.wrapping_mul(0x9e37_79b9) ^ (i << 7)).collect();
        let levels = b.upload(&bits)?;
        // The largest scale, the smallest, one in between, a subnormal one; a negative one counts as its magnitude.
        let scales = [b.upload(&[0x7e80u16, 0x0f80, 0x3f81, 0x0001])?, b.upload(&[0x7eff, 0xbf80, 0x7e80, 0x4000])?];
        let mut start = vec![0u32; 3 * SUM_WORDS];
        start[SUM_WORDS..2 * SUM_WORDS].fill(u32::MAX);
        let mut sums = b.upload(&start)?;
        let part = |bits| B::slice(B::view(&levels), 0..words(n, bits)).unwrap_or(B::view(&levels));
        for (slot, scales) in scales.iter().enumerate() {
            for bits in [2, 4, 8, 16] {
                let op = SquaredNorm { bits, grouping: Grouping::Block(block) };
                let item = SquaredNormItem { n, levels: part(bits), scales: B::view(scales), sum: slot };
                b.squared_norm(&op, &mut [item], B::view_mut(&mut sums))?;
            }
        }
        // In 32 bits a scale is at most 2^105.
        let fine = b.upload(&[0x7400u16, 0x0800, 0x3f80, 0])?;
        let op = SquaredNorm { bits: 32, grouping: Grouping::Block(block) };
        let item = SquaredNormItem { n, levels: part(32), scales: B::view(&fine), sum: 2 };
        b.squared_norm(&op, &mut [item], B::view_mut(&mut sums))?;
        let (a, c) = (B::view(&scales[0]), B::view(&scales[1]));
        let shifted = B::slice(B::view(&levels), 20..20 + words(n, 2)).unwrap_or(B::view(&levels));
        let item = DotItem { n, words_a: part(2), scales_a: a, words_b: shifted, scales_b: c, sum: 1 };
        b.dot(&Dot { grouping: Grouping::Block(block) }, &mut [item], B::view_mut(&mut sums))?;
        let floats: Vec<f32> = [1, 0x0080_0000, 0x807f_ffff, 0x7f7f_ffff, 0xff80_0000, 0x7fc0_0000, 0xbf80_0001]
            .map(f32::from_bits)
            .to_vec();
        let floats = b.upload(&floats)?;
        let one = SquaredNormF32Item { x: B::view(&floats), sum: 1 };
        let two = SquaredNormF32Item { x: B::view(&floats), sum: 0 };
        b.squared_norm_f32(&SquaredNormF32, &mut [one, two], B::view_mut(&mut sums))?;
        b.download(B::view(&sums))
    }
    let Some(gpu) = device(&Options::default()) else { return };
    let (got, want) = (sums(&gpu).unwrap(), sums(&Cpu::plain()).unwrap());
    assert!(want[..SUM_WORDS].iter().any(|word| *word != 0));
    for (slot, (got, want)) in got.chunks(SUM_WORDS).zip(want.chunks(SUM_WORDS)).enumerate() {
        assert_eq!(got, want, "slot {slot}");
    }
}
