//! The operations on plain slices and vectors, one tensor at a time, on the CPU backend.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![expect(clippy::unwrap_used, reason = "a test that cannot run its operation fails")]

use trigrad::cpu::Cpu;
use trigrad::numerics::pack::words;
use trigrad::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem};
use trigrad::op::dequantize::{self, Dequantize};
use trigrad::op::quantize::{self, Quantize};
use trigrad::op::read_out::{self, ReadOut};
use trigrad::op::window::{Merge, MergeItem};
use trigrad::op::{Backend, BlockSize, Element, Grouping, Report};

/// Planes and scales.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packed {
    pub(crate) words: Vec<u32>,
    pub(crate) scales: Vec<u16>,
}

/// Levels or counts, their scales, and the maxima seen (exact counts only).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) levels: Vec<u32>,
    pub(crate) scales: Vec<u16>,
    pub(crate) seen: Vec<u16>,
}

impl State {
    pub(crate) fn zero(n: usize, bits: u32, block: BlockSize) -> State {
        let blocks = block.blocks(n);
        State { levels: vec![0; words(n, bits)], scales: vec![0; blocks], seen: vec![0; blocks] }
    }
}

pub(crate) fn block(size: u32) -> BlockSize {
    BlockSize::new(size).unwrap()
}

/// Quantizes one tensor, or the part of it that starts at `first`.
pub(crate) fn quantize<T: Element>(op: &Quantize, (tensor, first): (u32, u64), x: &[T]) -> (Packed, Report) {
    let n = x.len();
    let mut packed = Packed { words: vec![u32::MAX; words(n, 2)], scales: vec![u16::MAX; op.grouping.groups(n)] };
    let mut reports = vec![Report::default()];
    let (words, scales) = (&mut packed.words[..], &mut packed.scales[..]);
    let item = quantize::Item { tensor, first, x, words, scales, report: 0 };
    Cpu::new().quantize(op, &mut [item], &mut reports).unwrap();
    (packed, reports[0])
}

pub(crate) fn dequantize<T: Element>(grouping: Grouping, packed: &Packed, n: usize) -> Vec<T> {
    let mut out = vec![T::from_f32_bits(0x7fc0_0000); n];
    let item = dequantize::Item { words: &packed.words[..], scales: &packed.scales[..], out: &mut out[..] };
    Cpu::new().dequantize(&Dequantize { grouping }, &mut [item]).unwrap();
    out
}

pub(crate) fn adaptive<T: Element>(op: &Adaptive, (tensor, first): (u32, u64), x: &[T], state: &mut State) -> Report {
    let mut reports = vec![Report::default()];
    let (levels, scales) = (&mut state.levels[..], &mut state.scales[..]);
    let item = AdaptiveItem { tensor, first, x, levels, scales, report: 0 };
    Cpu::new().accumulate_adaptive(op, &mut [item], &mut reports).unwrap();
    reports[0]
}

pub(crate) fn exact<T: Element>(op: &Exact, (tensor, first): (u32, u64), x: &[T], state: &mut State) -> Report {
    let mut reports = vec![Report::default()];
    let (counts, scales, seen) = (&mut state.levels[..], &mut state.scales[..], &mut state.seen[..]);
    let item = ExactItem { tensor, first, x, counts, scales, seen, report: 0 };
    Cpu::new().accumulate_exact(op, &mut [item], &mut reports).unwrap();
    reports[0]
}

pub(crate) fn merge(op: &Merge, from: &State, into: &mut State) {
    let item = MergeItem {
        from: &from.levels[..],
        into: &mut into.levels[..],
        seen_from: &from.seen[..],
        seen: &mut into.seen[..],
    };
    Cpu::new().merge(op, &mut [item]).unwrap();
}

pub(crate) fn read_out<T: Element>(op: &ReadOut, state: &State, n: usize) -> Vec<T> {
    let mut out = vec![T::from_f32_bits(0x7fc0_0000); n];
    let item = read_out::Item { levels: &state.levels[..], scales: &state.scales[..], out: &mut out[..], guard: None };
    Cpu::new().read_out(op, &mut [item], None).unwrap();
    out
}
