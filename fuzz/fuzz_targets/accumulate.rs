//! Adaptive levels, exact counts, sums in f32, first looks, window scales, comparing and merging on any floats and weights:
//! every CPU path answers as the reference does, bit for bit, over a sequence of calls on one state.
#![no_main]

use half::{bf16, f16};
use libfuzzer_sys::fuzz_target;
use trigrad::Backend;
use trigrad::numerics::pack::words;
use trigrad::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, F32, F32Item};
use trigrad::op::check::{self, Check};
use trigrad::op::read_out::{self, ReadOut, ReadOutF32};
use trigrad::op::window::{
    CompareScales, CompareScalesItem, Look, LookItem, Merge, MergeItem, WindowScales, WindowScalesItem,
};
use trigrad::op::{BlockSize, Draw, Element, Report};
use trigrad::testing::Reference;
use trigrad_fuzz::{Bytes, cpus, host, outcome};

/// One call.
#[derive(Clone, Debug)]
enum Call<T> {
    Adaptive { draw: Draw, weight: f32, x: Vec<T> },
    Exact { draw: Draw, weight: f32, held: u32, headroom: Option<f32>, x: Vec<T> },
    F32 { weight: f32, x: Vec<T> },
    Look { weight: f32, x: Vec<T> },
    Check { weight: f32, x: Vec<T> },
    Scales { headroom: f32 },
    Compare,
    Merge { held: u32, added: u32 },
    ReadOut { factor: f32, guard: bool },
    ReadOutF32 { factor: f32, guard: bool },
}

struct Case<T> {
    bits: u32,
    block: BlockSize,
    place: (u32, u64),
    n: usize,
    lengths: (usize, usize),
    calls: Vec<Call<T>>,
}

/// The outcome of a call; levels, scales, maxima, sums and reports after it; what was read out.
type Found = (Result<(), String>, Vec<u32>, Vec<u16>, Vec<u16>, Vec<u32>, Vec<Report>, Vec<u32>);

fn run<B: Backend, T: Element>(b: &B, c: &Case<T>) -> Vec<Found> {
    let make = || {
        let (levels, blocks) = c.lengths;
        let (levels, scales, seen) = (b.zeros::<u32>(levels)?, b.zeros::<u16>(blocks)?, b.zeros::<u16>(blocks)?);
        Ok::<_, trigrad::Error>((levels, scales, seen, b.zeros::<f32>(c.n)?, b.reports(1)?))
    };
    let Ok((mut levels, mut scales, mut seen, mut sum, mut reports)) = make() else { return Vec::new() };
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
            Call::Exact { draw, weight, held, headroom, x } => b.upload(x).and_then(|x| {
                let (counts, scales, seen) =
                    (B::view_mut(&mut levels), B::view_mut(&mut scales), B::view_mut(&mut seen));
                let item = ExactItem { tensor, first, x: B::view(&x), counts, scales, seen, report: 0 };
                let op = Exact { bits, block, draw: *draw, weight: *weight, held: *held, headroom: *headroom };
                b.accumulate_exact(&op, &mut [item], &mut reports)
            }),
            Call::F32 { weight, x } => b.upload(x).and_then(|x| {
                let item = F32Item { first, x: B::view(&x), sum: B::view_mut(&mut sum), report: 0 };
                b.accumulate_f32(&F32 { weight: *weight }, &mut [item], &mut reports)
            }),
            Call::Look { weight, x } => b.upload(x).and_then(|x| {
                let item = LookItem { x: B::view(&x), seen: B::view_mut(&mut seen), report: 0 };
                b.look(&Look { block, weight: *weight }, &mut [item], &mut reports)
            }),
            Call::Check { weight, x } => b.upload(x).and_then(|x| {
                let item = check::Item { x: B::view(&x), first, report: 0 };
                b.check(&Check { weight: *weight }, &mut [item], &mut reports)
            }),
            Call::Scales { headroom } => {
                let item = WindowScalesItem { seen: B::view(&seen), scales: B::view_mut(&mut scales) };
                b.window_scales(&WindowScales { headroom: *headroom, bits }, &mut [item])
            }
            Call::Compare => {
                let item = CompareScalesItem { a: B::view(&seen), b: B::view(&scales), report: 0 };
                b.compare_scales(&CompareScales, &mut [item], &mut reports)
            }
            Call::Merge { held, added } => {
                let from = host(b, &levels);
                b.upload(&from).and_then(|from| {
                    let op = Merge { bits, held: *held, added: *added };
                    let seen_from = b.upload(&host(b, &scales))?;
                    let item = MergeItem {
                        from: B::view(&from),
                        into: B::view_mut(&mut levels),
                        seen_from: B::view(&seen_from),
                        seen: B::view_mut(&mut seen),
                    };
                    b.merge(&op, &mut [item])
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
            Call::ReadOutF32 { factor, guard } => {
                b.upload(&vec![T::from_f32_bits(0x7fc0_0000); c.n]).and_then(|mut out| {
                    let item =
                        read_out::F32Item { sum: B::view(&sum), out: B::view_mut(&mut out), guard: guard.then_some(0) };
                    b.read_out_f32(&ReadOutF32 { factor: *factor }, &mut [item], guard.then_some(&reports))?;
                    values = host(b, &out).iter().map(|x: &T| x.to_f32_bits()).collect();
                    Ok(())
                })
            }
        };
        let found = b.read_reports(&reports).unwrap_or_default();
        let sums = host(b, &sum).iter().map(|x: &f32| x.to_bits()).collect();
        all.push((outcome(done), host(b, &levels), host(b, &scales), host(b, &seen), sums, found, values));
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
        bytes.pick(&[4, 8, 16, 32])
    };
    let block = bytes.block();
    let n = bytes.length().min(2100);
    let lengths = (bytes.near(words(n, bits.min(32))), bytes.near(block.blocks(n)));
    let place = (bytes.word(), bytes.first(block.get() as usize));
    let mut calls = Vec::new();
    let mut held = 0;
    for _ in 0..1 + bytes.below(5) {
        let weight = if bytes.bool() { 1.0 } else { bytes.float() };
        calls.push(match (bytes.below(12), adaptive) {
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
            (5, _) => Call::F32 { weight, x: bytes.values(n) },
            (6, _) => Call::ReadOutF32 { factor: weight, guard: bytes.bool() },
            (7, false) => Call::Compare,
            (_, true) => Call::Adaptive { draw: bytes.draw(), weight, x: bytes.values(n) },
            (_, false) => {
                held += 1;
                let headroom = bytes.bool().then(|| bytes.float());
                Call::Exact { draw: bytes.draw(), weight, held: held - 1, headroom, x: bytes.values(n) }
            }
        });
    }
    let case = Case { bits, block, place, n, lengths, calls };
    let expected = run(&Reference, &case);
    let fails_unchanged = |all: &[Found]| {
        let state = |f: &Found| (f.1.clone(), f.2.clone(), f.3.clone(), f.4.clone(), f.5.clone());
        all.windows(2).all(|w| w[1].0.is_ok() || state(&w[0]) == state(&w[1]))
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
