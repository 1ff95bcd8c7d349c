//! Dequantize, read-out and reductions on any levels, under scales that operations can write: every CPU path answers as
//! the reference does. Under any bits at all as scales, nothing panics.
#![no_main]

use half::{bf16, f16};
use libfuzzer_sys::fuzz_target;
use trigrad::Backend;
use trigrad::numerics::pack::words;
use trigrad::numerics::reduce::SUM_WORDS;
use trigrad::op::dequantize::{self, Dequantize};
use trigrad::op::read_out::{self, ReadOut};
use trigrad::op::reduce::{Dot, DotItem, SquaredNorm, SquaredNormF32, SquaredNormF32Item, SquaredNormItem};
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
    /// Two slots that may hold any sum.
    sums: Vec<u32>,
}

/// What each operation answers: bits of floats, or the words of sums.
type Found = [Result<Vec<u32>, String>; 5];

fn run<B: Backend, T: Element>(b: &B, c: &Case) -> Found {
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
        let op = Dot { grouping: c.grouping };
        let backwards: Vec<u32> = c.levels.iter().rev().copied().collect();
        let other = b.upload(&backwards)?;
        let mut sums = b.upload(&c.sums)?;
        let item = DotItem {
            n: c.n,
            words_a: B::view(&words),
            scales_a: B::view(&scales),
            words_b: B::view(&other),
            scales_b: B::view(&scales),
            sum: 1,
        };
        b.dot(&op, &mut [item], B::view_mut(&mut sums))?;
        Ok(host(b, &sums))
    })();
    let norm = (|| {
        let (levels, scales) = (b.upload(&c.levels)?, b.upload(&c.scales)?);
        let op = SquaredNorm { bits: c.bits, grouping: c.grouping };
        let mut sums = b.upload(&c.sums)?;
        let item = SquaredNormItem { n: c.n, levels: B::view(&levels), scales: B::view(&scales), sum: 0 };
        b.squared_norm(&op, &mut [item], B::view_mut(&mut sums))?;
        Ok(host(b, &sums))
    })();
    let floats = (|| {
        let x: Vec<f32> = c.levels.iter().map(|w| f32::from_bits(*w)).collect();
        let (x, mut sums) = (b.upload(&x)?, b.upload(&c.sums)?);
        let item = || SquaredNormF32Item { x: B::view(&x), sum: 1 };
        b.squared_norm_f32(&SquaredNormF32, &mut [item(), item()], B::view_mut(&mut sums))?;
        Ok(host(b, &sums))
    })();
    [dequantized, read, dot, norm, floats].map(outcome)
}

fn case<T: Element>(bytes: &mut Bytes<'_>) {
    let n = bytes.length().min(2100);
    let grouping = bytes.grouping();
    let bits = if bytes.rarely() { bytes.word() } else { bytes.pick(&[2, 4, 8, 16, 32]) };
    let factor = bytes.float();
    let sound = !bytes.rarely();
    let scales = bytes.near(grouping.groups(n));
    // A few scales repeat, so that bytes reach the levels.
    let few = bytes.halves(8);
    // 0, or from 2^-97 to 2^126; of 32 bits a power of two from 2^-111 to 2^105.
    let scale = |s: u16| match s {
        s if !sound => s,
        s if s.is_multiple_of(8) => 0,
        s if bits == 32 => (16 + s % 217) * 128,
        s => 0x0f00 + s % (0x7e80 - 0x0f00 + 1),
    };
    let scales = (0..scales).map(|i| scale(few[i % 8])).collect();
    let count = bytes.near(words(n, bits.min(32)));
    let levels = bytes.values::<f32>(count).iter().map(|x| x.to_bits()).collect();
    // Below 2^300 in magnitude, so that nothing overflows.
    let mut sums: Vec<u32> = (0..2 * SUM_WORDS).map(|_| bytes.word()).collect();
    sums[SUM_WORDS - 1] = 0;
    sums[2 * SUM_WORDS - 1] = u32::MAX;
    let case = Case { n, grouping, bits, factor, levels, scales, sums };
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
