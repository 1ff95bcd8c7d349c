//! Any file as an accumulator's checkpoint, and sound ones damaged behind a right checksum: it is taken or refused, a
//! refusal changes nothing, and what was taken can be used and saved again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs;
use trigrad::accumulator::{Accumulator, Config, Format, Reduce, Scales, Spec};
use trigrad::cpu::Cpu;
use trigrad_fuzz::{Bytes, damaged, file, outcome};

const FORMATS: [Format; 4] = [
    Format::Adaptive { bits: 2 },
    Format::Adaptive { bits: 8 },
    Format::Exact { bits: 4, scales: Scales::FirstLook { headroom: 2.0 } },
    Format::Exact { bits: 16, scales: Scales::LastWindow { headroom: 1.5 } },
];

fn make(format: Format) -> Accumulator<Cpu> {
    let specs = [Spec::new("w\"x", [3, 7]), Spec::new("b", [5]), Spec::new("", [])];
    let config = Config { format, seed: u64::MAX, ..Config::default() };
    let mut sum = Accumulator::new(Cpu::new(), &specs, config).expect("sound choices");
    step(&mut sum).expect("sound gradients");
    sum
}

fn step(sum: &mut Accumulator<Cpu>) -> trigrad::Result<()> {
    let (w, b, s) = ([0.5f32, -1.0, 3.0].repeat(7), [0.25f32, f32::NAN, 1.0, 2.0, -8.0], [1.0f32]);
    let b = if sum.micro_batch() == 0 { &[1.0; 5] } else { &b };
    sum.accumulate(&[(0usize, w[..].into()), (1, b[..].into()), (2, s[..].into())], 0.75)
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let format = bytes.pick(&FORMATS);
    let mut sum = make(format);
    let path = file("checkpoint");
    sum.save(&path).expect("a file that can be written");
    let good = fs::read(&path).expect("a file that was written");
    step(&mut sum).expect("sound gradients");
    let before = sum.state().expect("a sound state");
    fs::write(&path, damaged(&mut bytes, &good)).expect("a file that can be written");
    match sum.load(&path) {
        Err(_) => assert_eq!(sum.state().expect("the state before"), before),
        Ok(()) => {
            let state = sum.state().expect("what was taken");
            let again = file("again");
            sum.save(&again).expect("a file that can be written");
            let mut other = make(format);
            other.load(&again).expect("its own file");
            assert_eq!(other.state().expect("what was taken"), state);
            fs::remove_file(&again).ok();
            // Whatever it holds, the calls that follow answer.
            outcome(sum.to_vec::<f32>(0usize, Reduce::Mean)).ok();
            outcome(sum.squared_norm()).ok();
            outcome(sum.found()).ok();
            outcome(step(&mut sum)).ok();
            outcome(sum.merge(&other)).ok();
            outcome(sum.reset()).expect("a reset");
            outcome(step(&mut sum)).expect("the next window");
        }
    }
    fs::remove_file(&path).ok();
});
