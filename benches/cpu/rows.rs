//! Every operation as a closure to be timed, with the bytes it moves.

use half::{bf16, f16};
use std::hint::black_box;
use trigrad::cpu::Cpu;
use trigrad::numerics::pack::words;
use trigrad::numerics::reduce::SUM_WORDS;
use trigrad::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, F32, F32Item};
use trigrad::op::check::{self, Check};
use trigrad::op::dequantize::{self, Dequantize};
use trigrad::op::quantize::{self, Quantize, Threshold};
use trigrad::op::read_out::{self, ReadOut, ReadOutF32};
use trigrad::op::reduce::{
    CountNonzero, CountNonzeroItem, Dot, DotItem, SquaredNorm, SquaredNormF32, SquaredNormF32Item, SquaredNormItem,
};
use trigrad::op::window::{Look, LookItem, Merge, MergeItem, WindowScales, WindowScalesItem};
use trigrad::op::{Backend, BlockSize, Draw, Element, Grouping, Report};

/// One operation on one type.
pub(crate) struct Row {
    pub(crate) name: String,
    /// Bytes of the memcpy it is compared with: of its input, or its output where it expands.
    pub(crate) bytes: usize,
    /// Bytes it reads and writes, each pass over an array counted.
    pub(crate) moved: usize,
    pub(crate) run: Box<dyn FnMut() + Send>,
}

fn gaussian<T: Element>(n: usize) -> Vec<T> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut unit = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..n).map(|_| T::from_f32_bits((unit() + unit() + unit() + unit() - 2.0).to_bits())).collect()
}

fn ok<R>(result: trigrad::Result<R>) -> R {
    match result {
        Ok(r) => r,
        Err(e) => unreachable!("{e}"),
    }
}

fn row(name: String, bytes: usize, moved: usize, run: impl FnMut() + Send + 'static) -> Row {
    Row { name, bytes, moved, run: Box::new(run) }
}

