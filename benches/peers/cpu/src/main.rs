//! trigrad beside vsa-optim-rs 0.1.1 on the CPU: one thread, the same gradient, taken in turn within one run.
//!
//! `cargo run --release --manifest-path benches/peers/cpu/Cargo.toml -- [--n N] [--rounds N] [--json PATH]`
//!
//! The peer is given its tensor ready made; what it allocates within a call is part of the call, for trigrad too where
//! its API returns a new buffer (here it does not: slices in, slices out). vsa-optim-rs has one scale a tensor, so
//! trigrad appears with one scale a tensor as well as with its default of one a block of 64. Each round runs a memcpy
//! of the gradient and every row once; a time is the median of the rounds, a ratio the median of the ratios of the same
//! round. trigrad has the candle feature off here: its candle and the peer's are of different versions.

use anyhow::Result;
use candle_core::{Device, Tensor};
use clap::Parser;
use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;
use trigrad::backend::Backend;
use trigrad::cpu::Cpu;
use trigrad::numerics::pack::words;
use trigrad::op::accumulate::{Adaptive, AdaptiveItem};
use trigrad::op::quantize::{Item, Quantize, Threshold};
use trigrad::op::read_out::{self, ReadOut};
use trigrad::op::{BlockSize, Draw, Grouping};
use vsa_optim_rs::ternary::{
    ternary_quantize_deterministic, ternary_quantize_stochastic, ternary_quantize_stochastic_packed,
};
use vsa_optim_rs::{TernaryConfig, TernaryGradientAccumulator};

#[derive(Parser)]
struct Args {
    /// Elements.
    #[arg(long, default_value_t = 10_000_000)]
    n: usize,
    /// Rounds.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Where to write the figures.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

/// One way to do one thing.
struct Row<'a> {
    name: &'static str,
    /// trigrad's row that does the same.
    beside: Option<&'static str>,
    run: Box<dyn FnMut() -> Result<()> + 'a>,
    seconds: Vec<f64>,
}

#[derive(serde::Serialize)]
struct Figure {
    name: String,
    threads: usize,
    n: usize,
    ns_per_element: f64,
    best_ns_per_element: f64,
    times_memcpy: f64,
    /// The median over the rounds of this row's time over that of trigrad's row for the same work.
    times_trigrad: Option<f64>,
}

fn gaussian(n: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut unit = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..n).map(|_| unit() + unit() + unit() + unit() - 2.0).collect()
}

fn row<'a>(name: &'static str, beside: Option<&'static str>, run: impl FnMut() -> Result<()> + 'a) -> Row<'a> {
    Row { name, beside, run: Box::new(run), seconds: Vec::new() }
}

const STOCHASTIC: &str = "trigrad quantize stochastic and pack";
const TENSOR: &str = "trigrad quantize stochastic and pack, one scale a tensor";
const THRESHOLD: &str = "trigrad quantize threshold mean and pack, one scale a tensor";
const ACCUMULATE: &str = "trigrad accumulate adaptive 4 bits";
const READ_OUT: &str = "trigrad read out 4 bits";

fn quantize_row<'a>(name: &'static str, x: &'a [f32], op: Quantize) -> Row<'a> {
    let (cpu, n) = (Cpu::new(), x.len());
    let (mut w, mut s, mut reports) = (vec![0; words(n, 2)], vec![0; op.grouping.groups(n)], vec![Default::default()]);
    row(name, None, move || {
        let item = Item { tensor: 0, first: 0, x, words: &mut w[..], scales: &mut s[..], report: 0 };
        Ok(cpu.quantize(&op, &mut [item], &mut reports)?)
    })
}

