//! A model of about a billion parameters on one card: what its accumulator holds, and what its calls take, against a
//! device-to-device copy and one tensor of as many elements in the same run.
//!
//! `cargo bench --no-default-features --features cuda --bench training -- [--layers 20] [--width 2048] [--rounds 15] [--json PATH]`
//!
//! What is timed: the card. Device events lie around each call, and no round is waited for before all are queued, so that the host
//! is ahead, as it is while a model's backward pass runs; median of the rounds after three that warm up. Beside it stands what one
//! call on an idle card takes until it is done, by the host's clock: what the host does before the first launch is part of that.
//! Bytes: each input read once, each output written once. Bytes held are the driver's count.
#![expect(clippy::print_stdout, reason = "a table is what this program is for")]

use anyhow::{Context as _, Result};
use clap::Parser;
use comfy_table::{CellAlignment, Table};
use cudarc::driver::sys::CUevent_flags;
use half::bf16;
use std::num::NonZeroUsize;
use std::time::Instant;
use trigrad::accumulator::{Accumulator, Config, Floats, Format, Held, Id, Reduce, Spec};
use trigrad::cuda::{Buffer, Cuda};
use trigrad::numerics::reduce::SUM_WORDS;
use trigrad::numerics::update::{AdamWTerms, SgdTerms};
use trigrad::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};
use trigrad::op::{Draw, Element, ElementType};
use trigrad::{Backend, Memory};

#[derive(Parser)]
struct Args {
    /// Layers of the transformer.
    #[arg(long, default_value = "20")]
    layers: NonZeroUsize,
    /// Its width.
    #[arg(long, default_value = "2048")]
    width: NonZeroUsize,
    /// Measured rounds.
    #[arg(long, default_value = "15")]
    rounds: NonZeroUsize,
    /// Where to write the figures.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A line of the table.
#[derive(serde::Serialize)]
struct Figure {
    name: String,
    elements: u64,
    bytes_per_element: f64,
    milliseconds: f64,
    fastest: f64,
    slowest: f64,
    /// Milliseconds of a call on an idle card until it is done, the host's part included.
    alone: f64,
    gb_per_second: f64,
    share_of_copy: f64,
}

struct Bench {
    cuda: Cuda,
    rounds: usize,
    /// Bytes a second, read plus written.
    copy: f64,
    figures: Vec<Figure>,
}

impl Bench {
    /// Milliseconds of one call on the card while the host is ahead, sorted.
    fn time(&self, call: &mut impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
        let context = self.cuda.stream().context();
        let event = || context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        let mut events = Vec::with_capacity(self.rounds + 3);
        for _ in 0..self.rounds + 3 {
            events.push((event()?, event()?));
        }
        for (begin, end) in &events {
            begin.record(self.cuda.stream())?;
            call()?;
            end.record(self.cuda.stream())?;
        }
        let mut times = Vec::with_capacity(self.rounds);
        for (begin, end) in &events[3..] {
            times.push(f64::from(begin.elapsed_ms(end)?));
        }
        times.sort_by(f64::total_cmp);
        Ok(times)
    }

