//! Quantize and check.

use super::{KINDS, data, fast, lengths};
use crate::cpu::Cpu;
use crate::error::Error;
use crate::memory::Memory;
use crate::numerics::pack::words;
use crate::op::Backend;
use crate::op::quantize::{Item, Quantize, Rule, Threshold};
use crate::op::{BlockSize, Draw, Element, Grouping, Report, check};

pub(super) fn quantized<T: Element>(cpu: Cpu, op: &Quantize, x: &[T], first: u64) -> (Vec<u32>, Vec<u16>, Report) {
    let mut w = vec![0xdead_beef; words(x.len(), 2)];
    let mut s = vec![0xabcd; op.grouping.groups(x.len())];
    let mut reports = cpu.reports(1).unwrap();
    let item = Item { tensor: 5, first, x, words: &mut w[..], scales: &mut s[..], report: 0 };
    cpu.quantize(op, &mut [item], &mut reports).unwrap();
    (w, s, reports[0])
}

pub(super) fn rules() -> Vec<Rule> {
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

fn quantize_agrees<T: Element>() {
    for kind in 0..KINDS {
        for n in lengths().skip(kind as usize % 3).step_by(3) {
            let x = data::<T>(kind, n, n as u64);
            for rule in rules() {
                let mut groupings = vec![Grouping::Tensor];
                for b in [32, 64, 128, 256, 512, 1024, 2048, 4096] {
                    groupings.push(Grouping::Block(BlockSize::new(b).unwrap()));
                }
                for cols in [1, 3, 7, 33, 64, 96, 300] {
                    if n % cols == 0 {
                        groupings.push(Grouping::Row(cols as u64));
                    }
                }
                for grouping in groupings {
                    let op = Quantize { grouping, rule };
                    // A multiple of every block and row above.
                    for first in [0, 4096 * 5 * 23_100] {
                        let plain = quantized(Cpu::plain(), &op, &x, first);
                        for cpu in fast() {
                            let got = quantized(cpu, &op, &x, first);
                            assert_eq!(got, plain, "{cpu:?} {op:?} n {n} first {first} kind {kind}");
                        }
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

/// Parts that begin with a row give what the whole gives; one that begins within a row has no scale of its own and is
/// refused, with nothing written.
#[test]
fn parts_of_rows_begin_with_a_row() {
    const COLS: usize = 96;
    let x = data::<f32>(0, 4 * COLS, 9);
    for rule in rules() {
        let op = Quantize { grouping: Grouping::Row(COLS as u64), rule };
        for cpu in Cpu::kinds() {
            let (words, scales, _) = quantized(cpu, &op, &x, 0);
            for row in 1..4 {
                let (w, s, _) = quantized(cpu, &op, &x[row * COLS..], (row * COLS) as u64);
                assert_eq!((&w[..], &s[..]), (&words[row * COLS / 16..], &scales[row..]), "{op:?} row {row}");
            }
            for (first, multiple) in [(32, 96), (64, 96), (96 + 32, 96), (48, 32), (96 * 7 + 1, 32)] {
                let (mut w, mut s, mut reports) = ([7; 6], [7; 1], cpu.reports(1).unwrap());
                let (words, scales) = (&mut w[..], &mut s[..]);
                let item = Item { tensor: 5, first, x: &x[..COLS], words, scales, report: 0 };
                let e = cpu.quantize(&op, &mut [item], &mut reports).unwrap_err();
                let Error::Alignment { what: "first element", got, multiple: of } = *e.root() else { panic!("{e}") };
                assert_eq!((got, of, w, s), (first, multiple, [7; 6], [7; 1]));
            }
        }
    }
}

fn check_agrees<T: Element>() {
    for kind in 0..KINDS {
        for n in lengths() {
            let x = data::<T>(kind, n, 1);
            for weight in [1.0, 0.5, 3.0, 1e38, 0.0, -1e-40] {
                let run = |cpu: Cpu| {
                    let mut reports = cpu.reports(1).unwrap();
                    let item = check::Item { x: x.as_slice(), first: 7, report: 0 };
                    cpu.check(&check::Check { weight }, &mut [item], &mut reports).unwrap();
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
}