fn rows<'a>(x: &'a [f32], tensor: &'a Tensor, gradients: &'a HashMap<String, Tensor>) -> Result<Vec<Row<'a>>> {
    let (cpu, n, block) = (Cpu::new(), x.len(), BlockSize::default());
    let mut copy = vec![1f32; n];
    let stochastic = Quantize::stochastic(Draw::new(1, 2));
    let (mut levels, mut scales) = (vec![0; words(n, 4)], vec![0; block.blocks(n)]);
    let (held, held_scales) = (vec![0x1234_5671; words(n, 4)], vec![0x3f80; block.blocks(n)]);
    let (mut out, mut reports, mut micro_batch) = (vec![0f32; n], vec![Default::default()], 0);
    let shapes = [("g".to_owned(), vec![n])];
    let mut theirs = TernaryGradientAccumulator::new(&shapes, TernaryConfig::default(), &Device::Cpu)?;
    theirs.accumulate(gradients)?;
    let mut read = TernaryGradientAccumulator::new(&shapes, TernaryConfig::default(), &Device::Cpu)?;
    read.accumulate(gradients)?;
    Ok(vec![
        row("memcpy", None, move || {
            copy.copy_from_slice(x);
            black_box(&copy[0]);
            Ok(())
        }),
        quantize_row(STOCHASTIC, x, stochastic),
        quantize_row(TENSOR, x, stochastic.grouping(Grouping::Tensor)),
        quantize_row(THRESHOLD, x, Quantize::threshold(Threshold::MEAN_MAGNITUDE).grouping(Grouping::Tensor)),
        row(ACCUMULATE, None, move || {
            micro_batch += 1;
            let op = Adaptive { bits: 4, block, draw: Draw::new(1, 2).micro_batch(micro_batch), weight: 1.0 };
            let (levels, scales) = (&mut levels[..], &mut scales[..]);
            let item = AdaptiveItem { tensor: 0, first: 0, x, levels, scales, report: 0 };
            Ok(cpu.accumulate_adaptive(&op, &mut [item], &mut reports)?)
        }),
        row(READ_OUT, None, move || {
            let op = ReadOut { bits: 4, block, factor: 0.125 };
            let item = read_out::Item { levels: &held[..], scales: &held_scales[..], out: &mut out[..], guard: None };
            Ok(cpu.read_out(&op, &mut [item], None)?)
        }),
        row("vsa-optim-rs quantize stochastic", Some(TENSOR), || {
            black_box(ternary_quantize_stochastic(tensor, None)?);
            Ok(())
        }),
        row("vsa-optim-rs quantize stochastic packed", Some(STOCHASTIC), || {
            black_box(ternary_quantize_stochastic_packed(tensor, None)?);
            Ok(())
        }),
        row("vsa-optim-rs quantize deterministic", Some(THRESHOLD), || {
            black_box(ternary_quantize_deterministic(tensor, None)?);
            Ok(())
        }),
        row("vsa-optim-rs accumulate", Some(ACCUMULATE), move || Ok(theirs.accumulate(gradients)?)),
        row("vsa-optim-rs get_accumulated", Some(READ_OUT), move || {
            black_box(read.get_accumulated()?);
            Ok(())
        }),
    ])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn ratio(a: &[f64], b: &[f64]) -> f64 {
    median(a.iter().zip(b).map(|(a, b)| a / b).collect())
}

fn measure(args: &Args) -> Result<Vec<Figure>> {
    let x = gaussian(args.n);
    let tensor = Tensor::from_slice(&x, x.len(), &Device::Cpu)?;
    let gradients = HashMap::from([("g".to_owned(), tensor.clone())]);
    let mut rows = rows(&x, &tensor, &gradients)?;
    for round in 0..=args.rounds.max(1) {
        for row in &mut rows {
            let start = Instant::now();
            (row.run)()?;
            if round > 0 {
                row.seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    let figure = |r: &Row<'_>| {
        let beside = r.beside.and_then(|name| rows.iter().find(|o| o.name == name));
        let ns = 1e9 / args.n as f64;
        Figure {
            name: r.name.to_owned(),
            threads: 1,
            n: args.n,
            ns_per_element: median(r.seconds.clone()) * ns,
            best_ns_per_element: r.seconds.iter().copied().fold(f64::INFINITY, f64::min) * ns,
            times_memcpy: ratio(&r.seconds, &rows[0].seconds),
            times_trigrad: beside.map(|o| ratio(&r.seconds, &o.seconds)),
        }
    };
    Ok(rows.iter().map(figure).collect())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let figures = pool.install(|| measure(&args))?;
    println!("{:<62} {:>10} {:>10} {:>10} {:>10}", "one thread", "ns/element", "best", "x memcpy", "x trigrad");
    for f in &figures {
        let beside = f.times_trigrad.map_or_else(String::new, |t| format!("{t:.1}"));
        let (name, ns, best, memcpy) = (&f.name, f.ns_per_element, f.best_ns_per_element, f.times_memcpy);
        println!("{name:<62} {ns:>10.3} {best:>10.3} {memcpy:>10.2} {beside:>10}");
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&figures)? + "\n")?;
    }
    Ok(())
}
