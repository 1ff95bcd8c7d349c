//! Tensors of several tiles against what their parts give, each within one tile, and against the spec element by element.

use super::quantize::{quantized, rules};
use super::{Bits, data};
use crate::cpu::Cpu;
use crate::cpu::measure::measure;
use crate::cpu::plain::quantize::{Plain, encode};
use crate::cpu::tile::Method;
use crate::memory::Memory;
use crate::numerics::constants::domain;
use crate::numerics::float::bf16_to_f32;
use crate::numerics::level;
use crate::numerics::pack::{level as level_at, trit, words};
use crate::op::Backend;
use crate::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem};
use crate::op::check::{self, Check};
use crate::op::dequantize::{self, Dequantize};
use crate::op::quantize::{Quantize, Rule};
use crate::op::read_out::{self, ReadOut};
use crate::op::window::{Look, LookItem};
use crate::op::{BlockSize, Draw, Element, Grouping, Report};
use std::ops::Range;

/// Four tiles, the last one short; an odd number of elements.
const N: usize = 200_001;
/// Whole blocks of every size, and less than a tile.
const PART: usize = 40_960;
/// An element of each tile but the first. What is reported of it says which index the tile takes for its first.
const PLACES: [usize; 4] = [70_000, 140_000, 196_608, N - 1];

/// Words, scales and the report of some elements.
type Made = (Vec<u32>, Vec<u16>, Report);

/// What `run` makes of all elements is what it makes of the parts.
fn parts_make_the_whole(run: impl Fn(Range<usize>) -> Made) {
    let mut joined = Made::default();
    for start in (0..N).step_by(PART) {
        let (words, scales, report) = run(start..N.min(start + PART));
        joined.0.extend(words);
        joined.1.extend(scales);
        joined.2.merge(report);
    }
    assert!(run(0..N) == joined);
}

/// Ordinary numbers, one of them out of range.
fn with_one_out_of_range(place: usize) -> Vec<f32> {
    let mut x = data::<f32>(0, N, 41);
    x[place] = f32::NAN;
    x
}

fn block(size: u32) -> BlockSize {
    BlockSize::new(size).unwrap()
}

#[test]
fn quantize_makes_of_many_tiles_what_it_makes_of_parts() {
    for place in PLACES {
        let x = with_one_out_of_range(place);
        for rule in rules() {
            let op = Quantize { grouping: Grouping::Block(block(256)), rule };
            parts_make_the_whole(|range| quantized(Cpu::new(), &op, &x[range.clone()], range.start as u64));
        }
    }
}

#[test]
fn accumulation_makes_of_many_tiles_what_it_makes_of_parts() {
    let cpu = Cpu::new();
    for (place, size) in PLACES.into_iter().zip([32, 64, 512, 4096]) {
        let (x, block) = ([data::<f32>(0, N, 42), with_one_out_of_range(place)], block(size));
        for bits in [2, 4, 8] {
            parts_make_the_whole(|range| {
                let n = range.len();
                let (mut levels, mut scales) = (vec![0; words(n, bits)], vec![0; block.blocks(n)]);
                let mut reports = cpu.reports(1).unwrap();
                for (i, x) in x.iter().enumerate() {
                    let op = Adaptive { bits, block, draw: Draw::new(3, 1).micro_batch(i as u32), weight: 0.7 };
                    let (levels, scales) = (&mut levels[..], &mut scales[..]);
                    let (x, first) = (&x[range.clone()], range.start as u64);
                    let item = AdaptiveItem { tensor: 1, first, x, levels, scales, report: 0 };
                    cpu.accumulate_adaptive(&op, &mut [item], &mut reports).unwrap();
                }
                (levels, scales, reports[0])
            });
        }
        for bits in [4, 8, 16] {
            parts_make_the_whole(|range| {
                let n = range.len();
                // The scales of a block differ from those of the next.
                let mut scales: Vec<u16> =
                    (range.start..range.end).step_by(size as usize).map(|i| 0x3f00 + (i / 32 % 128) as u16).collect();
                let (mut counts, mut seen) = (vec![0; words(n, bits)], vec![0; scales.len()]);
                let mut reports = cpu.reports(1).unwrap();
                for (i, x) in x.iter().enumerate() {
                    let draw = Draw::new(3, 1).micro_batch(i as u32);
                    let op = Exact { bits, block, draw, weight: 0.7, held: i as u32, headroom: None };
                    let (counts, scales, seen) = (&mut counts[..], &mut scales[..], &mut seen[..]);
                    let (x, first) = (&x[range.clone()], range.start as u64);
                    let item = ExactItem { tensor: 1, first, x, counts, scales, seen, report: 0 };
                    cpu.accumulate_exact(&op, &mut [item], &mut reports).unwrap();
                }
                (counts, seen, reports[0])
            });
        }
        parts_make_the_whole(|range| {
            let (x, mut seen) = (&x[1][range.clone()], vec![0; block.blocks(range.len())]);
            let mut reports = cpu.reports(1).unwrap();
            let item = LookItem { x, seen: &mut seen[..], report: 0 };
            cpu.look(&Look { block, weight: 0.7 }, &mut [item], &mut reports).unwrap();
            // An item of a look does not say where it begins.
            let first = reports[0].first.map(|i| i + range.start as u64);
            (Vec::new(), seen, Report { first, ..reports[0] })
        });
    }
}

