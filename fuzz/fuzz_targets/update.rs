//! Fused updates on any levels, weights, moments and terms: every CPU path answers as the reference does.
#![no_main]

use half::bf16;
use libfuzzer_sys::fuzz_target;
use trigrad::Backend;
use trigrad::numerics::pack::words;
use trigrad::numerics::update::{AdamWTerms, SgdTerms};
use trigrad::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};
use trigrad::op::{Element, Report};
use trigrad::testing::Reference;
use trigrad_fuzz::{Bytes, cpus, host, outcome};

struct Case<T> {
    sgd: Option<Sgd>,
    adamw: AdamW,
    packed: bool,
    place: (u32, u64),
    levels: Vec<u32>,
    scales: Vec<u16>,
    dense: Vec<f32>,
    weights: Vec<T>,
    moments: [Vec<f32>; 2],
}

type Found = (Result<(), String>, Vec<u32>, Vec<u32>, Vec<u32>, Vec<Report>);

fn run<B: Backend, T: Element>(b: &B, c: &Case<T>) -> Found {
    let made = (|| {
        let (levels, scales, dense) = (b.upload(&c.levels)?, b.upload(&c.scales)?, b.upload(&c.dense)?);
        let (mut weights, mut m, mut v) = (b.upload(&c.weights)?, b.upload(&c.moments[0])?, b.upload(&c.moments[1])?);
        let gradient = match c.packed {
            true => Gradient::Packed { levels: B::view(&levels), scales: B::view(&scales) },
            false => Gradient::Dense(B::view(&dense)),
        };
        let (tensor, first) = c.place;
        let mut reports = b.reports(1)?;
        let done = match &c.sgd {
            Some(op) => {
                let momentum = (op.terms.momentum != 0.0).then(|| B::view_mut(&mut m));
                let item = SgdItem { tensor, first, gradient, weights: B::view_mut(&mut weights), momentum, report: 0 };
                b.update_sgd(op, &mut [item], None, &mut reports)
            }
            None => {
                let (first_moment, second_moment) = (B::view_mut(&mut m), B::view_mut(&mut v));
                let weights = B::view_mut(&mut weights);
                let item = AdamWItem { tensor, first, gradient, weights, first_moment, second_moment, report: 0 };
                b.update_adamw(&c.adamw, &mut [item], None, &mut reports)
            }
        };
        // What would not be finite is not written, so that even a NaN that was there keeps its bits.
        let bits = |x: Vec<f32>| x.iter().map(|x| x.to_bits()).collect();
        let weights = host(b, &weights).iter().map(|w: &T| w.to_f32_bits()).collect();
        Ok((outcome(done), weights, bits(host(b, &m)), bits(host(b, &v)), b.read_reports(&reports)?))
    })();
    made.unwrap_or_else(|e: trigrad::Error| (Err(format!("{e:?}")), Vec::new(), Vec::new(), Vec::new(), Vec::new()))
}

fn case<T: Element>(bytes: &mut Bytes<'_>) {
    let bits = if bytes.rarely() { bytes.word() } else { bytes.pick(&[2, 4, 8, 16, 32]) };
    let block = bytes.block();
    let source = Source { bits, block, factor: bytes.float(), draw: bytes.draw() };
    let sgd = bytes.bool().then(|| {
        let momentum = if bytes.bool() { 0.0 } else { bytes.float() };
        let terms = SgdTerms { learning_rate: bytes.float(), momentum, weight_decay: bytes.float() };
        Sgd { source, terms, nesterov: bytes.bool() }
    });
    let real = |bytes: &mut Bytes<'_>| f64::from(bytes.float());
    let terms = AdamWTerms::new(real(bytes), (real(bytes), real(bytes)), real(bytes), real(bytes), bytes.word());
    let n = bytes.length().min(600);
    let packed = bytes.bool();
    let place = (bytes.word(), bytes.first(block.get() as usize));
    let few = bytes.halves(4);
    let scales = bytes.near(block.blocks(n));
    let scale = |s: u16| match s {
        s if s.is_multiple_of(8) => 0,
        s if bits == 32 => (16 + s % 217) * 128,
        s => 0x0f00 + s % (0x7e80 - 0x0f00 + 1),
    };
    let scales = (0..scales).map(|i| scale(few[i % 4])).collect();
    let count = bytes.near(words(n, bits.min(32)));
    let case = Case::<T> {
        sgd,
        adamw: AdamW { source, terms },
        packed,
        place,
        levels: bytes.values::<f32>(count).iter().map(|x| x.to_bits()).collect(),
        scales,
        weights: bytes.values(n),
        moments: [bytes.values(n), bytes.values(n)],
        dense: bytes.values(n),
    };
    let expected = run(&Reference, &case);
    for cpu in cpus() {
        assert_eq!(run(&cpu, &case), expected);
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    match bytes.bool() {
        true => case::<f32>(&mut bytes),
        false => case::<bf16>(&mut bytes),
    }
});
