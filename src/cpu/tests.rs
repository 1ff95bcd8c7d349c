//! Every operation, the fast code against the plain code, bit for bit.

use super::Cpu;
use crate::backend::{Backend, Memory};
use crate::numerics::pack::words;
use crate::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, Look, LookItem};
use crate::op::quantize::{Item, Quantize, Rule, Threshold};
use crate::op::{BlockSize, Draw, Element, ElementType, Grouping, Report, check, dequantize, read_out};

/// Reproducible bits.
pub(super) struct Bits(u64);

impl Bits {
    pub(super) fn new(seed: u64) -> Self {
        Bits(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    pub(super) fn unit(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1 << 24) as f32
    }
}

/// Kinds of data, from the ordinary to the adversarial.
const KINDS: u32 = 9;

fn data<T: Element>(kind: u32, n: usize, seed: u64) -> Vec<T> {
    let mut bits = Bits::new(seed + u64::from(kind) * 1000);
    let edges = [
        0u32,
        0x8000_0000,
        1,
        0x8000_0001,
        0x007f_ffff,
        0x0080_0000,
        0x127f_ffff,
        0x1280_0000,
        0x1280_0001,
        0x3f80_0000,
        0xbf80_0000,
        0x7e7f_ffff,
        0xfe7f_ffff,
        0x7e80_0000,
        0xfe80_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0xff80_0001,
        0x0f80_0000,
        0x7d00_0000,
        0x3f80_8000,
        0x3fff_ffff,
    ];
    (0..n)
        .map(|_| {
            let gauss = bits.unit() + bits.unit() + bits.unit() - 1.5;
            let b = match kind {
                0 => gauss.to_bits(),
                1 => (gauss * gauss * gauss * 1e-3).to_bits(),
                2 => (gauss * 2f32.powi((bits.next() % 60) as i32 - 30)).to_bits(),
                3 => edges[bits.next() as usize % edges.len()],
                4 => bits.next(),                        // any pattern
                5 => (gauss * 1e-26).to_bits(),          // about the zero limit, 8e-28
                6 => (gauss * 2f32.powi(125)).to_bits(), // about the range limit
                7 => {
                    if bits.next().is_multiple_of(97) {
                        edges[bits.next() as usize % edges.len()]
                    } else {
                        gauss.to_bits()
                    }
                }
                _ => {
                    if bits.next().is_multiple_of(2) {
                        0
                    } else {
                        ((bits.next() % 8) as f32 * 0.125).to_bits()
                    }
                } // ties
            };
            T::from_f32_bits(b)
        })
        .collect()
}

fn bytes<T: Element>(x: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(x).to_vec()
}

fn quantized<T: Element>(cpu: Cpu, op: &Quantize, x: &[T], first: u64) -> (Vec<u32>, Vec<u16>, Report) {
    let mut w = vec![0xdead_beef; words(x.len(), 2)];
    let mut s = vec![0xabcd; op.grouping.groups(x.len())];
    let mut reports = cpu.reports(1).unwrap();
    let item = Item { tensor: 5, first, x, words: &mut w[..], scales: &mut s[..], report: 0 };
    cpu.quantize(op, &mut [item], &mut reports).unwrap();
    (w, s, reports[0])
}

fn rules() -> Vec<Rule> {
    let draw = Draw::new(0x1234_5678_9abc_def0, 17).micro_batch(3);
    vec![
        Rule::Stochastic { draw, clip: None },
        Rule::Stochastic { draw, clip: Some(2.5) },
        Rule::Threshold(Threshold::Given(0.3)),
        Rule::Threshold(Threshold::Given(0.0)),
        Rule::Threshold(Threshold::MEAN_MAGNITUDE),
        Rule::Threshold(Threshold::TWN),
    ]
}

fn lengths() -> impl Iterator<Item = usize> {
    (0..70).chain((70..600).step_by(7)).chain([4096, 4097, 9000])
}

fn quantize_agrees<T: Element>() {
    for kind in 0..KINDS {
        for n in lengths() {
            let x = data::<T>(kind, n, n as u64);
            for rule in rules() {
                let mut groupings = vec![Grouping::Tensor];
                for b in [32, 64, 128, 256, 4096] {
                    groupings.push(Grouping::Block(BlockSize::new(b).unwrap()));
                }
                for cols in [1, 3, 7, 33, 64, 96, 300] {
                    if n % cols == 0 {
                        groupings.push(Grouping::Row(cols as u64));
                    }
                }
                for grouping in groupings {
                    let op = Quantize { grouping, rule };
                    for first in [0, 4096 * 5] {
                        assert_eq!(
                            quantized(Cpu::new(), &op, &x, first),
                            quantized(Cpu::plain(), &op, &x, first),
                            "{op:?} n {n} first {first} kind {kind}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn quantize_f32_agrees_with_plain() {
    quantize_agrees::<f32>();
}

#[test]
fn quantize_f16_agrees_with_plain() {
    quantize_agrees::<half::f16>();
}

#[test]
fn quantize_bf16_agrees_with_plain() {
    quantize_agrees::<half::bf16>();
}

/// Several micro-batches of adaptive accumulation, then a read-out.
fn adaptive_run<T: Element>(
    cpu: Cpu,
    bits: u32,
    block: u32,
    x: &[Vec<T>],
    weight: f32,
    first: u64,
) -> impl PartialEq + std::fmt::Debug + use<T> {
    let n = x[0].len();
    let block = BlockSize::new(block).unwrap();
    let (mut levels, mut scales) = (vec![0u32; words(n, bits)], vec![0u16; block.blocks(n)]);
    let mut reports = cpu.reports(1).unwrap();
    let mut trace = Vec::new();
    for (i, x) in x.iter().enumerate() {
        let op = Adaptive { bits, block, draw: Draw::new(99, 1).micro_batch(i as u32), weight };
        let item = AdaptiveItem {
            tensor: 2,
            first,
            x: x.as_slice(),
            levels: &mut levels[..],
            scales: &mut scales[..],
            report: 0,
        };
        cpu.accumulate_adaptive(&op, &mut [item], &mut reports).unwrap();
        trace.push((levels.clone(), scales.clone(), reports.clone()));
    }
    (trace, read(cpu, bits, block, &levels, &scales, n, 1.0 / 3.0))
}

/// Read-outs in all three types.
fn read(cpu: Cpu, bits: u32, block: BlockSize, levels: &[u32], scales: &[u16], n: usize, factor: f32) -> [Vec<u8>; 3] {
    fn one<T: Element>(cpu: Cpu, op: read_out::ReadOut, levels: &[u32], scales: &[u16], n: usize) -> Vec<u8> {
        let mut out = vec![T::from_f32_bits(0x4242_4242); n];
        cpu.read_out(&op, &mut [read_out::Item { levels, scales, out: &mut out[..], guard: None }], None).unwrap();
        bytes(&out)
    }
    let op = read_out::ReadOut { bits, block, factor };
    [
        one::<f32>(cpu, op, levels, scales, n),
        one::<half::f16>(cpu, op, levels, scales, n),
        one::<half::bf16>(cpu, op, levels, scales, n),
    ]
}

fn adaptive_agrees<T: Element>() {
    for kind in 0..KINDS {
        for n in lengths().step_by(3) {
            let x: Vec<Vec<T>> = (0..3).map(|i| data(if i == 1 { 0 } else { kind }, n, (n + i) as u64)).collect();
            for bits in [2, 4, 8] {
                for block in [32, 64, 256, 4096] {
                    for weight in [1.0, -0.3, 1e30, 0.0] {
                        assert!(
                            adaptive_run(Cpu::new(), bits, block, &x, weight, 8192)
                                == adaptive_run(Cpu::plain(), bits, block, &x, weight, 8192),
                            "bits {bits} block {block} n {n} kind {kind} weight {weight}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn adaptive_f32_agrees_with_plain() {
    adaptive_agrees::<f32>();
}

#[test]
fn adaptive_f16_agrees_with_plain() {
    adaptive_agrees::<half::f16>();
}

#[test]
fn adaptive_bf16_agrees_with_plain() {
    adaptive_agrees::<half::bf16>();
}

/// A first look, then counts under its scales, some of them replaced by edges.
fn exact_run<T: Element>(
    cpu: Cpu,
    bits: u32,
    block: u32,
    x: &[Vec<T>],
    weight: f32,
    edges: bool,
) -> impl PartialEq + std::fmt::Debug + use<T> {
    let n = x[0].len();
    let block = BlockSize::new(block).unwrap();
    let (mut counts, mut scales) = (vec![0u32; words(n, bits)], vec![0u16; block.blocks(n)]);
    let mut seen = scales.clone();
    let mut reports = cpu.reports(2).unwrap();
    let item = LookItem { x: x[0].as_slice(), seen: &mut scales[..], report: 0 };
    cpu.look(&Look { block, weight }, &mut [item], &mut reports).unwrap();
    if edges {
        for (i, s) in scales.iter_mut().enumerate() {
            *s = [*s, 0, *s / 2, 0x7e80, 0x0f00, 0xbf80, 0x7fc0, 1][i % 8];
        }
    }
    for (i, x) in x.iter().enumerate() {
        let op = Exact { bits, block, draw: Draw::new(99, 1).micro_batch(i as u32), weight, held: i as u32 };
        let item = ExactItem {
            tensor: 2,
            first: 4096,
            x: x.as_slice(),
            counts: &mut counts[..],
            scales: &scales[..],
            seen: &mut seen[..],
            report: 1,
        };
        cpu.accumulate_exact(&op, &mut [item], &mut reports).unwrap();
    }
    let out = read(cpu, bits, block, &counts, &scales, n, 0.25);
    (counts, scales, seen, reports, out)
}

fn exact_agrees<T: Element>() {
    for kind in 0..KINDS {
        for n in lengths().step_by(3) {
            let x: Vec<Vec<T>> = (0..3).map(|i| data(if i == 1 { 0 } else { kind }, n, (n + i) as u64)).collect();
            for bits in [4, 8, 16] {
                for block in [32, 64, 4096] {
                    for (weight, edges) in [(1.0, false), (1.0, true), (-0.3, false), (1e30, true), (0.0, false)] {
                        assert!(
                            exact_run(Cpu::new(), bits, block, &x, weight, edges)
                                == exact_run(Cpu::plain(), bits, block, &x, weight, edges),
                            "bits {bits} block {block} n {n} kind {kind} weight {weight} edges {edges}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn exact_f32_agrees_with_plain() {
    exact_agrees::<f32>();
}

#[test]
fn exact_f16_agrees_with_plain() {
    exact_agrees::<half::f16>();
}

#[test]
fn exact_bf16_agrees_with_plain() {
    exact_agrees::<half::bf16>();
}

#[test]
fn read_out_of_any_bits_agrees_with_plain() {
    let mut bits = Bits::new(3);
    for n in lengths() {
        for width in [2, 4, 8, 16] {
            let levels: Vec<u32> = (0..words(n, width)).map(|_| bits.next()).collect();
            let block = BlockSize::new(64).unwrap();
            let scales: Vec<u16> = (0..block.blocks(n)).map(|_| bits.next() as u16).collect();
            for factor in [1.0, 0.1, -3.0, 1e38, 1e-38, 0.0] {
                let (fast, plain) = (
                    read(Cpu::new(), width, block, &levels, &scales, n, factor),
                    read(Cpu::plain(), width, block, &levels, &scales, n, factor),
                );
                // A NaN may come out of a scale that no operation makes; its payload is nobody's promise.
                if fast != plain {
                    assert_eq!(fast.map(|b| b.len()), plain.map(|b| b.len()));
                    let ordinary: Vec<u16> = scales.iter().map(|s| s & 0x3fff).collect();
                    assert_eq!(
                        read(Cpu::new(), width, block, &levels, &ordinary, n, factor),
                        read(Cpu::plain(), width, block, &levels, &ordinary, n, factor),
                        "{width} bits n {n} factor {factor}"
                    );
                }
            }
        }
    }
}

fn dequantize_agrees<T: Element>() {
    let mut bits = Bits::new(4);
    for n in lengths() {
        let planes: Vec<u32> = (0..words(n, 2)).map(|_| bits.next()).collect();
        let mut groupings = vec![Grouping::Tensor];
        for b in [32, 64, 4096] {
            groupings.push(Grouping::Block(BlockSize::new(b).unwrap()));
        }
        for cols in [1, 3, 33, 64, 300] {
            if n % cols == 0 {
                groupings.push(Grouping::Row(cols as u64));
            }
        }
        for grouping in groupings {
            let scales: Vec<u16> = (0..grouping.groups(n)).map(|_| bits.next() as u16 & 0x7f7f).collect();
            let run = |cpu: Cpu| {
                let mut out = vec![T::from_f32_bits(0x4242_4242); n];
                let item = dequantize::Item { words: &planes[..], scales: &scales[..], out: &mut out[..] };
                cpu.dequantize(&dequantize::Dequantize { grouping }, &mut [item]).unwrap();
                bytes(&out)
            };
            assert_eq!(run(Cpu::new()), run(Cpu::plain()), "{grouping:?} n {n}");
        }
    }
}

#[test]
fn dequantize_agrees_with_plain() {
    dequantize_agrees::<f32>();
    dequantize_agrees::<half::f16>();
    dequantize_agrees::<half::bf16>();
}

fn check_agrees<T: Element>() {
    for kind in 0..KINDS {
        for n in lengths() {
            let x = data::<T>(kind, n, 1);
            for weight in [1.0, 0.5, 3.0, 1e38, 0.0, -1e-40] {
                let run = |cpu: Cpu| {
                    let mut reports = cpu.reports(1).unwrap();
                    let item = check::Item { x: x.as_slice(), first: 7, report: 0 };
                    cpu.check(&check::Check { weight }, &[item], &mut reports).unwrap();
                    reports
                };
                assert_eq!(run(Cpu::new()), run(Cpu::plain()), "kind {kind} n {n} weight {weight}");
            }
        }
    }
}

#[test]
fn check_agrees_with_plain() {
    check_agrees::<f32>();
    check_agrees::<half::f16>();
    check_agrees::<half::bf16>();
    assert_eq!(<f32 as Element>::TYPE, ElementType::F32);
}

#[test]
fn any_number_of_threads_and_any_split_give_the_same_bits() {
    let n = 300_001;
    let x = data::<f32>(7, n, 11);
    let rows = 3 * 100_000;
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    for rule in rules() {
        let block = BlockSize::new(128).unwrap();
        for (grouping, x) in [
            (Grouping::Block(block), &x[..]),
            (Grouping::Tensor, &x[..]),
            (Grouping::Row(3), &x[..rows]),
            (Grouping::Row(100_000), &x[..rows]),
            (Grouping::Row(1000), &x[..rows]),
        ] {
            let op = Quantize { grouping, rule };
            let one = pool(1).install(|| quantized(Cpu::new(), &op, x, 0));
            for threads in [2, 3] {
                assert_eq!(pool(threads).install(|| quantized(Cpu::new(), &op, x, 0)), one, "{op:?}");
            }
            assert_eq!(quantized(Cpu::plain(), &op, x, 0), one, "{op:?}");
            if let Grouping::Block(_) = grouping {
                let cut = 128 * 777;
                let (a, b) =
                    (quantized(Cpu::new(), &op, &x[..cut], 0), quantized(Cpu::new(), &op, &x[cut..], cut as u64));
                assert_eq!([a.0, b.0].concat(), one.0);
                assert_eq!([a.1, b.1].concat(), one.1);
                let mut report = a.2;
                report.merge(b.2);
                assert_eq!(report, one.2);
            }
        }
    }
    for bits in [2, 4, 8] {
        let run = || adaptive_run(Cpu::new(), bits, 64, &[x.clone(), x.clone()], 0.7, 0);
        let one = pool(1).install(run);
        assert!(pool(2).install(run) == one);
        assert!(pool(3).install(run) == one);
        let run = || exact_run(Cpu::new(), 2 * bits, 64, &[x.clone(), x.clone()], 0.7, true);
        let one = pool(1).install(run);
        assert!(pool(2).install(run) == one);
        assert!(pool(3).install(run) == one);
    }
}
