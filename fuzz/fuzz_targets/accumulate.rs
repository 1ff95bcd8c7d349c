//! Adaptive levels, exact counts, first looks, window scales and merges on any floats and weights: every CPU path
//! answers as the reference does, bit for bit, over a sequence of calls on one state.
#![no_main]

use half::{bf16, f16};
use libfuzzer_sys::fuzz_target;
use trigrad::backend::Backend;
use trigrad::numerics::pack::words;
use trigrad::op::accumulate::{
    Adaptive, AdaptiveItem, Exact, ExactItem, Look, LookItem, Merge, WindowScales,
};
use trigrad::op::check::{self, Check};
use trigrad::op::read_out::{self, ReadOut};
use trigrad::op::{BlockSize, Draw, Element, Report};
use trigrad::testing::Reference;
use trigrad_fuzz::{Bytes, cpus, host, outcome};

/// One call.
#[derive(Clone, Debug)]
enum Call<T> {
    Adaptive { draw: Draw, weight: f32, x: Vec<T> },
    Exact { draw: Draw, weight: f32, held: u32, x: Vec<T> },
    Look { weight: f32, x: Vec<T> },
    Check { weight: f32, x: Vec<T> },
    Scales { headroom: f32 },
    Merge { held: u32, added: u32 },
    ReadOut { factor: f32, guard: bool },
}

struct Case<T> {
    bits: u32,
    block: BlockSize,
    place: (u32, u64),
    n: usize,
    lengths: (usize, usize),
    calls: Vec<Call<T>>,
}

type Found = (Result<(), String>, Vec<u32>, Vec<u16>, Vec<u16>, Vec<Report>, Vec<u32>);

fn run<B: Backend, T: Element>(b: &B, c: &Case<T>) -> Vec<Found> {
    let make = || {
        let (levels, blocks) = c.lengths;
        Ok::<_, trigrad::Error>((b.zeros::<u32>(levels)?, b.zeros::<u16>(blocks)?, b.zeros::<u16>(blocks)?, b.reports(1)?))
    };
    let Ok((mut levels, mut scales, mut seen, mut reports)) = make() else { return Vec::new() };
    let (tensor, first) = c.place;
    let (bits, block) = (c.bits, c.block);
    let mut all = Vec::new();
    for call in &c.calls {
        let mut values = Vec::new();
        let done = match call {
            Call::Adaptive { draw, weight, x } => b.upload(x).and_then(|x| {
                let (levels, scales) = (B::view_mut(&mut levels), B::view_mut(&mut scales));
                let item = AdaptiveItem { tensor, first, x: B::view(&x), levels, scales, report: 0 };
                let op = Adaptive { bits, block, draw: *draw, weight: *weight };
                b.accumulate_adaptive(&op, &mut [item], &mut reports)
            }),
            Call::Exact { draw, weight, held, x } => b.upload(x).and_then(|x| {
                let (counts, seen) = (B::view_mut(&mut levels), B::view_mut(&mut seen));
                let item = ExactItem { tensor, first, x: B::view(&x), counts, scales: B::view(&scales), seen, report: 0 };
                let op = Exact { bits, block, draw: *draw, weight: *weight, held: *held };
                b.accumulate_exact(&op, &mut [item], &mut reports)
            }),
            Call::Look { weight, x } => b.upload(x).and_then(|x| {
                let item = LookItem { x: B::view(&x), seen: B::view_mut(&mut seen), report: 0 };
                b.look(&Look { block, weight: *weight }, &mut [item], &mut reports)
            }),
            Call::Check { weight, x } => b.upload(x).and_then(|x| {
                let item = check::Item { x: B::view(&x), first, report: 0 };
                b.check(&Check { weight: *weight }, &[item], &mut reports)
            }),
            Call::Scales { headroom } => {
                b.window_scales(&WindowScales { headroom: *headroom }, B::view(&seen), B::view_mut(&mut scales))
            }
            Call::Merge { held, added } => {
                let from = host(b, &levels);
                b.upload(&from).and_then(|from| {
                    let op = Merge { bits, held: *held, added: *added };
                    b.merge(&op, B::view(&from), B::view_mut(&mut levels))
                })
            }
            Call::ReadOut { factor, guard } => b.upload(&vec![f32::NAN; c.n]).and_then(|mut out| {
                let op = ReadOut { bits, block, factor: *factor };
                let item: read_out::Item<'_, B, f32> = read_out::Item {
                    levels: B::view(&levels),
                    scales: B::view(&scales),
                    out: B::view_mut(&mut out),
                    guard: guard.then_some(0),
                };
                b.read_out(&op, &mut [item], guard.then_some(&reports))?;
                values = host(b, &out).iter().map(|x: &f32| x.to_bits()).collect();
                Ok(())
            }),
        };
        let found = b.read_reports(&reports).unwrap_or_default();
        all.push((outcome(done), host(b, &levels), host(b, &scales), host(b, &seen), found, values));
    }
    all
}

fn case<T: Element>(bytes: &mut Bytes<'_>) {
    let adaptive = bytes.bool();
    let bits = if bytes.rarely() {
        bytes.word()
    } else if adaptive {
        bytes.pick(&[2, 4, 8])
    } else {
        bytes.pick(&[4, 8, 16])
    };
    let block = bytes.block();
    let n = bytes.length().min(2100);
    let lengths = (bytes.near(words(n, bits.min(16))), bytes.near(block.blocks(n)));
    let place = (bytes.word(), bytes.first(block.get() as usize));
    let mut calls = Vec::new();
    let mut held = 0;
    for _ in 0..1 + bytes.below(5) {
        let weight = if bytes.bool() { 1.0 } else { bytes.float() };
        calls.push(match (bytes.below(8), adaptive) {
            (0, _) => Call::ReadOut { factor: weight, guard: bytes.bool() },
            (1, _) => Call::Check { weight, x: bytes.values(n) },
            (2, false) => Call::Look { weight, x: bytes.values(n) },
            (3, false) => Call::Scales { headroom: bytes.float() },
            // Merged with itself, so twice what is held.
            (4, false) => {
                let op: Call<T> = Call::Merge { held, added: held };
                held *= 2;
                op
            }
            (_, true) => Call::Adaptive { draw: bytes.draw(), weight, x: bytes.values(n) },
            (_, false) => {
                held += 1;
                Call::Exact { draw: bytes.draw(), weight, held: held - 1, x: bytes.values(n) }
            }
        });
    }
    let case = Case { bits, block, place, n, lengths, calls };
    let expected = run(&Reference, &case);
    let fails_unchanged = |all: &[Found]| {
        all.windows(2).all(|w| w[1].0.is_ok() || (&w[0].1, &w[0].2, &w[0].3, &w[0].4) == (&w[1].1, &w[1].2, &w[1].3, &w[1].4))
    };
    assert!(fails_unchanged(&expected));
    for cpu in cpus() {
        assert_eq!(run(&cpu, &case), expected);
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
