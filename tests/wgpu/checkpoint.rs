//! Checkpoints between the CPU and a GPU: a run that is cut, saved and loaded on the other goes on with the same bits.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use crate::adapter::device;
use trigrad::accumulator::{Accumulator, Config, Floats, Format, Id, Reduce, Scales, Spec};
use trigrad::cpu::Cpu;
use trigrad::webgpu::Options;
use trigrad::{Backend, Result};

const LENGTHS: [usize; 3] = [5000, 64, 1];

/// A gradient of one of 100 steps of 4 micro-batches, the same at every call.
fn gradient(step: u32, micro_batch: u32, tensor: usize) -> Vec<f32> {
    let mut state = (step * 4 + micro_batch) * 3 + tensor as u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..LENGTHS[tensor]).map(|_| next() * next()).collect()
}

fn make<B: Backend + Clone>(backend: &B, format: Format) -> Result<Accumulator<B>> {
    let specs: Vec<Spec> = LENGTHS.iter().map(|n| Spec::new(format!("of {n}"), [*n])).collect();
    Accumulator::new(backend.clone(), &specs, Config { format, seed: 11, ..Config::default() })
}

/// Micro-batches of the run, four a step, each step's window left by a reset.
fn go<B: Backend>(sum: &mut Accumulator<B>, micro_batches: std::ops::Range<u32>) -> Result<()> {
    for k in micro_batches {
        let (step, micro_batch) = (k / 4, k % 4);
        if micro_batch == 0 && step > 0 {
            sum.reset()?;
        }
        let held: Vec<B::Buffer<f32>> =
            (0..3).map(|t| sum.backend().upload(&gradient(step, micro_batch, t))).collect::<Result<_>>()?;
        let list: Vec<(Id<'_>, Floats<'_, B>)> =
            held.iter().enumerate().map(|(t, x)| (Id::Index(t), Floats::F32(B::view(x)))).collect();
        sum.accumulate(&list, 0.5 + step as f32)?;
    }
    Ok(())
}

/// The whole run on one, and cut on that one and continued on the other: within a window and between two.
fn cut<A: Backend + Clone, B: Backend + Clone>(one: &A, other: &B, format: Format, name: &str) -> Result<()> {
    let mut whole = make(one, format)?;
    go(&mut whole, 0..400)?;
    for at in [200, 202] {
        let mut first = make(one, format)?;
        go(&mut first, 0..at)?;
        // Not where cargo built: the bundle runs this elsewhere.
        let file = std::env::temp_dir().join(format!("trigrad-{}-{name}-{at}.safetensors", std::process::id()));
        first.save(&file)?;
        let mut second = make(other, format)?;
        go(&mut second, 0..3)?;
        second.load(&file)?;
        std::fs::remove_file(&file).unwrap();
        assert_eq!(second.state()?, first.state()?, "{name}, loaded");
        go(&mut second, at..400)?;
        assert_eq!(second.state()?, whole.state()?, "{name}, cut at micro-batch {at}");
        let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let (a, b) = (whole.to_vec(Id::Index(0), Reduce::Mean)?, second.to_vec(Id::Index(0), Reduce::Mean)?);
        assert_eq!(bits(a), bits(b), "{name}, read out");
    }
    Ok(())
}

#[test]
fn a_hundred_steps_are_fifty_a_file_and_fifty_more_on_the_other() -> Result<()> {
    let Some(gpu) = device(&Options::default()) else { return Ok(()) };
    let exact = Format::Exact { bits: 8, scales: Scales::LastWindow { headroom: 1.5 } };
    for format in [Format::Adaptive { bits: 4 }, Format::Adaptive { bits: 8 }, exact] {
        cut(&Cpu::new(), &gpu, format, "from the CPU")?;
        cut(&gpu, &Cpu::new(), format, "to the CPU")?;
    }
    Ok(())
}
