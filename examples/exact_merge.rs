//! Four workers count trits under the same scales; their counts merge in any order to the same bits.
//!
//! ```text
//! cargo run --release --example exact_merge
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use trigrad::accumulator::{Accumulator, Config, Format, Reduce, Scales, Spec};
use trigrad::cpu::Cpu;

const WORKERS: u32 = 4;
const MICRO_BATCHES: u32 = 6;
const N: usize = 10_000;

/// The gradient of one micro-batch of the step, whoever computes it.
fn gradient(micro_batch: u32) -> Vec<f32> {
    (0..N).map(|i| ((i as u32 * 31 + micro_batch * 17) % 101) as f32 / 50.0 - 1.0).collect()
}

fn worker(rank: u32, scales: Scales) -> trigrad::Result<Accumulator<Cpu>> {
    let config = Config { format: Format::Exact { bits: 8, scales }, seed: 7, ..Config::default() };
    let mut counts = Accumulator::new(Cpu::default(), &[Spec::new("weight", [N])], config)?;
    // Draws are keyed by the global number of the micro-batch, so it does not matter which worker has it.
    counts.set_micro_batch(rank * MICRO_BATCHES);
    Ok(counts)
}

fn main() -> trigrad::Result<()> {
    // One look at a gradient fixes the scales of the step; all workers take them.
    let mut first = worker(0, Scales::FirstLook { headroom: 1.5 })?;
    first.accumulate(&[("weight", gradient(0)[..].into())], 1.0)?;
    let scales = first.scales("weight")?;

    let mut workers = Vec::new();
    for rank in 0..WORKERS {
        let mut counts = worker(rank, Scales::Given)?;
        counts.set_scales("weight", &scales)?;
        for _ in 0..MICRO_BATCHES {
            let micro_batch = counts.micro_batch();
            counts.accumulate(&[("weight", gradient(micro_batch)[..].into())], 1.0)?;
        }
        workers.push(counts);
    }

    // Merged forwards, backwards, and counted by one worker alone.
    let merged = |order: &[u32]| -> trigrad::Result<Vec<f32>> {
        let mut sum = worker(0, Scales::Given)?;
        for &rank in order {
            sum.merge(&workers[rank as usize])?;
        }
        sum.to_vec("weight", Reduce::Mean)
    };
    let (forwards, backwards) = (merged(&[0, 1, 2, 3])?, merged(&[3, 1, 0, 2])?);
    let mut alone = worker(0, Scales::Given)?;
    alone.set_scales("weight", &scales)?;
    for micro_batch in 0..WORKERS * MICRO_BATCHES {
        alone.accumulate(&[("weight", gradient(micro_batch)[..].into())], 1.0)?;
    }
    let alone = alone.to_vec("weight", Reduce::Mean)?;

    let bits = |x: &[f32]| x.iter().map(|v: &f32| v.to_bits()).collect::<Vec<_>>();
    println!("{WORKERS} workers, {MICRO_BATCHES} micro-batches each, {N} elements");
    println!("merged in two orders: same bits: {}", bits(&forwards) == bits(&backwards));
    println!("merged and counted by one worker: same bits: {}", bits(&forwards) == bits(&alone));
    Ok(())
}
