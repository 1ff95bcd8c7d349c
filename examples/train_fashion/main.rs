//! Trains a small network on Fashion-MNIST with gradients accumulated over 8 micro-batches, and compares ways to hold
//! the sum: f32, adaptive ternary levels of 8, 4 and 2 bits, and exact counts of trits.
//!
//! ```text
//! cargo run --release --example train_fashion
//! cargo run --release --example train_fashion -- --seeds 20 --json result.json
//! cargo run --release --features cuda --example train_fashion -- --device cuda
//! cargo run --release --features wgpu --example train_fashion -- --device wgpu
//! ```
//!
//! For each seed all ways start from the same weights and see the same images in the same order, so their
//! differences are taken seed by seed. With `--seeds 20` the standard error of the difference is well under 0.3
//! points.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

#[path = "../common/mod.rs"]
mod common;
mod data;
mod method;
mod train;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use clap::{Parser, ValueEnum};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use common::plot::{Curve, lines};
use common::stats::{mean, paired, spread};
use indicatif::{ProgressBar, ProgressStyle};
use method::{Method, Place};
use serde_json::json;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use train::{K, LEARNING_RATE, MICRO_BATCH, Outcome};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum On {
    Cpu,
    /// All of it on an NVIDIA card.
    #[cfg(feature = "cuda")]
    Cuda,
    /// The network on the CPU, the sums on the GPU that wgpu finds.
    #[cfg(feature = "wgpu")]
    Wgpu,
}

/// Fashion-MNIST with accumulated gradients: f32 against ternary.
#[derive(Debug, Parser)]
struct Args {
    /// Write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Runs of each way, each with its own weights and order.
    #[arg(long, default_value = "3")]
    seeds: NonZeroUsize,
    /// Times through the training images [default: 10, or 1 with the whole set].
    #[arg(long)]
    epochs: Option<NonZeroUsize>,
    /// Where to train.
    #[arg(long, value_enum, default_value = "cpu")]
    device: On,
    /// Write the loss curves to this file.
    #[arg(long, default_value = "train_fashion.png")]
    png: PathBuf,
    /// A folder with the four files of Fashion-MNIST [default: /usr/share/datasets/fashion-mnist where it is
    /// installed, else the 10,000 images that come with this example].
    #[arg(long)]
    data: Option<PathBuf>,
}

/// All runs of one way.
struct Results {
    method: Method,
    runs: Vec<Outcome>,
}

impl Results {
    fn of(&self, f: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.runs.iter().map(f).collect()
    }

    fn accuracies(&self) -> Vec<f64> {
        self.of(|run| run.accuracy)
    }

    /// The loss of each step, averaged over the seeds and over the steps around it.
    fn curve(&self, window: usize) -> Vec<(f64, f64)> {
        let steps = self.runs.iter().map(|run| run.losses.len()).min().unwrap_or(0);
        let losses: Vec<f64> = (0..steps).map(|i| mean(&self.of(|run| run.losses[i]))).collect();
        let chunks = losses.chunks_exact(window.max(1)).enumerate();
        chunks.map(|(i, chunk)| ((i as f64 + 0.5) * chunk.len() as f64, mean(chunk))).collect()
    }
}

