//! Trains a small decoder-only transformer on the text of Moby-Dick, byte by byte, with gradients accumulated over
//! micro-batches, and compares ways to hold the sum: f32, bf16, adaptive levels of 8, 4 and 2 bits, and exact counts.
//!
//! ```text
//! cargo run --release --example train_char_lm
//! cargo run --release --example train_char_lm -- --micro-batches 32 --json result.json
//! cargo run --release --features cuda --example train_char_lm -- --device cuda
//! cargo run --release --features cuda --example train_char_lm -- --device cuda --width 2048 --layers 22 \
//!     --dtype bf16 --release --moments 8 --ways 4 --alone --steps 8 --seeds 1
//! ```
//!
//! For each seed all ways start from the same weights and see the same text in the same order. The ternary ways update
//! the weights from levels and scales directly; f32 and bf16 go through candle's AdamW, whose arithmetic is the same.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

#[path = "../common/mod.rs"]
mod common;
mod memory;
mod method;
mod model;
mod tables;
mod text;
mod train;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use clap::{Parser, ValueEnum};
use common::plot::{Curve, lines};
use common::stats::mean;
use indicatif::{ProgressBar, ProgressStyle};
use method::Method;
use model::Size;
use serde_json::json;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use train::{Outcome, Plan};
use trigrad::candle::Activations;
use trigrad::op::BlockSize;
use trigrad::training::MomentFormat;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum On {
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Type {
    F32,
    Bf16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Moments {
    F32,
    #[value(name = "8")]
    Bits8,
}

/// A character-level language model with accumulated gradients: f32 and bf16 against ternary.
#[derive(Debug, Parser)]
struct Args {
    /// Write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Runs of each way, each with its own weights and order.
    #[arg(long, default_value = "3")]
    seeds: NonZeroUsize,
    /// The first of the seeds; the others follow it.
    #[arg(long, default_value = "0")]
    first_seed: u64,
    /// Steps of the optimizer [default: 200, or 100 on CUDA].
    #[arg(long)]
    steps: Option<NonZeroUsize>,
    /// Micro-batches a step.
    #[arg(long, default_value = "8")]
    micro_batches: NonZeroUsize,
    /// Elements that share a scale: a power of two from 32 to 4096.
    #[arg(long, default_value = "64")]
    block: u32,
    /// Windows of text a micro-batch [default: 4].
    #[arg(long)]
    windows: Option<NonZeroUsize>,
    /// Width of the model, a multiple of 64; where it is given, heads of 64 [default: 64 with heads of 32, or 768 on CUDA].
    #[arg(long)]
    width: Option<NonZeroUsize>,
    /// Layers [default: 2, or 14 on CUDA; 22 of width 2048 have 1.1 billion parameters].
    #[arg(long)]
    layers: Option<NonZeroUsize>,
    /// AdamW's step size at its highest [default: 0.003, or 0.0006 on CUDA].
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Where to train: a small model on the CPU, one of about 100 million parameters on CUDA.
    #[arg(long, value_enum, default_value = "cpu")]
    device: On,
    /// Write the loss curves to this file.
    #[arg(long, default_value = "train_char_lm.png")]
    png: PathBuf,
    /// The ways to hold the sum that are compared; f32 is always the first. 4+4 and 2+4: 4 or 2 bits, and what rounding
    /// lost in a residual of 4.
    #[arg(long, value_delimiter = ',', default_value = "f32,bf16,8,4,2,exact")]
    ways: Vec<Method>,
    /// Add gradients to levels and counts during the backward pass, and free them at once: the same losses, less memory.
    /// The ways f32 and bf16 stay as they are.
    #[arg(long)]
    release: bool,
    /// Each layer of the model with a backward pass of its own: of candle's gradients one layer's are held at a time. The
    /// ways f32 and bf16 stay as they are.
    #[arg(long)]
    segments: bool,
    /// The same, and activations are computed again for it instead of being kept.
    #[arg(long)]
    recompute: bool,
    /// The type of weights and activations, of all ways alike.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Type,
    /// How AdamW's moments are held, where the update is fused: 4 bytes each, or 8 bits. The ways f32 and bf16 stay as
    /// they are.
    #[arg(long, value_enum, default_value = "f32")]
    moments: Moments,
    /// Only the ways that are named, without f32 to compare them with: a model that does not fit otherwise.
    #[arg(long)]
    alone: bool,
    /// Windows of the text held back that the loss is measured on, five times a run.
    #[arg(long, default_value = "64")]
    validation: NonZeroUsize,
    /// Bytes of text the model sees at once [default: 32, or 256 on CUDA].
    #[arg(long)]
    context: Option<NonZeroUsize>,
    /// Another text.
    #[arg(long)]
    text: Option<PathBuf>,
}

/// All runs of one way.
struct Results {
    method: Method,
    runs: Vec<Outcome>,
    peak: Option<u64>,
}

impl Results {
    fn of(&self, f: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.runs.iter().map(f).collect()
    }

    fn losses(&self) -> Vec<f64> {
        self.of(|run| run.loss)
    }

    /// Share of the time spent adding, where it is known.
    fn share(&self) -> Option<f64> {
        let shares: Vec<f64> = self.runs.iter().filter_map(|run| run.share).collect();
        (!shares.is_empty()).then(|| mean(&shares))
    }

    /// Validation losses on the way, averaged over the seeds.
    fn curve(&self) -> Vec<(f64, f64)> {
        let points = self.runs.iter().map(|run| run.curve.len()).min().unwrap_or(0);
        (0..points).map(|i| (self.runs[0].curve[i].0 as f64, mean(&self.of(|run| run.curve[i].1)))).collect()
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let cuda = args.device == On::Cuda;
    let device = if cuda { Device::new_cuda(0).context("no CUDA device")? } else { Device::Cpu };
    #[cfg(feature = "cuda")]
    candle_core::cuda::set_gemm_reduced_precision_f32(true); // TF32, for all ways alike
    let text = text::Text::load(args.text.as_deref())?;
    let mut size = if cuda { Size::LARGE } else { Size::SMALL };
    size.batch = args.windows.map_or(size.batch, NonZeroUsize::get);
    size.context = args.context.map_or(size.context, NonZeroUsize::get);
    size.layers = args.layers.map_or(size.layers, NonZeroUsize::get);
    if let Some(width) = args.width {
        ensure!(width.get() % 64 == 0, "a width of {width} is not a multiple of 64");
        (size.width, size.heads) = (width.get(), width.get() / 64);
    }
    let steps = args.steps.map_or(if cuda { 100 } else { 200 }, NonZeroUsize::get);
    let (seeds, micro_batches) = (args.seeds.get(), args.micro_batches.get());
    let learning_rate = args.learning_rate.unwrap_or(if cuda { 6e-4 } else { 3e-3 });
    let block = BlockSize::new(args.block)?;
    let dtype = if args.dtype == Type::Bf16 { DType::BF16 } else { DType::F32 };
    let moments = if args.moments == Moments::Bits8 { MomentFormat::Bits8 } else { MomentFormat::F32 };
    let segments = match (args.segments, args.recompute) {
        (_, true) => Some(Activations::Recompute),
        (true, false) => Some(Activations::Keep),
        (false, false) => None,
    };
    let (release, validation) = (args.release, args.validation.get());
    let plan = Plan {
        text: &text,
        size,
        steps,
        micro_batches,
        block,
        learning_rate,
        device,
        dtype,
        release,
        segments,
        validation,
        moments,
    };
    let first = if args.alone { args.ways.first().context("no way is named")? } else { &Method::ALL[0] };
    let mut ways = vec![*first];
    ways.extend(args.ways.iter().filter(|way| *way != first));
    println!(
        "{} bytes of text, {} symbols; {steps} steps of {micro_batches} micro-batches of {} x {} bytes; {seeds} seeds",
        text.len(),
        text.symbols,
        size.batch,
        size.context,
    );
    let start = Instant::now();
    let results = run_all(&plan, &ways, args.first_seed, seeds, args.alone)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{}\n{}", tables::table(&results)?, tables::parts(&results));
    println!(
        "{} parameters. validation loss: nats a byte, mean and standard deviation over {seeds} seeds. to f32: mean \
         difference of the same seed and its standard error{}. adding: share of \
         the steps' time spent adding gradients. peak device memory: what a run took \
         beyond what was in use before; beyond weights, moments and the sum it is activations and gradients. {seconds:.0} s{}{}",
        results[0].runs[0].parameters,
        if args.alone { " (here: to the first way)" } else { "" },
        memory::process_peak().map_or(String::new(), |b| format!(", process peak {:.2} GB", b as f64 / 1e9)),
        memory::card(&plan.device)?
            .map_or(String::new(), |b| format!(", {:.2} GB of the card in use at the end", b as f64 / 1e9)),
    );
    let curve = |r: &Results| Curve { name: r.method.name(), points: r.curve() };
    let title = format!("Moby-Dick, {micro_batches} micro-batches a step, mean of {seeds} seeds");
    lines(&args.png, &title, "step", "validation loss", &results.iter().map(curve).collect::<Vec<_>>())
        .with_context(|| format!("can not write {}", args.png.display()))?;
    println!("loss curves: {}", args.png.display());
    if let Some(path) = &args.json {
        let all = json!({
            "example": "train_char_lm", "device": format!("{:?}", args.device).to_lowercase(), "steps": steps,
            "first_seed": args.first_seed, "seeds": seeds, "micro_batches": micro_batches, "block": args.block, "learning_rate": learning_rate, "micro_batch_windows": size.batch,
            "context": size.context, "validation_windows": validation, "layers": size.layers, "release": args.release,
            "segments": args.segments || args.recompute, "recompute": args.recompute,
            "moments": format!("{:?}", args.moments).to_lowercase(), "dtype": format!("{:?}", args.dtype).to_lowercase(), "card_bytes": memory::card(&plan.device)?,
            "width": size.width, "heads": size.heads, "seconds": seconds,
            "parameters": results[0].runs[0].parameters, "process_peak_bytes": memory::process_peak(),
            "methods": results.iter().map(|r| tables::report(r, &results[0])).collect::<Vec<_>>(),
        });
        std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")
            .with_context(|| format!("can not write {}", path.display()))?;
        println!("results: {}", path.display());
    }
    Ok(())
}

/// Every way with every seed: on the CPU one run a core at a time, each on one thread; on a card one after the other.
/// `tell`: what is validated, as it comes.
fn run_all(plan: &Plan<'_>, ways: &[Method], first_seed: u64, seeds: usize, tell: bool) -> Result<Vec<Results>> {
    let jobs: Vec<(u64, Method)> =
        (first_seed..first_seed.saturating_add(seeds as u64)).flat_map(|s| ways.iter().map(move |m| (s, *m))).collect();
    let bar = ProgressBar::new((jobs.len() * plan.steps) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:40} {percent:>3}% {elapsed} (left: {eta}) {msg}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        while let Some(&(seed, method)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            bar.set_message(format!("{}, seed {seed}", method.name()));
            let tick = |step: usize, loss: Option<f64>| {
                bar.inc(1);
                if let (true, Some(loss)) = (tell, loss) {
                    bar.suspend(|| println!("{}, seed {seed}, step {step}: loss {loss:.4}", method.name()));
                }
            };
            let run = || pool.install(|| train::run(plan, method, seed, tick));
            let (outcome, peak) = memory::peak(&plan.device, run)?;
            let outcome = outcome.with_context(|| format!("{}, seed {seed}", method.name()))?;
            // Hours of runs that are cut short have said this much.
            bar.suspend(|| println!("{}, seed {seed}: validation loss {:.4}", method.name(), outcome.loss));
            done.lock().map_err(|_| anyhow::anyhow!("another run panicked"))?.push((seed, method, outcome, peak));
        }
        Ok(())
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(jobs.len());
    let workers = if plan.device.is_cpu() { cores } else { 1 };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow::anyhow!("a run panicked"))?)
    })?;
    bar.finish_and_clear();
    let mut done = done.into_inner()?;
    done.sort_by_key(|(seed, ..)| *seed);
    let empty = |method| Results { method, runs: Vec::new(), peak: None };
    let mut results: Vec<Results> = ways.iter().copied().map(empty).collect();
    for (_, method, outcome, peak) in done {
        if let Some(r) = results.iter_mut().find(|r| r.method == method) {
            r.runs.push(outcome);
            r.peak = r.peak.max(peak);
        }
    }
    Ok(results)
}