/// Every operation that takes a gradient, for one type.
fn gradient_rows<T: Element>(cpu: Cpu, kind: &str, n: usize, rows: &mut Vec<Row>) {
    let block = BlockSize::default();
    let bytes = n * size_of::<T>();
    let x: std::sync::Arc<[T]> = gaussian::<T>(n).into();
    let draw = Draw::new(1, 2);
    let columns = Grouping::Row(1000);
    for (name, op) in [
        ("quantize stochastic", Quantize::stochastic(draw)),
        ("quantize stochastic, block 256", Quantize::stochastic(draw).grouping(grouping(256))),
        ("quantize stochastic, rows of 1000", Quantize::stochastic(draw).grouping(columns)),
        ("quantize stochastic, tensor", Quantize::stochastic(draw).grouping(Grouping::Tensor)),
        ("quantize stochastic, 2.5 sigma", Quantize::stochastic(draw).clip(2.5)),
        ("quantize threshold mean", Quantize::threshold(Threshold::MEAN_MAGNITUDE)),
        ("quantize threshold given", Quantize::threshold(Threshold::Given(0.5))),
        ("quantize threshold mean, tensor", Quantize::threshold(Threshold::TWN).grouping(Grouping::Tensor)),
    ] {
        if columns == op.grouping && !n.is_multiple_of(1000) {
            continue;
        }
        let (x, mut w, mut s) = (x.clone(), vec![0; words(n, 2)], vec![0; op.grouping.groups(n)]);
        let passes = match (op.grouping, op.rule) {
            (Grouping::Tensor, quantize::Rule::Threshold(_)) => 3,
            (Grouping::Tensor, _) => 2,
            _ => 1,
        };
        let moved = passes * bytes + size_of_val(&w[..]) + size_of_val(&s[..]);
        let mut reports = vec![Report::default()];
        rows.push(row(format!("{name} {kind}"), bytes, moved, move || {
            let item =
                quantize::Item { tensor: 0, first: 0, x: &x[..], words: &mut w[..], scales: &mut s[..], report: 0 };
            ok(cpu.quantize(&op, &mut [item], &mut reports));
        }));
    }
    for bits in [2, 4, 8] {
        let (x, mut levels, mut scales) = (x.clone(), vec![0; words(n, bits)], vec![0; block.blocks(n)]);
        let mut reports = vec![Report::default()];
        let mut micro_batch = 0;
        let moved = bytes + 2 * (size_of_val(&levels[..]) + size_of_val(&scales[..]));
        rows.push(row(format!("accumulate adaptive {bits} bits {kind}"), bytes, moved, move || {
            micro_batch += 1;
            let op = Adaptive { bits, block, draw: draw.micro_batch(micro_batch), weight: 1.0 };
            let (levels, scales) = (&mut levels[..], &mut scales[..]);
            let item = AdaptiveItem { tensor: 0, first: 0, x: &x[..], levels, scales, report: 0 };
            ok(cpu.accumulate_adaptive(&op, &mut [item], &mut reports));
        }));
    }
    for bits in [4, 8, 16, 32] {
        let (x, mut counts, mut scales) = (x.clone(), vec![0; words(n, bits)], vec![0; block.blocks(n)]);
        let mut seen = scales.clone();
        let mut reports = vec![Report::default()];
        let item = LookItem { x: &x[..], seen: &mut scales[..], report: 0 };
        ok(cpu.look(&Look { block, weight: 1.0 }, &mut [item], &mut reports));
        let maxima = scales.clone();
        let item = WindowScalesItem { seen: &maxima[..], scales: &mut scales[..] };
        ok(cpu.window_scales(&WindowScales { headroom: 1.0, bits }, &mut [item]));
        let moved = bytes + 2 * size_of_val(&counts[..]) + 3 * size_of_val(&scales[..]);
        rows.push(row(format!("accumulate exact {bits} bits {kind}"), bytes, moved, move || {
            let op = Exact { bits, block, draw, weight: 1.0, held: 0, headroom: None };
            let (counts, scales, seen) = (&mut counts[..], &mut scales[..], &mut seen[..]);
            let item = ExactItem { tensor: 0, first: 0, x: &x[..], counts, scales, seen, report: 0 };
            ok(cpu.accumulate_exact(&op, &mut [item], &mut reports));
        }));
    }
    let (y, mut sum, mut reports) = (x.clone(), vec![0f32; n], vec![Report::default()]);
    rows.push(row(format!("accumulate f32 {kind}"), bytes, bytes + 2 * size_of_val(&sum[..]), move || {
        let item = F32Item { first: 0, x: &y[..], sum: &mut sum[..], report: 0 };
        ok(cpu.accumulate_f32(&F32 { weight: 1.0 }, &mut [item], &mut reports));
    }));
    let (y, mut seen, mut reports) = (x.clone(), vec![0; block.blocks(n)], vec![Report::default()]);
    let moved = bytes + 2 * size_of_val(&seen[..]);
    rows.push(row(format!("look {kind}"), bytes, moved, move || {
        let item = LookItem { x: &y[..], seen: &mut seen[..], report: 0 };
        ok(cpu.look(&Look { block, weight: 1.0 }, &mut [item], &mut reports));
    }));
    let mut reports = vec![Report::default()];
    rows.push(row(format!("check {kind}"), bytes, bytes, move || {
        ok(cpu.check(&Check { weight: 1.0 }, &mut [check::Item { x: &x[..], first: 0, report: 0 }], &mut reports));
    }));
}

fn grouping(block: u32) -> Grouping {
    Grouping::Block(ok(BlockSize::new(block)))
}

/// Packed words and scales of a Gaussian tensor: levels, or planes for 2 bits.
fn levels(n: usize, bits: u32) -> (Vec<u32>, Vec<u16>) {
    let (cpu, block, x) = (Cpu::new(), BlockSize::default(), gaussian::<f32>(n));
    let (mut levels, mut scales) = (vec![0; words(n, bits)], vec![0; block.blocks(n)]);
    let op = Adaptive { bits, block, draw: Draw::new(1, 2), weight: 1.0 };
    let item =
        AdaptiveItem { tensor: 0, first: 0, x: &x[..], levels: &mut levels[..], scales: &mut scales[..], report: 0 };
    ok(cpu.accumulate_adaptive(&op, &mut [item], &mut vec![Report::default()]));
    (levels, scales)
}

/// Operations that expand, for one type.
fn output_rows<T: Element>(cpu: Cpu, kind: &str, n: usize, rows: &mut Vec<Row>) {
    let bytes = n * size_of::<T>();
    let (w, s) = levels(n, 2);
    let (sum, mut out) = (gaussian::<f32>(n), vec![T::from_f32_bits(0); n]);
    rows.push(row(format!("read out f32 {kind}"), bytes, bytes + size_of_val(&sum[..]), move || {
        let item = read_out::F32Item { sum: &sum[..], out: &mut out[..], guard: None };
        ok(cpu.read_out_f32(&ReadOutF32 { factor: 0.125 }, &mut [item], None));
    }));
    let mut out = vec![T::from_f32_bits(0); n];
    let moved = bytes + size_of_val(&w[..]) + size_of_val(&s[..]);
    rows.push(row(format!("dequantize {kind}"), bytes, moved, move || {
        let item = dequantize::Item { words: &w[..], scales: &s[..], out: &mut out[..] };
        ok(cpu.dequantize(&Dequantize::default(), &mut [item]));
    }));
    for bits in [2, 4, 8] {
        let (levels, scales) = levels(n, bits);
        let mut out = vec![T::from_f32_bits(0); n];
        let moved = bytes + size_of_val(&levels[..]) + size_of_val(&scales[..]);
        rows.push(row(format!("read out {bits} bits {kind}"), bytes, moved, move || {
            let op = ReadOut { bits, block: BlockSize::default(), factor: 0.125 };
            let item = read_out::Item { levels: &levels[..], scales: &scales[..], out: &mut out[..], guard: None };
            ok(cpu.read_out(&op, &mut [item], None));
        }));
    }
}

