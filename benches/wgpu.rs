//! Time of the wgpu operations on the GPU, by timestamp queries, next to a plain copy on the same device.
//!
//! `cargo bench --bench wgpu --no-default-features --features wgpu -- [--log2 28] [--rounds 15] [--json PATH]`
//!
//! Each round runs the copy and every operation once, one submission each, between two timestamps; figures are
//! medians. The bytes of an operation are those that must move: its inputs once and its outputs once. Pipelines are
//! timed apart, by the host's clock: what the first call of each operation costs more than the second.
#![expect(clippy::print_stdout, reason = "a table is what this program is for")]

use clap::Parser;
use comfy_table::Table;
use half::bf16;
use std::time::Instant;
use trigrad::numerics::pack::words;
use trigrad::op::accumulate::{Adaptive, AdaptiveItem};
use trigrad::op::quantize::{Item, Quantize};
use trigrad::op::read_out::{self, ReadOut};
use trigrad::op::{BlockSize, Draw, Element, Grouping};
use trigrad::webgpu::{Buffer, Options, Reports, Wgpu};
use trigrad::{Backend, Memory};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

#[derive(Parser)]
struct Args {
    /// Elements, as a power of two.
    #[arg(long, default_value_t = 28)]
    log2: u32,
    /// Rounds.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// A part of the adapter's name, or `#` and its place.
    #[arg(long)]
    adapter: Option<String>,
    /// Do without 64-bit integers in shaders.
    #[arg(long)]
    no_int64: bool,
    /// Do without subgroups.
    #[arg(long)]
    no_subgroups: bool,
    /// Do without float estimates.
    #[arg(long)]
    no_estimates: bool,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Two timestamps around recorded work, in picoseconds; by the host's clock where the adapter has none.
struct Timer {
    gpu: Wgpu,
    queries: Option<(wgpu::QuerySet, wgpu::Buffer, wgpu::Buffer)>,
}

impl Timer {
    fn new(gpu: &Wgpu) -> Self {
        let device = gpu.device();
        let wanted = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS;
        let queries = device.features().contains(wanted).then(|| {
            let set = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            });
            let buffer = |usage| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: 256,
                    usage,
                    mapped_at_creation: false,
                })
            };
            let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
            (
                set,
                resolved,
                buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC),
            )
        });
        Timer { gpu: gpu.clone(), queries }
    }

    fn time(&self, work: impl FnOnce(&Wgpu) -> Result<()>) -> Result<f64> {
        let gpu = &self.gpu;
        gpu.wait()?;
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if let Some((set, ..)) = &self.queries {
            encoder.write_timestamp(set, 0);
        }
        let recorder = gpu.record(encoder);
        work(&recorder)?;
        let mut encoder = recorder.finish().ok_or("the encoder is gone")?;
        let Some((set, resolved, read)) = &self.queries else {
            let started = Instant::now();
            gpu.queue().submit([encoder.finish()]);
            gpu.wait()?;
            return Ok(started.elapsed().as_secs_f64() * 1e12);
        };
        encoder.write_timestamp(set, 1);
        encoder.resolve_query_set(set, 0..2, resolved, 0);
        encoder.copy_buffer_to_buffer(resolved, 0, read, 0, 16);
        gpu.queue().submit([encoder.finish()]);
        let ticks = gpu.download(trigrad::webgpu::View::<u64>::new(read, 0, 2)?)?;
        Ok(ticks[1].wrapping_sub(ticks[0]) as f64 * f64::from(gpu.queue().get_timestamp_period()) * 1e3)
    }
}

/// A tensor and everything its operations write.
struct Tensor<T> {
    x: Buffer<T>,
    planes: Buffer<u32>,
    plane_scales: Buffer<u16>,
    levels: Buffer<u32>,
    level_scales: Buffer<u16>,
    reports: Reports,
    n: usize,
}

