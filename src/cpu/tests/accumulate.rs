//! Adaptive and exact accumulation over several micro-batches, each followed by a read-out.

use super::read_out::read;
use super::{Bits, KINDS, data, fast, lengths};
use crate::cpu::Cpu;
use crate::memory::Memory;
use crate::numerics::constants::{GROUP, domain};
use crate::numerics::draw::draws;
use crate::numerics::level::level_max;
use crate::numerics::pack::{level, set_level, words};
use crate::op::Backend;
use crate::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem};
use crate::op::window::{Look, LookItem};
use crate::op::{BlockSize, Draw, Element, Report};

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
        let op =
            Exact { bits, block, draw: Draw::new(99, 1).micro_batch(i as u32), weight, held: i as u32, headroom: None };
        let item = ExactItem {
            tensor: 2,
            first: 4096,
            x: x.as_slice(),
            counts: &mut counts[..],
            scales: &mut scales[..],
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

/// One micro-batch on top of levels and scales that are given.
fn onto(
    cpu: Cpu,
    op: &Adaptive,
    first: u64,
    x: &[f32],
    levels: &[u32],
    scales: &[u16],
) -> (Vec<u32>, Vec<u16>, Report) {
    let (mut levels, mut scales, mut reports) = (levels.to_vec(), scales.to_vec(), cpu.reports(1).unwrap());
    let item = AdaptiveItem { tensor: 2, first, x, levels: &mut levels[..], scales: &mut scales[..], report: 0 };
    cpu.accumulate_adaptive(op, &mut [item], &mut reports).unwrap();
    (levels, scales, reports[0])
}

/// Whole units of the vector code with room for every block.
const UNITS: usize = 4 * 4096;

/// An addend of -2^126 is out of range even where the level's value brings the sum back to 0.
#[test]
fn an_addend_out_of_range_is_found_under_a_huge_scale() {
    let x = [-(2f32.powi(126)); UNITS];
    // Levels of 64 under scales of 2^120, of 4 under 2^124 and of 1 under 2^126.
    for (bits, l, scale) in [(8, 64, 0x7b80), (4, 4, 0x7d80), (2, 1, 0x7e80)] {
        for block in [32, 64, 2048] {
            let block = BlockSize::new(block).unwrap();
            let (mut levels, scales) = (vec![0; words(UNITS, bits)], vec![scale; block.blocks(UNITS)]);
            (0..UNITS).for_each(|i| set_level(&mut levels, bits, i, l));
            let op = Adaptive { bits, block, draw: Draw::new(1, 1), weight: 1.0 };
            for cpu in Cpu::kinds() {
                let (_, _, report) = onto(cpu, &op, 0, &x, &levels, &scales);
                let want = Report { non_finite: UNITS as u64, first: Some(0), clipped: 0 };
                assert_eq!(report, want, "{cpu:?} bits {bits} {block:?}");
            }
        }
    }
}

/// Old scales of any size and sign, with addends about as large as the levels' values.
#[test]
fn adaptive_under_any_old_scale_agrees_with_plain() {
    let mut bits = Bits::new(32);
    for scale in [
        0x0001, 0x007f, 0x0080, 0x00ff, 0x05ab, 0x0ed5, 0x0eff, 0x0f00, 0x0f01, 0x3f80, 0x767f, 0x7680, 0x7681, 0x78ff,
        0x7b80, 0x7e00, 0x8000, 0xbf80, 0xf680,
    ] {
        let s = f32::from_bits(scale << 16);
        for width in [2, 4, 8] {
            let (max, block) = (level_max(width), BlockSize::new(64).unwrap());
            let levels: Vec<u32> = {
                let mut levels = vec![0; words(UNITS, width)];
                (0..UNITS).for_each(|i| {
                    set_level(&mut levels, width, i, (bits.next() % (2 * max + 1)) as i32 - max as i32);
                });
                levels
            };
            let scales = vec![scale as u16; block.blocks(UNITS)];
            let x: Vec<f32> = (0..UNITS).map(|_| (bits.unit() - 0.5) * max as f32 * s).collect();
            let op = Adaptive { bits: width, block, draw: Draw::new(5, 1), weight: 1.0 };
            let plain = onto(Cpu::plain(), &op, 0, &x, &levels, &scales);
            for cpu in fast() {
                assert!(onto(cpu, &op, 0, &x, &levels, &scales) == plain, "{cpu:?} bits {width} scale {scale:04x}");
            }
        }
    }
}

/// Any field is a level, -8 and -128 too, though no operation makes those; a pair of planes with both bits is 0. Each is
/// moved to a level that is drawn, under a scale of 1 that stays: on the grid no draw can change the answer.
#[test]
fn any_field_is_read_as_its_level() {
    let mut bits = Bits::new(34);
    for width in [2, 4, 8] {
        let max = level_max(width) as i32;
        for size in [32, 64, 2048] {
            let block = BlockSize::new(size).unwrap();
            let old: Vec<u32> = (0..words(UNITS, width)).map(|_| bits.next()).collect();
            let mut want = vec![0; old.len()];
            let x: Vec<f32> = (0..UNITS)
                .map(|i| {
                    let to = if i % 32 == 0 { max } else { (bits.next() % (2 * max as u32 + 1)) as i32 - max };
                    set_level(&mut want, width, i, to);
                    (to - level(&old, width, i)) as f32
                })
                .collect();
            let scales = vec![0x3f80; block.blocks(UNITS)];
            let op = Adaptive { bits: width, block, draw: Draw::new(5, 1), weight: 1.0 };
            for cpu in Cpu::kinds() {
                let got = onto(cpu, &op, 0, &x, &old, &scales);
                assert!(got == (want.clone(), scales.clone(), Report::default()), "{cpu:?} bits {width} {block:?}");
            }
        }
    }
}

/// 2^-126 times a weight counts, the largest subnormal does not.
#[test]
fn the_least_normal_number_is_weighed_and_subnormals_are_not() {
    let some = [0x0080_0000, 0x007f_ffff, 0x8080_0000, 0x807f_ffff, 0].map(f32::from_bits);
    let x: Vec<f32> = (0..4096).map(|i| some[i % some.len()]).collect();
    for (bits, weight) in [(2, 2f32.powi(100)), (4, -1.3e30), (8, 2f32.powi(126))] {
        let batches = [x.clone(), x.clone()];
        let plain = adaptive_run(Cpu::plain(), bits, 64, &batches, weight, 0);
        let exact = exact_run(Cpu::plain(), 2 * bits, 64, &batches, weight, false);
        for cpu in fast() {
            assert!(adaptive_run(cpu, bits, 64, &batches, weight, 0) == plain, "{cpu:?} bits {bits}");
            assert!(exact_run(cpu, 2 * bits, 64, &batches, weight, false) == exact, "{cpu:?} bits {}", 2 * bits);
        }
    }
    let op = Adaptive { bits: 8, block: BlockSize::default(), draw: Draw::new(1, 1), weight: 2f32.powi(100) };
    let (levels, _, _) = onto(Cpu::plain(), &op, 0, &x, &[0; 1024], &[0; 64]);
    assert_eq!([0, 1, 2, 3, 4].map(|i| level(&levels, 8, i).signum()), [1, 0, -1, 0, 0]);
}

/// Sums whose quotient by the scale lies some units in the last place from a level plus its draw, where any rounding
/// but the exact one would decide otherwise: all of a group, or one of it among levels that are odd.
#[test]
fn sums_next_to_their_draw_round_as_the_spec_says() {
    let mut bits = Bits::new(33);
    let draw = Draw::new(99, 1);
    let at = draw.position(2, domain::ADAPTIVE);
    let near = |k: u32| k.min((1 << 23) - 1 - k) < 64;
    // Groups with a draw next to 0 or 1, whose quotients lie next to a level itself, and groups as they come.
    let edges: Vec<u32> = (0..1 << 16).filter(|&g| draws(&at, g).into_iter().any(near)).collect();
    assert!(edges.len() > 20);
    for width in [2, 4, 8] {
        let (max, block) = (level_max(width), BlockSize::new(32).unwrap());
        let op = Adaptive { bits: width, block, draw, weight: 1.0 };
        for start in (0..32).map(|i| 64 * i).chain(edges.iter().copied()) {
            let mut x = Vec::new();
            for group in start..start + 64 {
                let s = f32::from_bits(0x3f80_0000 + ((bits.next() % 128) << 16));
                let (k, top) = (draws(&at, group), max as f32 * s);
                let edge = k.iter().position(|&k| near(k));
                let only = bits.next().is_multiple_of(2).then(|| edge.unwrap_or(1 + bits.next() as usize % 31));
                for (e, k) in k.into_iter().enumerate() {
                    let u = f64::from(2 * k + 1) / f64::from(1 << 24);
                    let c = bits.next() % max;
                    let v = ((f64::from(c) + u) * f64::from(s)) as f32;
                    let v = f32::from_bits(v.to_bits() + bits.next() % 9 - 4).min(top);
                    let v = if e == 0 || only.is_some_and(|only| only != e) { top } else { v };
                    x.push(if bits.next().is_multiple_of(2) { v } else { -v });
                }
            }
            let (levels, scales) = (vec![0; words(x.len(), width)], vec![0; x.len() / GROUP]);
            let first = u64::from(start) * GROUP as u64;
            let plain = onto(Cpu::plain(), &op, first, &x, &levels, &scales);
            for cpu in fast() {
                let got = onto(cpu, &op, first, &x, &levels, &scales);
                assert!(got == plain, "{cpu:?} bits {width} group {start}");
            }
        }
    }
}