    /// Milliseconds of one call on an idle card until it is done, by the host's clock: the median.
    fn time_alone(&self, call: &mut impl FnMut() -> Result<()>) -> Result<f64> {
        let mut times = Vec::with_capacity(self.rounds);
        for _ in 0..self.rounds {
            self.cuda.synchronize()?;
            let start = Instant::now();
            call()?;
            self.cuda.synchronize()?;
            times.push(1e3 * start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    fn row(&mut self, name: &str, elements: usize, bytes: f64, mut call: impl FnMut() -> Result<()>) -> Result<()> {
        let times = self.time(&mut call).with_context(|| name.to_owned())?;
        let alone = self.time_alone(&mut call).with_context(|| name.to_owned())?;
        let (milliseconds, fastest, slowest) = (times[times.len() / 2], times[0], times[times.len() - 1]);
        let rate = elements as f64 * bytes / milliseconds * 1e3;
        self.figures.push(Figure {
            name: name.to_owned(),
            elements: elements as u64,
            bytes_per_element: bytes,
            milliseconds,
            fastest,
            slowest,
            alone,
            gb_per_second: rate / 1e9,
            share_of_copy: rate / self.copy,
        });
        Ok(())
    }
}

/// The tensors of a decoder-only transformer with biases, its embedding shared with its output.
fn model(layers: usize, width: usize) -> Vec<Spec> {
    let mut specs = vec![Spec::new("embed", [50_304, width]), Spec::new("norm", [width])];
    for i in 0..layers {
        for (name, shape) in [
            ("attention.norm", vec![width]),
            ("attention.in", vec![width, 3 * width]),
            ("attention.in.bias", vec![3 * width]),
            ("attention.out", vec![width, width]),
            ("attention.out.bias", vec![width]),
            ("feed.norm", vec![width]),
            ("feed.up", vec![width, 4 * width]),
            ("feed.up.bias", vec![4 * width]),
            ("feed.down", vec![4 * width, width]),
            ("feed.down.bias", vec![width]),
        ] {
            specs.push(Spec::new(format!("layer.{i}.{name}"), shape));
        }
    }
    specs
}

fn gaussian(n: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut unit = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 + 0.5) / 16_777_216.0
    };
    (0..n).map(|_| 1e-3 * (-2.0 * unit().ln()).sqrt() * (std::f32::consts::TAU * unit()).cos()).collect()
}

/// Tensors on the card: a Gaussian sample of 2^22 again and again.
fn tensors<T: Element>(cuda: &Cuda, lengths: &[usize]) -> Result<Vec<Buffer<T>>> {
    let sample: Vec<T> = gaussian(1 << 22).iter().map(|x| T::from_f32_bits(x.to_bits())).collect();
    let sample = cuda.upload(&sample)?;
    let fill = |&n: &usize| {
        let mut all = cuda.zeros::<T>(n)?;
        let mut at = 0;
        while at < n {
            let many = (1 << 22).min(n - at);
            let from = Cuda::slice(Cuda::view(&sample), 0..many).context("sample")?;
            cuda.copy(from, Cuda::slice_mut(Cuda::view_mut(&mut all), at..at + many).context("buffer")?)?;
            at += many;
        }
        Ok(all)
    };
    lengths.iter().map(fill).collect()
}

fn config(bits: u32) -> Config {
    Config { format: Format::Adaptive { bits }, seed: 7, ..Config::default() }
}

const SCALES: f64 = 2.0 / 64.0;

/// Accumulates a model's gradients of one type: bytes held, a whole call, and one tensor of as many elements.
fn accumulate<T: Element>(
    bench: &mut Bench,
    kind: &str,
    bits: u32,
    specs: &[Spec],
    floats: impl for<'a> Fn(&'a Buffer<T>) -> Floats<'a, Cuda>,
) -> Result<()> {
    let lengths = specs.iter().map(Spec::elements).collect::<trigrad::Result<Vec<_>>>()?;
    let n: usize = lengths.iter().sum();
    let bytes = size_of::<T>() as f64 + f64::from(bits) / 4.0 + 2.0 * SCALES;
    let label = format!("accumulate, {bits} bits, {kind}");
    for (what, specs) in [("one tensor", vec![Spec::new("all", [n])]), ("the model", specs.to_vec())] {
        let lengths = specs.iter().map(Spec::elements).collect::<trigrad::Result<Vec<_>>>()?;
        let gradients = tensors::<T>(&bench.cuda, &lengths)?;
        let before = bench.cuda.in_use()?.now;
        let mut sum = Accumulator::new(bench.cuda.clone(), &specs, config(bits))?;
        let held = bench.cuda.in_use()?.now - before;
        let list: Vec<(Id<'_>, Floats<'_, Cuda>)> =
            gradients.iter().enumerate().map(|(i, x)| (Id::Index(i), floats(x))).collect();
        sum.accumulate(&list, 1.0)?;
        bench.cuda.reset_peak()?;
        let before = bench.cuda.in_use()?.now;
        bench
            .row(&format!("{label}, {what} ({} tensors)", specs.len()), n, bytes, || Ok(sum.accumulate(&list, 1.0)?))?;
        let temporary = bench.cuda.in_use()?.peak - before;
        println!(
            "{label}, {what}: {held} bytes held, {:.4} a parameter by the driver, {:.4} by the buffers; \
             {temporary} bytes more at the peak of {} calls",
            held as f64 / n as f64,
            sum.bytes_held() as f64 / n as f64,
            2 * bench.rounds + 3,
        );
        anyhow::ensure!(sum.found()?.non_finite == 0, "the data has nothing out of range, yet something was found");
        if T::TYPE == ElementType::Bf16 {
            let mut sums = bench.cuda.zeros::<u32>(SUM_WORDS)?;
            let name = format!("norm, {bits} bits, {what} ({} tensors)", specs.len());
            bench.row(&name, n, f64::from(bits) / 8.0 + SCALES, || {
                Ok(sum.queue_squared_norm(Cuda::view_mut(&mut sums))?)
            })?;
        }
    }
    Ok(())
}

/// Updates the weights of a model from 4-bit sums: AdamW and SGD with momentum.
fn update<T: Element>(bench: &mut Bench, kind: &str, specs: &[Spec]) -> Result<()> {
    let cuda = bench.cuda.clone();
    let lengths = specs.iter().map(Spec::elements).collect::<trigrad::Result<Vec<_>>>()?;
    let n: usize = lengths.iter().sum();
    let mut sum = Accumulator::new(cuda.clone(), specs, config(4))?;
    {
        let gradients = tensors::<bf16>(&cuda, &lengths)?;
        let list: Vec<(Id<'_>, Floats<'_, Cuda>)> =
            gradients.iter().enumerate().map(|(i, x)| (Id::Index(i), Floats::Bf16(Cuda::view(x)))).collect();
        for _ in 0..4 {
            sum.accumulate(&list, 1.0)?;
        }
    }
    let mut weights = tensors::<T>(&cuda, &lengths)?;
    let zeros = || lengths.iter().map(|&n| cuda.zeros::<f32>(n)).collect::<trigrad::Result<Vec<_>>>();
    let (mut first, mut second) = (zeros()?, zeros()?);
    let factor = sum.factor(Reduce::Mean)?;
    let source = Source { bits: 4, block: sum.config().block, factor, draw: Draw::new(7, 0) };
    let gradient = |i: usize| -> Result<Gradient<'_, Cuda>> {
        match sum.held(i)? {
            Held::Levels { levels, scales, .. } => Ok(Gradient::Packed { levels, scales }),
            Held::F32(x) => Ok(Gradient::Dense(x)),
        }
    };
    let mut reports = cuda.reports(1)?;
    let size = size_of::<T>() as f64;
    let mut t = 0;
    bench.row(&format!("AdamW, 4 bits, {kind} weights"), n, 0.5 + SCALES + 2.0 * (size + 8.0), || {
        t += 1;
        let terms = AdamWTerms::new(1e-3, (0.9, 0.999), 1e-8, 0.01, t);
        let mut items = Vec::with_capacity(weights.len());
        for (i, ((weights, m), v)) in weights.iter_mut().zip(&mut first).zip(&mut second).enumerate() {
            items.push(AdamWItem {
                tensor: i as u32,
                first: 0,
                gradient: gradient(i)?.shorten(),
                weights: Cuda::view_mut(weights),
                first_moment: Cuda::view_mut(m),
                second_moment: Cuda::view_mut(v),
                report: 0,
            });
        }
        Ok(cuda.update_adamw(&AdamW { source, terms }, &mut items, None, &mut reports)?)
    })?;
    bench.row(&format!("SGD with momentum, 4 bits, {kind} weights"), n, 0.5 + SCALES + 2.0 * (size + 4.0), || {
        let terms = SgdTerms { learning_rate: 1e-3, momentum: 0.9, weight_decay: 0.0 };
        let mut items = Vec::with_capacity(weights.len());
        for (i, (weights, m)) in weights.iter_mut().zip(&mut first).enumerate() {
            items.push(SgdItem {
                tensor: i as u32,
                first: 0,
                gradient: gradient(i)?.shorten(),
                weights: Cuda::view_mut(weights),
                momentum: Some(Cuda::view_mut(m)),
                report: 0,
            });
        }
        Ok(cuda.update_sgd(&Sgd { source, terms, nesterov: false }, &mut items, None, &mut reports)?)
    })?;
    anyhow::ensure!(cuda.read_reports(&reports)?[0].non_finite == 0, "a weight or state that would not be finite");
    Ok(())
}