impl<T: Element> Tensor<T> {
    /// Values spread over some magnitudes, the same piece again and again.
    fn new(gpu: &Wgpu, n: usize) -> Result<Self> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let piece: Vec<T> =
            (0..n.min(1 << 22)).map(|_| T::from_f32_bits((next() * next() * next()).to_bits())).collect();
        let piece = gpu.upload(&piece)?;
        let mut x = gpu.zeros::<T>(n)?;
        let step = Wgpu::len(&Wgpu::view(&piece));
        for at in (0..n).step_by(step) {
            let length = step.min(n - at);
            let part = Wgpu::slice_mut(Wgpu::view_mut(&mut x), at..at + length).ok_or("range")?;
            gpu.copy(Wgpu::slice(Wgpu::view(&piece), 0..length).ok_or("range")?, part)?;
        }
        let blocks = BlockSize::default().blocks(n);
        Ok(Tensor {
            x,
            planes: gpu.zeros(words(n, 2))?,
            plane_scales: gpu.zeros(blocks)?,
            levels: gpu.zeros(words(n, 4))?,
            level_scales: gpu.zeros(blocks)?,
            reports: gpu.reports(1)?,
            n,
        })
    }

    fn quantize(&mut self, gpu: &Wgpu, grouping: Grouping) -> Result<()> {
        let op = Quantize::stochastic(Draw::new(1, 2)).grouping(grouping);
        let scales = Wgpu::view_mut(&mut self.plane_scales);
        let item = Item {
            tensor: 0,
            first: 0,
            x: Wgpu::view(&self.x),
            words: Wgpu::view_mut(&mut self.planes),
            scales: Wgpu::slice_mut(scales, 0..grouping.groups(self.n)).ok_or("range")?,
            report: 0,
        };
        Ok(gpu.quantize(&op, &mut [item], &mut self.reports)?)
    }

    fn accumulate(&mut self, gpu: &Wgpu, micro_batch: u32) -> Result<()> {
        let draw = Draw::new(1, 2).micro_batch(micro_batch);
        let op = Adaptive { bits: 4, block: BlockSize::default(), draw, weight: 1.0 };
        let item = AdaptiveItem {
            tensor: 0,
            first: 0,
            x: Wgpu::view(&self.x),
            levels: Wgpu::view_mut(&mut self.levels),
            scales: Wgpu::view_mut(&mut self.level_scales),
            report: 0,
        };
        Ok(gpu.accumulate_adaptive(&op, &mut [item], &mut self.reports)?)
    }

    fn read_out(&mut self, gpu: &Wgpu, out: &mut Buffer<T>) -> Result<()> {
        let op = ReadOut { bits: 4, block: BlockSize::default(), factor: 0.125 };
        let item = read_out::Item {
            levels: Wgpu::view(&self.levels),
            scales: Wgpu::view(&self.level_scales),
            out: Wgpu::view_mut(out),
            guard: None,
        };
        Ok(gpu.read_out(&op, &mut [item], None)?)
    }
}