/// Operations on packed data: compared with a memcpy of what they read.
fn packed_rows(cpu: Cpu, n: usize, rows: &mut Vec<Row>) {
    let (a, s) = levels(n, 2);
    let bytes = 4 * a.len();
    let grouping = Grouping::default();
    let (b, t) = (a.clone(), s.clone());
    let scaled = bytes + size_of_val(&s[..]);
    rows.push(row("dot".to_owned(), 2 * bytes, 2 * scaled, move || {
        let item = DotItem { n, words_a: &b[..], scales_a: &t[..], words_b: &b[..], scales_b: &t[..], sum: 0 };
        ok(cpu.dot(&Dot { grouping }, &mut [item], black_box(&mut [0; SUM_WORDS])));
    }));
    let b = a.clone();
    rows.push(row("count nonzero".to_owned(), bytes, bytes, move || {
        let item = CountNonzeroItem { words: &b[..], sum: 0 };
        ok(cpu.count_nonzero(&CountNonzero, &mut [item], black_box(&mut [0; SUM_WORDS])));
    }));
    rows.push(row("squared norm 2 bits".to_owned(), bytes, scaled, move || {
        let item = SquaredNormItem { n, levels: &a[..], scales: &s[..], sum: 0 };
        ok(cpu.squared_norm(&SquaredNorm { bits: 2, grouping }, &mut [item], black_box(&mut [0; SUM_WORDS])));
    }));
    let (a, s) = levels(n, 4);
    let bytes = 4 * a.len();
    let (b, t) = (a.clone(), s.clone());
    let scaled = bytes + size_of_val(&t[..]);
    rows.push(row("squared norm 4 bits".to_owned(), bytes, scaled, move || {
        let item = SquaredNormItem { n, levels: &b[..], scales: &t[..], sum: 0 };
        ok(cpu.squared_norm(&SquaredNorm { bits: 4, grouping }, &mut [item], black_box(&mut [0; SUM_WORDS])));
    }));
    let x = gaussian::<f32>(n);
    rows.push(row("squared norm f32".to_owned(), size_of_val(&x[..]), size_of_val(&x[..]), move || {
        let item = SquaredNormF32Item { x: &x[..], sum: 0 };
        ok(cpu.squared_norm_f32(&SquaredNormF32, &mut [item], black_box(&mut [0; SUM_WORDS])));
    }));
    let (mut into, seen_from) = (vec![0; a.len()], s);
    let (mut seen, moved) = (seen_from.clone(), 3 * (bytes + size_of_val(&seen_from[..])));
    rows.push(row("merge 4 bits".to_owned(), bytes, moved, move || {
        let item = MergeItem { from: &a[..], into: &mut into[..], seen_from: &seen_from[..], seen: &mut seen[..] };
        ok(cpu.merge(&Merge { bits: 4, held: 1, added: 1 }, &mut [item]));
    }));
}

/// Every operation on `n` elements, by each of the backends; all but the first say which they are.
pub(crate) fn all(cpus: &[Cpu], n: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, &cpu) in cpus.iter().enumerate() {
        let suffix = if i == 0 { String::new() } else { format!(", {}", trigrad::Memory::name(&cpu)) };
        gradient_rows::<f32>(cpu, &format!("f32{suffix}"), n, &mut rows);
        gradient_rows::<bf16>(cpu, &format!("bf16{suffix}"), n, &mut rows);
        gradient_rows::<f16>(cpu, &format!("f16{suffix}"), n, &mut rows);
        output_rows::<f32>(cpu, &format!("f32{suffix}"), n, &mut rows);
        output_rows::<bf16>(cpu, &format!("bf16{suffix}"), n, &mut rows);
        output_rows::<f16>(cpu, &format!("f16{suffix}"), n, &mut rows);
        packed_rows(cpu, n, &mut rows);
    }
    rows
}