/// candle reads how many threads it may use from the environment, and two runs that share its pool wait for each
/// other; so the runs are given one thread each, in a process that is told so from its start.
fn main() -> Result<ExitCode> {
    const THREADS: [&str; 2] = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];
    let args = Args::parse();
    if THREADS.iter().all(|name| std::env::var_os(name).is_some()) {
        return compare(&args).map(|()| ExitCode::SUCCESS);
    }
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).envs(THREADS.map(|name| (name, "1")));
    let code = again.status().context("can not start the runs")?.code();
    Ok(code.and_then(|c| u8::try_from(c).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn place(on: On) -> Result<Place> {
    match on {
        On::Cpu => Ok(Place {
            device: Device::Cpu,
            #[cfg(feature = "wgpu")]
            gpu: None,
        }),
        #[cfg(feature = "cuda")]
        On::Cuda => Ok(Place {
            device: Device::new_cuda(0).context("no CUDA device")?,
            #[cfg(feature = "wgpu")]
            gpu: None,
        }),
        #[cfg(feature = "wgpu")]
        On::Wgpu => {
            let gpu = trigrad::webgpu::Wgpu::new()?;
            println!("sums on {} ({:?}), {}", gpu.adapter().name, gpu.adapter().backend, gpu.abilities());
            Ok(Place { device: Device::Cpu, gpu: Some(gpu) })
        }
    }
}

fn compare(args: &Args) -> Result<()> {
    let place = place(args.device)?;
    let data = data::load(args.data.as_deref())?;
    let epochs = args.epochs.map_or(if data.train.len() > 10_000 { 1 } else { 10 }, NonZeroUsize::get);
    let seeds = args.seeds.get();
    let steps = epochs * (data.train.len() / (K * MICRO_BATCH));
    ensure!(steps > 0, "{} images are fewer than one step takes", data.train.len());
    println!(
        "Fashion-MNIST from {}: {} images to train on, {} to test on; {epochs} epochs of {} steps of {K} micro-batches \
         of {MICRO_BATCH}; {seeds} seeds",
        data.source,
        data.train.len(),
        data.test.len(),
        steps / epochs,
    );

    let start = Instant::now();
    let results = run_all(&data, epochs, seeds, steps, &place)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", table(&results)?);
    println!(
        "accuracy: percent of test images, mean and standard deviation over {seeds} seeds. to f32: mean difference of \
         the same seed and its standard error. time: share of the steps spent accumulating and reading out. \
         {seconds:.0} s"
    );

    let window = (steps / 100).max(1);
    let curve = |r: &Results| Curve { name: r.method.name(), points: r.curve(window) };
    let curves: Vec<Curve> = results.iter().map(curve).collect();
    let title = format!("Fashion-MNIST, {K} micro-batches of {MICRO_BATCH} a step, mean of {seeds} seeds");
    lines(&args.png, &title, "step", "training loss", &curves)
        .with_context(|| format!("can not write {}", args.png.display()))?;
    println!("loss curves: {}", args.png.display());
    if let Some(path) = &args.json {
        let all = json!({
            "example": "train_fashion", "source": data.source, "train_images": data.train.len(),
            "test_images": data.test.len(), "epochs": epochs, "seeds": seeds, "micro_batches": K,
            "micro_batch_size": MICRO_BATCH, "learning_rate": LEARNING_RATE, "seconds": seconds,
            "device": format!("{:?}", args.device).to_lowercase(),
            "methods": results.iter().map(|r| report(r, &results[0], window)).collect::<Vec<_>>(),
        });
        std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")
            .with_context(|| format!("can not write {}", path.display()))?;
        println!("results: {}", path.display());
    }
    Ok(())
}

/// Every way with every seed: one run a core at a time, each on one thread; on a card one after the other.
fn run_all(data: &data::Data, epochs: usize, seeds: usize, steps: usize, place: &Place) -> Result<Vec<Results>> {
    let jobs: Vec<(u64, Method)> = (0..seeds as u64).flat_map(|s| Method::ALL.map(|m| (s, m))).collect();
    let bar = ProgressBar::new((jobs.len() * steps) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:40} {percent:>3}% {elapsed} (left: {eta}) {msg}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        while let Some(&(seed, method)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            bar.set_message(format!("{}, seed {seed}", method.name()));
            let outcome = pool
                .install(|| train::run(method, seed, epochs, &data.train, &data.test, place, || bar.inc(1)))
                .with_context(|| format!("{}, seed {seed}", method.name()))?;
            done.lock().map_err(|_| anyhow::anyhow!("another run panicked"))?.push((seed, method, outcome));
        }
        Ok(())
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(jobs.len());
    let workers = if place.device.is_cpu() { cores } else { 1 };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow::anyhow!("a run panicked"))?)
    })?;
    bar.finish_and_clear();
    let mut done = done.into_inner()?;
    done.sort_by_key(|(seed, _, _)| *seed);
    let mut results: Vec<Results> = Method::ALL.map(|method| Results { method, runs: Vec::new() }).into();
    for (_, method, outcome) in done {
        if let Some(r) = results.iter_mut().find(|r| r.method == method) {
            r.runs.push(outcome);
        }
    }
    Ok(results)
}

fn table(results: &[Results]) -> Result<Table> {
    let f32s = results.first().context("no results")?.accuracies();
    let several = f32s.len() > 1;
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "accumulated in",
        "test accuracy",
        "to f32",
        "final loss",
        "bytes a parameter",
        "time",
        "clipped",
    ]);
    for r in results {
        let accuracies = r.accuracies();
        let (difference, error) = paired(&accuracies, &f32s);
        let with = |x: f64, e: f64| if several { format!("{x:.2} ± {e:.2}") } else { format!("{x:.2}") };
        let loss = r.of(|run| mean(&run.losses[run.losses.len() - run.losses.len().min(50)..]));
        table.add_row([
            r.method.name(),
            with(mean(&accuracies), spread(&accuracies)),
            if r.method == Method::F32 { String::new() } else { with(difference, error) },
            format!("{:.3}", mean(&loss)),
            format!("{:.3}", mean(&r.of(|run| run.bytes_per_parameter))),
            format!("{:.1}%", 100.0 * mean(&r.of(|run| run.share))),
            if r.method == Method::Exact {
                format!("{:.2}%", 100.0 * mean(&r.of(|run| run.clipped)))
            } else {
                String::new()
            },
        ]);
    }
    table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    Ok(table)
}

fn report(r: &Results, f32s: &Results, window: usize) -> serde_json::Value {
    let accuracies = r.accuracies();
    let (difference, error) = paired(&accuracies, &f32s.accuracies());
    json!({
        "method": r.method.name(), "accuracies": accuracies, "accuracy": mean(&accuracies),
        "spread": spread(&accuracies), "difference_to_f32": difference, "standard_error": error,
        "bytes_per_parameter": mean(&r.of(|run| run.bytes_per_parameter)), "time_share": mean(&r.of(|run| run.share)),
        "clipped": mean(&r.of(|run| run.clipped)), "loss": r.curve(window),
    })
}