/// A row of the table: picoseconds of each round, and the bytes that must move.
struct Row {
    name: String,
    rounds: Vec<f64>,
    bytes: f64,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn measure<T: Element>(timer: &Timer, n: usize, rounds: usize, name: &str) -> Result<Vec<Row>> {
    let gpu = &timer.gpu;
    let mut tensor = Tensor::<T>::new(gpu, n)?;
    let mut copied = gpu.zeros::<T>(n)?;
    let size = size_of::<T>() as f64;
    let (count, scale) = (n as f64, 2.0 / 64.0);
    let row =
        |what: &str, bytes: f64| Row { name: format!("{what}, {name}"), rounds: Vec::new(), bytes: bytes * count };
    let mut rows = vec![
        row("copy", 2.0 * size),
        row("quantize, stochastic, block 64", size + 0.25 + scale),
        row("quantize, stochastic, block 256", size + 0.25 + scale / 4.0),
        row("quantize, stochastic, whole tensor", 2.0 * size + 0.25),
        row("accumulate, adaptive, 4 bits", size + 1.0 + 2.0 * scale),
        row("read out, 4 bits", size + 0.5 + scale),
    ];
    for round in 0..=rounds {
        let times = [
            timer.time(|g| Ok(g.copy(Wgpu::view(&tensor.x), Wgpu::view_mut(&mut copied))?))?,
            timer.time(|g| tensor.quantize(g, Grouping::default()))?,
            timer.time(|g| tensor.quantize(g, Grouping::Block(BlockSize::new(256)?)))?,
            timer.time(|g| tensor.quantize(g, Grouping::Tensor))?,
            timer.time(|g| tensor.accumulate(g, round as u32))?,
            timer.time(|g| tensor.read_out(g, &mut copied))?,
        ];
        // The first round makes the pipelines.
        if round > 0 {
            rows.iter_mut().zip(times).for_each(|(row, time)| row.rounds.push(time));
        }
    }
    Ok(rows)
}

/// Milliseconds that making each pipeline of a training step takes, one operation after the other.
fn pipelines(options: &Options) -> Result<Vec<(&'static str, f64)>> {
    let gpu = Wgpu::with(options)?;
    let mut tensor = Tensor::<f32>::new(&gpu, 64)?;
    let mut out = gpu.zeros::<f32>(64)?;
    let twice = |name, work: &mut dyn FnMut(&Wgpu) -> Result<()>| -> Result<(&'static str, f64)> {
        let mut once = || -> Result<f64> {
            let started = Instant::now();
            work(&gpu)?;
            gpu.wait()?;
            Ok(started.elapsed().as_secs_f64() * 1e3)
        };
        let (first, second) = (once()?, once()?);
        Ok((name, (first - second).max(0.0)))
    };
    Ok(vec![
        twice("accumulate, adaptive, 4 bits", &mut |g| tensor.accumulate(g, 0))?,
        twice("read out, 4 bits", &mut |g| tensor.read_out(g, &mut out))?,
    ])
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut options = Options::default();
    options.adapter.clone_from(&args.adapter);
    options.timestamps = true;
    (options.int64, options.subgroups) = (!args.no_int64, !args.no_subgroups);
    options.estimates = !args.no_estimates;
    let started = Instant::now();
    let gpu = match Wgpu::with(&options) {
        Ok(gpu) => gpu,
        Err(trigrad::Error::NoDevice { reason, .. }) => {
            println!("skipped: no adapter ({reason})");
            return Ok(());
        }
        Err(e) => return Err(e.into()),
    };
    let opened = started.elapsed().as_secs_f64() * 1e3;
    let info = gpu.adapter().clone();
    println!("{} ({:?}), {} {}", info.name, info.backend, info.driver, info.driver_info);
    println!("{}; opened and tried out in {opened:.0} ms", gpu.abilities());
    let made = pipelines(&options)?;
    for (name, time) in &made {
        println!("pipeline of {name}: {time:.1} ms");
    }
    let timer = Timer::new(&gpu);
    if timer.queries.is_none() {
        println!("no timestamp queries on this adapter: times are the host's, submission included");
    }
    let n = 1usize << args.log2;
    let mut table = Table::new();
    table.set_header([
        "2^".to_owned() + &args.log2.to_string() + " elements",
        "ps/element".into(),
        "GB/s".into(),
        "of copy".into(),
    ]);
    let mut figures = Vec::new();
    for rows in [measure::<f32>(&timer, n, args.rounds, "f32")?, measure::<bf16>(&timer, n, args.rounds, "bf16")?] {
        let speed = |row: &Row| row.bytes / median(&row.rounds) * 1e3;
        let copy = rows.first().map_or(f64::NAN, speed);
        for row in &rows {
            let time = median(&row.rounds) / n as f64;
            let share = speed(row) / copy;
            table.add_row([
                row.name.clone(),
                format!("{time:.3}"),
                format!("{:.0}", speed(row)),
                format!("{:.0}%", share * 100.0),
            ]);
            figures.push(serde_json::json!({
                "operation": row.name, "ps_per_element": time, "gb_per_s": speed(row), "share_of_copy": share,
                "elements": n, "rounds": row.rounds.len(),
            }));
        }
    }
    println!("{table}");
    if let Some(path) = &args.json {
        let pipelines: Vec<_> =
            made.iter().map(|(name, ms)| serde_json::json!({ "operation": name, "ms": ms })).collect();
        let all = serde_json::json!({
            "adapter": info.name, "backend": format!("{:?}", info.backend), "driver": info.driver_info,
            "abilities": gpu.abilities(), "open_ms": opened, "pipelines": pipelines, "figures": figures,
        });
        std::fs::write(path, serde_json::to_string_pretty(&all)?)?;
    }
    Ok(())
}