#[test]
fn check_finds_in_many_tiles_what_it_finds_in_parts() {
    let cpu = Cpu::new();
    for place in PLACES {
        let x = with_one_out_of_range(place);
        for weight in [1.0, 2.0] {
            parts_make_the_whole(|range| {
                let (x, first) = (&x[range.clone()], range.start as u64);
                let mut reports = cpu.reports(1).unwrap();
                cpu.check(&Check { weight }, &mut [check::Item { x, first, report: 0 }], &mut reports).unwrap();
                (Vec::new(), Vec::new(), reports[0])
            });
        }
    }
}

#[test]
fn read_out_of_many_tiles_is_that_of_the_spec() {
    let mut bits = Bits::new(43);
    for (width, size) in [(2, 64), (4, 32), (8, 4096), (16, 128)] {
        let levels: Vec<u32> = (0..words(N, width)).map(|_| bits.next()).collect();
        let block = block(size);
        let scales: Vec<u16> = (0..block.blocks(N)).map(|_| bits.next() as u16 & 0x3fff).collect();
        let mut out = vec![0f32; N];
        let item = read_out::Item { levels: &levels[..], scales: &scales[..], out: &mut out[..], guard: None };
        Cpu::new().read_out(&ReadOut { bits: width, block, factor: 0.3 }, &mut [item], None).unwrap();
        for (i, out) in out.iter().enumerate() {
            let want = level::read_out(level_at(&levels, width, i), bf16_to_f32(scales[i / size as usize]), 0.3);
            assert_eq!(out.to_bits(), want.to_bits(), "{width} bits, element {i}");
        }
    }
}

fn dequantized<T: Element>(grouping: Grouping, n: usize, bits: &mut Bits) {
    let planes: Vec<u32> = (0..words(n, 2)).map(|_| bits.next()).collect();
    let scales: Vec<u16> = (0..grouping.groups(n)).map(|_| bits.next() as u16 & 0xff7f).collect();
    let mut out = vec![T::from_f32_bits(0x4242_4242); n];
    let item = dequantize::Item { words: &planes[..], scales: &scales[..], out: &mut out[..] };
    Cpu::new().dequantize(&Dequantize { grouping }, &mut [item]).unwrap();
    for (i, out) in out.iter().enumerate() {
        let s = bf16_to_f32(scales[i / grouping.size(n)]);
        let want = match trit(&planes, i) {
            Some(1) => s,
            Some(-1) => s ^ 0x8000_0000,
            _ => 0,
        };
        assert_eq!(*out, T::from_f32_bits_saturating(want), "{grouping:?} element {i}");
    }
}

#[test]
fn dequantize_of_many_tiles_is_that_of_the_spec() {
    let mut bits = Bits::new(44);
    for (grouping, n) in [
        (Grouping::Block(block(32)), N),
        (Grouping::Block(block(4096)), N),
        (Grouping::Tensor, N),
        (Grouping::Row(3), N),
        (Grouping::Row(1001), 1001 * 190),
        (Grouping::Row(66_000), 66_000 * 3),
    ] {
        dequantized::<f32>(grouping, n, &mut bits);
        dequantized::<half::f16>(grouping, n, &mut bits);
        dequantized::<half::bf16>(grouping, n, &mut bits);
    }
}

/// Rows too long for one task: odd ones, many of which begin within a word and within a tile, and ones longer than a
/// tile. Each is measured and written by itself here.
#[test]
fn long_rows_are_quantized_one_by_one() {
    for (cols, rows) in [(10_001, 20), (66_001, 4)] {
        // No two rows have the same scale.
        let mut x = data::<f32>(0, cols * rows, 45);
        x.iter_mut().enumerate().for_each(|(i, x)| *x *= (i / cols + 1) as f32);
        (x[cols + 1], x[cols * rows - 1]) = (f32::NAN, f32::INFINITY);
        for rule in rules() {
            let method = match rule {
                Rule::Stochastic { draw, clip } => {
                    Method::Stochastic { at: draw.position(5, domain::TERNARY), clip: clip.map(f32::to_bits) }
                }
                Rule::Threshold(t) => Method::Threshold(t),
            };
            let (mut words, mut scales, mut report) = (vec![0; words(x.len(), 2)], Vec::new(), Report::default());
            for (r, x) in x.chunks(cols).enumerate() {
                let m = measure(&Plain, &method, x, (r * cols) as u64, &mut report);
                scales.push((m.scale >> 16) as u16);
                encode(&method, &m, x, &mut words, r * cols, 0, &mut report);
            }
            let op = Quantize { grouping: Grouping::Row(cols as u64), rule };
            assert!(quantized(Cpu::new(), &op, &x, 0) == (words, scales, report), "{op:?}");
        }
    }
}
