//! Quantize on any floats, parameters, positions and lengths: every CPU path answers as the reference does, bit for
//! bit, and what comes out can be read.
#![no_main]

use half::{bf16, f16};
use libfuzzer_sys::fuzz_target;
use trigrad::Backend;
use trigrad::numerics::pack::words;
use trigrad::numerics::reduce::SUM_WORDS;
use trigrad::op::dequantize::{self, Dequantize};
use trigrad::op::quantize::{Item, Quantize, Rule, Threshold};
use trigrad::op::reduce::{CountNonzero, CountNonzeroItem};
use trigrad::op::{Element, Report};
use trigrad::testing::Reference;
use trigrad_fuzz::{Bytes, cpus, host, outcome};

type Found = (Vec<u32>, Vec<u16>, Vec<Report>, Vec<u32>, Vec<u32>);

struct Case<T> {
    op: Quantize,
    place: (u32, u64),
    x: Vec<T>,
    lengths: (usize, usize),
    slot: usize,
}

fn run<B: Backend, T: Element>(b: &B, c: &Case<T>) -> Result<Found, String> {
    let made = (|| {
        let x = b.upload(&c.x)?;
        let mut words = b.upload(&vec![0xa5a5_a5a5u32; c.lengths.0])?;
        let mut scales = b.upload(&vec![0xa5a5u16; c.lengths.1])?;
        let mut reports = b.reports(2)?;
        let (tensor, first) = c.place;
        let item = Item {
            tensor,
            first,
            x: B::view(&x),
            words: B::view_mut(&mut words),
            scales: B::view_mut(&mut scales),
            report: c.slot,
        };
        b.quantize(&c.op, &mut [item], &mut reports)?;
        let mut out = b.upload(&vec![f32::NAN; c.x.len()])?;
        let item: dequantize::Item<'_, B, f32> =
            dequantize::Item { words: B::view(&words), scales: B::view(&scales), out: B::view_mut(&mut out) };
        b.dequantize(&Dequantize { grouping: c.op.grouping }, &mut [item])?;
        let mut sums = b.zeros::<u32>(SUM_WORDS)?;
        let item = CountNonzeroItem { words: B::view(&words), sum: 0 };
        b.count_nonzero(&CountNonzero, &mut [item], B::view_mut(&mut sums))?;
        let out = host(b, &out).iter().map(|x: &f32| x.to_bits()).collect();
        Ok((host(b, &words), host(b, &scales), b.read_reports(&reports)?, out, host(b, &sums)))
    })();
    outcome(made)
}

fn case<T: Element>(bytes: &mut Bytes<'_>) {
    let grouping = bytes.grouping();
    let rule = match bytes.below(4) {
        0 => Rule::Stochastic { draw: bytes.draw(), clip: None },
        1 => Rule::Stochastic { draw: bytes.draw(), clip: Some(bytes.float()) },
        2 => Rule::Threshold(Threshold::Given(bytes.float())),
        _ => Rule::Threshold(Threshold::Mean(bytes.float())),
    };
    let n = bytes.length();
    // No test needs a group's scales where the row is absurd; the lengths alone decide.
    let groups = grouping.groups(n);
    let (words, scales) = (bytes.near(words(n, 2)), bytes.near(groups));
    let place = (bytes.word(), bytes.first(grouping.size(n).min(4096)));
    let slot = if bytes.rarely() { usize::MAX } else { bytes.below(2) };
    let case = Case { op: Quantize { grouping, rule }, place, x: bytes.values::<T>(n), lengths: (words, scales), slot };
    let expected = run(&Reference, &case);
    for cpu in cpus() {
        assert_eq!(run(&cpu, &case), expected);
    }
    if let Ok((_, scales, reports, values, _)) = expected {
        assert!(values.iter().all(|v| f32::from_bits(*v).is_finite()));
        assert!(scales.iter().all(|s| *s <= 0x7e80));
        assert!(reports[slot].non_finite <= n as u64);
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
