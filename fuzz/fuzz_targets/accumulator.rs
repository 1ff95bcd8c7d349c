//! An accumulator under any sequence of calls, right ones and wrong ones, with any floats: it answers as one on the
//! reference does, and a call that fails leaves the state as it was.
#![no_main]

use half::{bf16, f16};
use libfuzzer_sys::fuzz_target;
use trigrad::accumulator::{Accumulator, Config, Floats, Format, NonFinite, Reduce, Scales, Spec};
use trigrad::Backend;
use trigrad::cpu::Cpu;
use trigrad::testing::Reference;
use trigrad_fuzz::{Bytes, outcome};

#[derive(Debug)]
enum Data {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

enum Call {
    Accumulate(Vec<(usize, Data)>, f32),
    Reset,
    ResetTo(u32),
    Index(u32),
    SetScales(usize, Vec<bf16>),
    Read(usize, Reduce),
    Norm,
    /// With a window of its own kind, of so many micro-batches of ones.
    Merge(u8),
    Reload,
}

fn config(bytes: &mut Bytes<'_>) -> Config {
    let headroom = if bytes.rarely() { bytes.float() } else { 1.5 };
    let scales = bytes.pick(&[Scales::Given, Scales::LastWindow { headroom }, Scales::FirstLook { headroom }]);
    let format = match bytes.bool() {
        true => Format::Adaptive { bits: bytes.pick(&[2, 4, 8]) },
        false => Format::Exact { bits: bytes.pick(&[4, 8, 16]), scales },
    };
    let non_finite = bytes.pick(&[NonFinite::Defer, NonFinite::Reject, NonFinite::Zero]);
    Config { format, block: bytes.block(), seed: bytes.long(), non_finite }
}

fn call(bytes: &mut Bytes<'_>, lengths: &[usize], block: usize) -> Call {
    match bytes.below(16) {
        0 => Call::Reset,
        1 => Call::ResetTo(bytes.word()),
        2 => Call::Index(if bytes.bool() { bytes.word() } else { (1 << 24) - 2 }),
        3 => {
            let i = bytes.below(lengths.len());
            let n = bytes.near(lengths[i].div_ceil(block));
            Call::SetScales(i, bytes.halves(n).into_iter().map(bf16::from_bits).collect())
        }
        4..7 => {
            let factor = bytes.float();
            Call::Read(bytes.below(4), bytes.pick(&[Reduce::Sum, Reduce::Mean, Reduce::Times(factor)]))
        }
        7 => Call::Norm,
        8 => Call::Merge(bytes.byte() % 9),
        9 => Call::Reload,
        _ => {
            let weight = if bytes.bool() { 1.0 } else { bytes.float() };
            let mut gradients = Vec::new();
            for (i, n) in lengths.iter().enumerate() {
                if bytes.rarely() {
                    continue;
                }
                let i = if bytes.rarely() { bytes.below(4) } else { i };
                let n = bytes.near(*n);
                gradients.push((i, match bytes.below(3) {
                    0 => Data::F32(bytes.values(n)),
                    1 => Data::F16(bytes.values(n)),
                    _ => Data::Bf16(bytes.values(n)),
                }));
            }
            Call::Accumulate(gradients, weight)
        }
    }
}

/// What a call gave, as text, and the state after it.
fn apply<B: Backend + Clone>(sum: &mut Accumulator<B>, call: &Call) -> Result<Vec<u32>, String>
where
    for<'a> Floats<'a, B>: From<&'a [f32]> + From<&'a [f16]> + From<&'a [bf16]>,
{
    let nothing = |r: trigrad::Result<()>| outcome(r.map(|()| Vec::new()));
    match call {
        Call::Accumulate(gradients, weight) => {
            let floats: Vec<(usize, Floats<'_, B>)> = gradients
                .iter()
                .map(|(i, data)| match data {
                    Data::F32(x) => (*i, x[..].into()),
                    Data::F16(x) => (*i, x[..].into()),
                    Data::Bf16(x) => (*i, x[..].into()),
                })
                .collect();
            nothing(sum.accumulate(&floats, *weight))
        }
        Call::Reset => nothing(sum.reset()),
        Call::ResetTo(step) => nothing(sum.reset_to(*step)),
        Call::Index(index) => {
            sum.set_micro_batch(*index);
            Ok(Vec::new())
        }
        Call::SetScales(i, scales) => nothing(sum.set_scales(*i, scales)),
        Call::Read(i, reduce) => {
            outcome(sum.to_vec::<f32>(*i, *reduce).map(|v| v.iter().map(|x| x.to_bits()).collect()))
        }
        Call::Norm => outcome(sum.squared_norm().map(|x| vec![x.to_bits() as u32, (x.to_bits() >> 32) as u32])),
        Call::Merge(batches) => {
            let mut other = outcome(Accumulator::new(sum.backend().clone(), sum.specs(), *sum.config()))?;
            let data: Vec<Vec<f32>> = sum.specs().iter().map(|s| vec![1.0; s.elements().unwrap_or(0)]).collect();
            for i in 0..sum.specs().len() {
                let scales = outcome(sum.scales(i))?;
                other.set_scales(i, &scales).ok();
            }
            for _ in 0..*batches {
                let floats: Vec<(usize, Floats<'_, B>)> = data.iter().enumerate().map(|(i, x)| (i, x[..].into())).collect();
                outcome(other.accumulate(&floats, 1.0))?;
            }
            nothing(sum.merge(&other))
        }
        Call::Reload => {
            let state = outcome(sum.state())?;
            let mut other = outcome(Accumulator::new(sum.backend().clone(), sum.specs(), *sum.config()))?;
            outcome(other.set_state(&state))?;
            assert_eq!(outcome(other.state()), Ok(state));
            *sum = other;
            Ok(Vec::new())
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let config = config(&mut bytes);
    let lengths: Vec<usize> = (0..1 + bytes.below(3)).map(|_| bytes.length().min(700)).collect();
    let specs: Vec<Spec> = lengths.iter().enumerate().map(|(i, n)| Spec::new(format!("t{i}"), [*n])).collect();
    let fast = outcome(Accumulator::new(Cpu::new(), &specs, config));
    let slow = outcome(Accumulator::new(Reference, &specs, config));
    let (mut fast, mut slow) = match (fast, slow) {
        (Ok(fast), Ok(slow)) => (fast, slow),
        (fast, slow) => return assert_eq!(fast.err(), slow.err()),
    };
    for _ in 0..1 + bytes.below(12) {
        let call = call(&mut bytes, &lengths, config.block.get() as usize);
        let before = outcome(fast.state());
        let got = apply(&mut fast, &call);
        assert_eq!(got, apply(&mut slow, &call));
        let after = outcome(fast.state());
        assert_eq!(after, outcome(slow.state()));
        if got.is_err() {
            assert_eq!(after, before);
        }
    }
});
