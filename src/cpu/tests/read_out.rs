//! Read out and dequantize, of any bits.

use super::{Bits, bytes, lengths};
use crate::cpu::Cpu;
use crate::numerics::pack::words;
use crate::op::Backend;
use crate::op::{BlockSize, Element, Grouping, dequantize, read_out};

/// Read-outs in all three types.
pub(super) fn read(
    cpu: Cpu,
    bits: u32,
    block: BlockSize,
    levels: &[u32],
    scales: &[u16],
    n: usize,
    factor: f32,
) -> [Vec<u8>; 3] {
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
            let scales: Vec<u16> = (0..grouping.groups(n)).map(|_| bits.next() as u16 & 0xff7f).collect();
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