fn card() -> String {
    let query = "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit";
    std::process::Command::new("nvidia-smi").args([query, "--format=csv,noheader"]).output().ok().map_or_else(
        || "nvidia-smi says nothing".to_owned(),
        |out| String::from_utf8_lossy(&out.stdout).trim().to_owned(),
    )
}

fn main() -> Result<()> {
    let args = Args::parse();
    let cuda = Cuda::new(0)?;
    let specs = model(args.layers.get(), args.width.get());
    let elements = specs.iter().map(Spec::elements).sum::<trigrad::Result<usize>>()?;
    println!("{}\n{} parameters in {} tensors, {} rounds", card(), elements, specs.len(), args.rounds);
    let mut bench = Bench { cuda: cuda.clone(), rounds: args.rounds.get(), copy: 1.0, figures: Vec::new() };
    {
        let from = tensors::<f32>(&cuda, &[elements])?;
        let mut to = cuda.zeros::<f32>(elements)?;
        let times = bench.time(&mut || Ok(cuda.copy(Cuda::view(&from[0]), Cuda::view_mut(&mut to))?))?;
        bench.copy = elements as f64 * 8.0 / times[times.len() / 2] * 1e3;
        println!("device-to-device copy: {:.1} GB/s", bench.copy / 1e9);
    }
    accumulate::<f32>(&mut bench, "f32", 4, &specs, |x| Floats::F32(Cuda::view(x)))?;
    accumulate::<bf16>(&mut bench, "bf16", 4, &specs, |x| Floats::Bf16(Cuda::view(x)))?;
    accumulate::<f32>(&mut bench, "f32", 8, &specs, |x| Floats::F32(Cuda::view(x)))?;
    update::<f32>(&mut bench, "f32", &specs)?;
    update::<bf16>(&mut bench, "bf16", &specs)?;
    let mut table = Table::new();
    table.set_header(["operation", "bytes", "GB/s", "share of copy", "ms (fastest to slowest)", "ms alone until done"]);
    for f in &bench.figures {
        table.add_row([
            f.name.clone(),
            format!("{:.3}", f.bytes_per_element),
            format!("{:.0}", f.gb_per_second),
            format!("{:.1}%", 100.0 * f.share_of_copy),
            format!("{:.4} ({:.4} to {:.4})", f.milliseconds, f.fastest, f.slowest),
            format!("{:.4}", f.alone),
        ]);
    }
    table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    println!("{table}");
    if let Some(path) = &args.json {
        let all = serde_json::json!({ "card": card(), "copy_bytes_per_second": bench.copy, "parameters": elements, "figures": bench.figures });
        std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
    }
    Ok(())
}
