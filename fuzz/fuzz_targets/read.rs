//! Dequantize, read-out and reductions on any levels, under scales that operations can write: every CPU path answers as
//! the reference does. Under any bits at all as scales, nothing panics.
#![no_main]

use half::{bf16, f16};
use libfuzzer_sys::fuzz_target;
use trigrad::backend::Backend;
use trigrad::numerics::pack::words;
use trigrad::op::dequantize::{self, Dequantize};
use trigrad::op::read_out::{self, ReadOut};
use trigrad::op::reduce::{Dot, SquaredNorm};
use trigrad::op::{Element, Grouping};
use trigrad::testing::Reference;
use trigrad_fuzz::{Bytes, cpus, host, outcome};

struct Case {
    n: usize,
    grouping: Grouping,
    bits: u32,
    factor: f32,
    levels: Vec<u32>,
    scales: Vec<u16>,
}

type Found<T> = (Result<Vec<T>, String>, Result<Vec<T>, String>, Result<u64, String>, Result<u64, String>);

fn run<B: Backend, T: Element>(b: &B, c: &Case) -> Found<u32> {
    let bits_of = |out: Vec<T>| out.into_iter().map(|x| x.to_f32_bits()).collect::<Vec<u32>>();
    let dequantized = (|| {
        let (words, scales) = (b.upload(&c.levels)?, b.upload(&c.scales)?);
        let mut out = b.upload(&vec![T::from_f32_bits(0x7fc0_0000); c.n])?;
        let item = dequantize::Item { words: B::view(&words), scales: B::view(&scales), out: B::view_mut(&mut out) };
        b.dequantize(&Dequantize { grouping: c.grouping }, &mut [item])?;
        Ok(bits_of(host(b, &out)))
    })();
    let read = (|| {
        let Grouping::Block(block) = c.grouping else { return Ok(Vec::new()) };
        let (levels, scales) = (b.upload(&c.levels)?, b.upload(&c.scales)?);
        let mut out = b.upload(&vec![T::from_f32_bits(0x7fc0_0000); c.n])?;
        let (levels, scales, out_view) = (B::view(&levels), B::view(&scales), B::view_mut(&mut out));
        let item = read_out::Item { levels, scales, out: out_view, guard: None };
        b.read_out(&ReadOut { bits: c.bits, block, factor: c.factor }, &mut [item], None)?;
        Ok(bits_of(host(b, &out)))
    })();
    let dot = (|| {
        let (words, scales) = (b.upload(&c.levels)?, b.upload(&c.scales)?);
        let op = Dot { grouping: c.grouping, n: c.n };
        let backwards: Vec<u32> = c.levels.iter().rev().copied().collect();
        let other = b.upload(&backwards)?;
        b.dot(&op, B::view(&words), B::view(&scales), B::view(&other), B::view(&scales)).map(f64::to_bits)
    })();
    let norm = (|| {
        let (levels, scales) = (b.upload(&c.levels)?, b.upload(&c.scales)?);
        let op = SquaredNorm { bits: c.bits, grouping: c.grouping, n: c.n };
        b.squared_norm(&op, B::view(&levels), B::view(&scales)).map(f64::to_bits)
    })();
    (outcome(dequantized), outcome(read), outcome(dot), outcome(norm))
}

fn case<T: Element>(bytes: &mut Bytes<'_>) {
    let n = bytes.length().min(2100);
    let grouping = bytes.grouping();
    let bits = if bytes.rarely() { bytes.word() } else { bytes.pick(&[2, 4, 8, 16]) };
    let factor = bytes.float();
    let sound = !bytes.rarely();
    let scales = bytes.near(grouping.groups(n));
    // A few scales repeat, so that bytes reach the levels.
    let few = bytes.halves(8);
    // 0, or from 2^-97 to 2^126.
    let scale = |s: u16| if !sound { s } else if s.is_multiple_of(8) { 0 } else { 0x0f00 + s % (0x7e80 - 0x0f00 + 1) };
    let scales = (0..scales).map(|i| scale(few[i % 8])).collect();
    let count = bytes.near(words(n, bits.min(16)));
    let levels = bytes.values::<f32>(count).iter().map(|x| x.to_bits()).collect();
    let case = Case { n, grouping, bits, factor, levels, scales };
    let expected = sound.then(|| run::<_, T>(&Reference, &case));
    for cpu in cpus() {
        let got = run::<_, T>(&cpu, &case);
        if let Some(expected) = &expected {
            assert_eq!(&got, expected);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    match bytes.below(3) {
        0 => case::<f32>(&mut bytes),
        1 => case::<f16>(&mut bytes),
        _ => case::<bf16>(&mut bytes),
    }
});
