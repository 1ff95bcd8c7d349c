//! Adaptive and exact accumulation over several micro-batches, each followed by a read-out.

use super::read_out::read;
use super::{KINDS, data, fast, lengths};
use crate::backend::{Backend, Memory};
use crate::cpu::Cpu;
use crate::numerics::pack::words;
use crate::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, Look, LookItem};
use crate::op::{BlockSize, Draw, Element};

/// Several micro-batches of adaptive accumulation, then a read-out.
pub(super) fn adaptive_run<T: Element>(
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

fn adaptive_agrees<T: Element>() {
    for kind in 0..KINDS {
        for n in lengths().skip(kind as usize % 5).step_by(5) {
            let x: Vec<Vec<T>> = (0..3).map(|i| data(if i == 1 { 0 } else { kind }, n, (n + i) as u64)).collect();
            for bits in [2, 4, 8] {
                for block in [32, 64, 512, 1024, 2048] {
                    for weight in [1.0, -0.3, 1e30, 0.0] {
                        let plain = adaptive_run(Cpu::plain(), bits, block, &x, weight, 8192);
                        for cpu in fast() {
                            assert!(
                                adaptive_run(cpu, bits, block, &x, weight, 8192) == plain,
                                "{cpu:?} bits {bits} block {block} n {n} kind {kind} weight {weight}"
                            );
                        }
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
pub(super) fn exact_run<T: Element>(
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
        for n in lengths().skip(kind as usize % 5).step_by(5) {
            let x: Vec<Vec<T>> = (0..3).map(|i| data(if i == 1 { 0 } else { kind }, n, (n + i) as u64)).collect();
            for bits in [4, 8, 16] {
                for block in [32, 64, 512, 4096] {
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
