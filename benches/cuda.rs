//! Time of every CUDA operation against a device-to-device copy measured in the same run.
//!
//! `cargo bench --no-default-features --features cuda --bench cuda -- [--log-n 29] [--rounds 15] [--sweep] [--only TEXT] [--json PATH]`
//!
//! Device events around each call (lists: around eight, as the host prepares one while the card works on another; the
//! lines above the table give the host's time), median of the rounds after three that warm up. Inputs are Gaussian and far larger
//! than the L2 cache. Bytes: each input read once (twice for one scale a tensor or row), each output written once.
#![expect(clippy::print_stdout, reason = "a table is what this program is for")]

use anyhow::{Context as _, Result};
use clap::Parser;
use comfy_table::{CellAlignment, Table};
use cudarc::driver::{CudaEvent, sys::CUevent_flags};
use half::{bf16, f16};
use std::time::Instant;
use trigrad::cuda::{Buffer, Cuda, Reports};
use trigrad::numerics::pack::words;
use trigrad::numerics::reduce::SUM_WORDS;
use trigrad::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, F32, F32Item};
use trigrad::op::check::{self, Check};
use trigrad::op::dequantize::{self, Dequantize};
use trigrad::op::quantize::{self, Quantize, Threshold};
use trigrad::op::read_out::{self, ReadOut, ReadOutF32};
use trigrad::op::reduce::{
    CountNonzero, CountNonzeroItem, Dot, DotItem, SquaredNorm, SquaredNormF32, SquaredNormF32Item, SquaredNormItem,
};
use trigrad::op::window::{Look, LookItem, Merge, MergeItem, WindowScales, WindowScalesItem};
use trigrad::op::{BlockSize, Draw, Element, Grouping};
use trigrad::{Backend, Memory};

#[derive(Parser)]
struct Args {
    /// Elements: 2 to this.
    #[arg(long, default_value_t = 29)]
    log_n: u32,
    /// Measured rounds.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Also time against size: every power of two from 2^10 to one above `--log-n`.
    #[arg(long)]
    sweep: bool,
    /// Only rows whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// The card.
    #[arg(long, default_value_t = 0)]
    device: usize,
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
    ps_per_element: f64,
    gb_per_second: f64,
    share_of_copy: f64,
}

struct Bench {
    cuda: Cuda,
    args: Args,
    events: (CudaEvent, CudaEvent),
    /// Bytes a second, read plus written.
    copy: f64,
    figures: Vec<Figure>,
}

impl Bench {
    /// Milliseconds of one call of `calls` one after the other: median, fastest, slowest.
    fn time(&self, calls: u32, mut call: impl FnMut() -> Result<()>) -> Result<(f64, f64, f64)> {
        let mut times = Vec::with_capacity(self.args.rounds);
        for round in 0..self.args.rounds + 3 {
            if calls > 1 {
                // So that the host is one call ahead when the clock starts, and its own time is not in the card's.
                call()?;
            }
            self.events.0.record(self.cuda.stream())?;
            for _ in 0..calls {
                call()?;
            }
            self.events.1.record(self.cuda.stream())?;
            let ms = f64::from(self.events.0.elapsed_ms(&self.events.1)?) / f64::from(calls);
            if round >= 3 {
                times.push(ms);
            }
        }
        times.sort_by(f64::total_cmp);
        Ok((times[times.len() / 2], times[0], times[times.len() - 1]))
    }

    fn row(&mut self, name: &str, elements: usize, bytes: f64, call: impl FnMut() -> Result<()>) -> Result<()> {
        self.row_of_calls(1, name, elements, bytes, call)
    }

    /// A row timed over several calls one after the other, so that the host prepares one while the card works on the
    /// one before.
    fn row_of_calls(
        &mut self,
        calls: u32,
        name: &str,
        elements: usize,
        bytes: f64,
        call: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        if !name.contains(&self.args.only) {
            return Ok(());
        }
        let (ms, fastest, slowest) = self.time(calls, call).with_context(|| name.to_owned())?;
        let n = elements as f64;
        let rate = n * bytes / ms * 1e3;
        self.figures.push(Figure {
            name: name.to_owned(),
            elements: elements as u64,
            bytes_per_element: bytes,
            milliseconds: ms,
            fastest,
            slowest,
            ps_per_element: ms * 1e9 / n,
            gb_per_second: rate / 1e9,
            share_of_copy: rate / self.copy,
        });
        Ok(())
    }
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

/// `n` elements on the card: a Gaussian sample of 2^22 again and again.
fn data<T: Element>(cuda: &Cuda, n: usize) -> Result<Buffer<T>> {
    let sample: Vec<T> = gaussian(n.min(1 << 22)).iter().map(|x| T::from_f32_bits(x.to_bits())).collect();
    let sample = cuda.upload(&sample)?;
    let mut all = cuda.zeros::<T>(n)?;
    let mut at = 0;
    while at < n {
        let many = sample.len().min(n - at);
        let from = Cuda::slice(Cuda::view(&sample), 0..many).context("sample")?;
        let to = Cuda::slice_mut(Cuda::view_mut(&mut all), at..at + many).context("buffer")?;
        cuda.copy(from, to)?;
        at += many;
    }
    Ok(all)
}

fn draw() -> Draw {
    Draw::new(12345, 3).micro_batch(5)
}

/// What quantize, accumulate and read out need for `n` elements.
struct Buffers {
    planes: Buffer<u32>,
    levels: Buffer<u32>,
    scales: Buffer<u16>,
    seen: Buffer<u16>,
    reports: Reports,
}

const BLOCK: f64 = 64.0;

/// As many elements as make whole rows.
fn whole_rows(op: &Quantize, n: usize) -> usize {
    match op.grouping {
        Grouping::Row(length) => n - n % length as usize,
        _ => n,
    }
}

fn forward<T: Element>(bench: &mut Bench, kind: &str, n: usize, buffers: &mut Buffers) -> Result<()> {
    let cuda = bench.cuda.clone();
    let size = size_of::<T>() as f64;
    let x = data::<T>(&cuda, n)?;
    let blocks = |b: u32| BlockSize::new(b).map(Grouping::Block);
    let quantize = |op: &Quantize, b: &mut Buffers| -> Result<()> {
        let n = whole_rows(op, n);
        let groups = op.grouping.groups(n);
        let scales = Cuda::slice_mut(Cuda::view_mut(&mut b.scales), 0..groups).context("scales")?;
        let words = Cuda::slice_mut(Cuda::view_mut(&mut b.planes), 0..words(n, 2)).context("planes")?;
        let x = Cuda::slice(Cuda::view(&x), 0..n).context("elements")?;
        let item = quantize::Item { tensor: 0, first: 0, x, words, scales, report: 0 };
        Ok(cuda.quantize(op, &mut [item], &mut b.reports)?)
    };
    let stochastic = Quantize::stochastic(draw());
    let twn = Quantize::threshold(Threshold::TWN);
    for (name, op, bytes) in [
        ("quantize stochastic, block 64", stochastic, size + 0.25 + 2.0 / 64.0),
        ("quantize stochastic, block 256", stochastic.grouping(blocks(256)?), size + 0.25 + 2.0 / 256.0),
        ("quantize stochastic, block 4096", stochastic.grouping(blocks(4096)?), size + 0.25 + 2.0 / 4096.0),
        ("quantize threshold 0.7 mean, block 64", twn, size + 0.25 + 2.0 / 64.0),
        ("quantize threshold given, block 64", Quantize::threshold(Threshold::Given(1e-3)), size + 0.25 + 2.0 / 64.0),
        ("quantize clipped at 2.5 sigma, block 64", stochastic.clip(2.5), size + 0.25 + 2.0 / 64.0),
        ("quantize stochastic, tensor", stochastic.grouping(Grouping::Tensor), 2.0 * size + 0.25),
        ("quantize stochastic, rows of 1024", stochastic.grouping(Grouping::Row(1024)), size + 0.25 + 2.0 / 1024.0),
        ("quantize stochastic, rows of 3072", stochastic.grouping(Grouping::Row(3072)), 2.0 * size + 0.25),
        ("quantize stochastic, rows of 11008", stochastic.grouping(Grouping::Row(11_008)), 2.0 * size + 0.25),
        ("quantize threshold 0.7 mean, tensor", twn.grouping(Grouping::Tensor), 2.0 * size + 0.25),
    ] {
        bench.row(&format!("{name}, {kind}"), whole_rows(&op, n), bytes, || quantize(&op, buffers))?;
    }

    for bits in [2, 4, 8] {
        cuda.clear(Cuda::view_mut(&mut buffers.levels))?;
        cuda.clear(Cuda::view_mut(&mut buffers.scales))?;
        let bytes = size + f64::from(bits) / 4.0 + 4.0 / BLOCK;
        let op = Adaptive { bits, block: BlockSize::default(), draw: draw(), weight: 1.0 };
        bench.row(&format!("accumulate adaptive, {bits} bits, {kind}"), n, bytes, || {
            let levels = Cuda::slice_mut(Cuda::view_mut(&mut buffers.levels), 0..words(n, bits)).context("levels")?;
            let scales = Cuda::slice_mut(Cuda::view_mut(&mut buffers.scales), 0..n.div_ceil(64)).context("scales")?;
            let item = AdaptiveItem { tensor: 0, first: 0, x: Cuda::view(&x), levels, scales, report: 0 };
            Ok(cuda.accumulate_adaptive(&op, &mut [item], &mut buffers.reports)?)
        })?;
    }

    cuda.clear(Cuda::view_mut(&mut buffers.seen))?;
    let look = Look { block: BlockSize::default(), weight: 1.0 };
    bench.row(&format!("look, {kind}"), n, size + 2.0 / BLOCK, || {
        let seen = Cuda::slice_mut(Cuda::view_mut(&mut buffers.seen), 0..n.div_ceil(64)).context("seen")?;
        Ok(cuda.look(&look, &mut [LookItem { x: Cuda::view(&x), seen, report: 0 }], &mut buffers.reports)?)
    })?;
    // The scales of a window that these gradients fit: from what `look` has seen, with the room a caller would leave.
    let scale = |b: &mut Buffers, bits: u32| -> Result<()> {
        let (seen, scales) = (Cuda::view(&b.seen), Cuda::view_mut(&mut b.scales));
        let op = WindowScales { headroom: 1.25, bits };
        Ok(cuda.window_scales(&op, &mut [WindowScalesItem { seen, scales }])?)
    };
    for bits in [4, 8, 32] {
        scale(buffers, bits)?;
        cuda.clear(Cuda::view_mut(&mut buffers.levels))?;
        let bytes = size + f64::from(bits) / 4.0 + 4.0 / BLOCK;
        let op = Exact { bits, block: BlockSize::default(), draw: draw(), weight: 1.0, held: 0, headroom: Some(1.25) };
        bench.row(&format!("accumulate exact, {bits} bits, {kind}"), n, bytes, || {
            let counts = Cuda::slice_mut(Cuda::view_mut(&mut buffers.levels), 0..words(n, bits)).context("counts")?;
            let scales = Cuda::slice_mut(Cuda::view_mut(&mut buffers.scales), 0..n.div_ceil(64)).context("scales")?;
            let seen = Cuda::slice_mut(Cuda::view_mut(&mut buffers.seen), 0..n.div_ceil(64)).context("seen")?;
            let item = ExactItem { tensor: 0, first: 0, x: Cuda::view(&x), counts, scales, seen, report: 0 };
            Ok(cuda.accumulate_exact(&op, &mut [item], &mut buffers.reports)?)
        })?;
    }
    scale(buffers, 8)?;
    let mut sum = cuda.zeros::<f32>(n)?;
    bench.row(&format!("accumulate in f32, {kind}"), n, size + 8.0, || {
        let item = F32Item { first: 0, x: Cuda::view(&x), sum: Cuda::view_mut(&mut sum), report: 0 };
        Ok(cuda.accumulate_f32(&F32 { weight: 1.0 }, &mut [item], &mut buffers.reports)?)
    })?;
    drop(sum);
    bench.row(&format!("check, {kind}"), n, size, || {
        let item = check::Item { x: Cuda::view(&x), first: 0, report: 0 };
        Ok(cuda.check(&Check { weight: 1.0 }, &mut [item], &mut buffers.reports)?)
    })?;
    let found = cuda.read_reports(&buffers.reports)?;
    anyhow::ensure!(found[0].non_finite == 0, "the data has nothing out of range, yet the report says {found:?}");
    Ok(())
}

fn back<T: Element>(bench: &mut Bench, kind: &str, n: usize, buffers: &Buffers) -> Result<()> {
    let cuda = bench.cuda.clone();
    let size = size_of::<T>() as f64;
    let mut out = cuda.zeros::<T>(n)?;
    let scales = || Cuda::slice(Cuda::view(&buffers.scales), 0..n.div_ceil(64)).context("scales");
    bench.row(&format!("dequantize, block 64, {kind}"), n, size + 0.25 + 2.0 / BLOCK, || {
        let item =
            dequantize::Item { words: Cuda::view(&buffers.planes), scales: scales()?, out: Cuda::view_mut(&mut out) };
        Ok(cuda.dequantize(&Dequantize::default(), &mut [item])?)
    })?;
    for bits in [2, 4, 8, 32] {
        let op = ReadOut { bits, block: BlockSize::default(), factor: 0.125 };
        bench.row(&format!("read out, {bits} bits, {kind}"), n, size + f64::from(bits) / 8.0 + 2.0 / BLOCK, || {
            let levels = Cuda::slice(Cuda::view(&buffers.levels), 0..words(n, bits)).context("levels")?;
            let item = read_out::Item { levels, scales: scales()?, out: Cuda::view_mut(&mut out), guard: None };
            Ok(cuda.read_out(&op, &mut [item], None)?)
        })?;
    }
    let sum = data::<f32>(&cuda, n)?;
    bench.row(&format!("read out of f32, {kind}"), n, size + 4.0, || {
        let item = read_out::F32Item { sum: Cuda::view(&sum), out: Cuda::view_mut(&mut out), guard: None };
        Ok(cuda.read_out_f32(&ReadOutF32 { factor: 0.125 }, &mut [item], None)?)
    })
}

/// Lengths of a model's tensors: for every large one three small ones, about `total` elements in all.
fn model(tensors: usize, total: usize) -> Vec<usize> {
    let shapes = [1usize, 64, 4, 1, 16, 1, 4, 1];
    let sum: usize = (0..tensors).map(|i| shapes[i % shapes.len()]).sum();
    let unit = (total / sum).max(64);
    (0..tensors)
        .map(
            |i| {
                if shapes[i % shapes.len()] == 1 {
                    64 + 32 * (i % 7)
                } else {
                    unit * shapes[i % shapes.len()] / 32 * 32
                }
            },
        )
        .collect()
}

/// Calls on a list between two events.
const CALLS: u32 = 8;

/// A list of tensors in one call, against one tensor of as many elements.
fn lists<T: Element>(bench: &mut Bench, kind: &str, tensors: usize, total: usize) -> Result<()> {
    let cuda = bench.cuda.clone();
    let lengths = model(tensors, total);
    let n: usize = lengths.iter().sum();
    let xs = lengths.iter().map(|&n| data::<T>(&cuda, n)).collect::<Result<Vec<_>>>()?;
    let buffers = |per: &dyn Fn(usize) -> usize| {
        lengths.iter().map(|&n| Ok(cuda.zeros::<u32>(per(n))?)).collect::<Result<Vec<Buffer<u32>>>>()
    };
    let mut planes = buffers(&|n| words(n, 2))?;
    let mut levels = buffers(&|n| words(n, 4))?;
    let mut scales = lengths.iter().map(|n| Ok(cuda.zeros::<u16>(n.div_ceil(64))?)).collect::<Result<Vec<_>>>()?;
    let mut reports = cuda.reports(tensors)?;
    let size = size_of::<T>() as f64;
    let mut quantize = || -> Result<()> {
        let mut items: Vec<_> = xs
            .iter()
            .zip(&mut planes)
            .zip(&mut scales)
            .enumerate()
            .map(|(i, ((x, words), scales))| quantize::Item {
                tensor: i as u32,
                first: 0,
                x: Cuda::view(x),
                words: Cuda::view_mut(words),
                scales: Cuda::view_mut(scales),
                report: i,
            })
            .collect();
        Ok(cuda.quantize(&Quantize::stochastic(draw()), &mut items, &mut reports)?)
    };
    let label = format!("{tensors} tensors, {:.1} M elements", n as f64 / 1e6);
    bench.row_of_calls(
        CALLS,
        &format!("quantize stochastic, {label}, {kind}"),
        n,
        size + 0.25 + 2.0 / BLOCK,
        &mut quantize,
    )?;
    host_time(bench, &format!("quantize stochastic, {label}, {kind}"), &mut quantize)?;
    let op = Adaptive { bits: 4, block: BlockSize::default(), draw: draw(), weight: 1.0 };
    let mut accumulate = || -> Result<()> {
        let mut items: Vec<_> = xs
            .iter()
            .zip(&mut levels)
            .zip(&mut scales)
            .enumerate()
            .map(|(i, ((x, levels), scales))| AdaptiveItem {
                tensor: i as u32,
                first: 0,
                x: Cuda::view(x),
                levels: Cuda::view_mut(levels),
                scales: Cuda::view_mut(scales),
                report: i,
            })
            .collect();
        Ok(cuda.accumulate_adaptive(&op, &mut items, &mut reports)?)
    };
    bench.row_of_calls(
        CALLS,
        &format!("accumulate adaptive, 4 bits, {label}, {kind}"),
        n,
        size + 1.0 + 4.0 / BLOCK,
        &mut accumulate,
    )?;
    host_time(bench, &format!("accumulate adaptive, 4 bits, {label}, {kind}"), &mut accumulate)
}

/// Microseconds a call, from the first call to the end of the last, host time included.
fn host_time(bench: &Bench, name: &str, call: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    if !name.contains(&bench.args.only) {
        return Ok(());
    }
    let calls = 200u32;
    call()?;
    bench.cuda.synchronize()?;
    let start = Instant::now();
    for _ in 0..calls {
        call()?;
    }
    let queued = start.elapsed().as_secs_f64() * 1e6 / f64::from(calls);
    bench.cuda.synchronize()?;
    let done = start.elapsed().as_secs_f64() * 1e6 / f64::from(calls);
    println!("{name}: {queued:.1} us a call to queue, {done:.1} us a call until done");
    Ok(())
}

/// Time against size. Every round takes another part of buffers much larger than the L2 cache.
fn sweep<T: Element>(bench: &mut Bench, kind: &str) -> Result<()> {
    let cuda = bench.cuda.clone();
    let most = 1usize << (bench.args.log_n + 1);
    let x = data::<T>(&cuda, most)?;
    let mut planes = cuda.zeros::<u32>(words(most, 2))?;
    let mut levels = cuda.zeros::<u32>(words(most, 4))?;
    let mut scales = cuda.zeros::<u16>(most / 64)?;
    let mut reports = cuda.reports(1)?;
    let size = size_of::<T>() as f64;
    for log in 10..=bench.args.log_n + 1 {
        let n = 1usize << log;
        let mut round = 0;
        let mut next = || {
            let at = round * n % most;
            round += 1;
            at
        };
        bench.row(&format!("sweep quantize stochastic, {kind}, 2^{log}"), n, size + 0.25 + 2.0 / BLOCK, || {
            let at = next();
            let x = Cuda::slice(Cuda::view(&x), at..at + n).context("x")?;
            let words = Cuda::slice_mut(Cuda::view_mut(&mut planes), at / 16..(at + n) / 16).context("planes")?;
            let scales = Cuda::slice_mut(Cuda::view_mut(&mut scales), at / 64..(at + n) / 64).context("scales")?;
            let item = quantize::Item { tensor: 0, first: 0, x, words, scales, report: 0 };
            Ok(cuda.quantize(&Quantize::stochastic(draw()), &mut [item], &mut reports)?)
        })?;
        let op = Adaptive { bits: 4, block: BlockSize::default(), draw: draw(), weight: 1.0 };
        bench.row(
            &format!("sweep accumulate adaptive, 4 bits, {kind}, 2^{log}"),
            n,
            size + 1.0 + 4.0 / BLOCK,
            || {
                let at = next();
                let x = Cuda::slice(Cuda::view(&x), at..at + n).context("x")?;
                let levels = Cuda::slice_mut(Cuda::view_mut(&mut levels), at / 8..(at + n) / 8).context("levels")?;
                let scales = Cuda::slice_mut(Cuda::view_mut(&mut scales), at / 64..(at + n) / 64).context("scales")?;
                let item = AdaptiveItem { tensor: 0, first: 0, x, levels, scales, report: 0 };
                Ok(cuda.accumulate_adaptive(&op, &mut [item], &mut reports)?)
            },
        )?;
    }
    Ok(())
}

fn reductions(bench: &mut Bench, n: usize, buffers: &mut Buffers) -> Result<()> {
    let cuda = bench.cuda.clone();
    let mut sums = cuda.zeros::<u32>(SUM_WORDS)?;
    let scales = || Cuda::slice(Cuda::view(&buffers.scales), 0..n.div_ceil(64)).context("scales");
    let planes = Cuda::view(&buffers.planes);
    bench.row("nonzeros", n, 0.25, || {
        let mut items = [CountNonzeroItem { words: planes, sum: 0 }];
        Ok(cuda.count_nonzero(&CountNonzero, &mut items, Cuda::view_mut(&mut sums))?)
    })?;
    let op = Dot { grouping: Grouping::default() };
    bench.row("dot product", n, 0.5 + 4.0 / BLOCK, || {
        let (words_a, words_b) = (planes, planes);
        let mut items = [DotItem { n, words_a, scales_a: scales()?, words_b, scales_b: scales()?, sum: 0 }];
        Ok(cuda.dot(&op, &mut items, Cuda::view_mut(&mut sums))?)
    })?;
    for bits in [2, 4, 8, 32] {
        let op = SquaredNorm { bits, grouping: Grouping::default() };
        bench.row(&format!("squared norm, {bits} bits"), n, f64::from(bits) / 8.0 + 2.0 / BLOCK, || {
            let levels = Cuda::slice(Cuda::view(&buffers.levels), 0..words(n, bits)).context("levels")?;
            let mut items = [SquaredNormItem { n, levels, scales: scales()?, sum: 0 }];
            Ok(cuda.squared_norm(&op, &mut items, Cuda::view_mut(&mut sums))?)
        })?;
    }
    let x = data::<f32>(&cuda, n)?;
    bench.row("squared norm, f32", n, 4.0, || {
        let mut items = [SquaredNormF32Item { x: Cuda::view(&x), sum: 0 }];
        Ok(cuda.squared_norm_f32(&SquaredNormF32, &mut items, Cuda::view_mut(&mut sums))?)
    })?;
    drop(x);
    let other = cuda.zeros::<u32>(words(n, 8))?;
    let other_seen = cuda.zeros::<u16>(n.div_ceil(64))?;
    for bits in [4, 8] {
        bench.row(&format!("merge, {bits} bits"), n, 3.0 * (f64::from(bits) / 8.0 + 2.0 / BLOCK), || {
            let from = Cuda::slice(Cuda::view(&other), 0..words(n, bits)).context("levels")?;
            let into = Cuda::slice_mut(Cuda::view_mut(&mut buffers.levels), 0..words(n, bits)).context("levels")?;
            let (seen_from, seen) = (Cuda::view(&other_seen), Cuda::view_mut(&mut buffers.seen));
            let mut items = [MergeItem { from, into, seen_from, seen }];
            Ok(cuda.merge(&Merge { bits, held: 3, added: 3 }, &mut items)?)
        })?;
    }
    Ok(())
}

fn card() -> String {
    let fields = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit";
    let query = format!("--query-gpu={fields}");
    std::process::Command::new("nvidia-smi").args([query.as_str(), "--format=csv"]).output().ok().map_or_else(
        || "nvidia-smi says nothing".to_owned(),
        |out| String::from_utf8_lossy(&out.stdout).trim().to_owned(),
    )
}

fn main() -> Result<()> {
    let args = Args::parse();
    let cuda = Cuda::new(args.device)?;
    let n = 1usize << args.log_n;
    println!("{}\n{}\nn = 2^{}, {} rounds", cuda.name(), card(), args.log_n, args.rounds);
    let timing = Some(CUevent_flags::CU_EVENT_DEFAULT);
    let events = (cuda.stream().context().new_event(timing)?, cuda.stream().context().new_event(timing)?);
    let mut bench = Bench { cuda: cuda.clone(), args, events, copy: 1.0, figures: Vec::new() };
    {
        let from = data::<f32>(&cuda, n)?;
        let mut to = cuda.zeros::<f32>(n)?;
        let (ms, ..) = bench.time(1, || Ok(cuda.copy(Cuda::view(&from), Cuda::view_mut(&mut to))?))?;
        bench.copy = n as f64 * 8.0 / ms * 1e3;
        println!("device-to-device copy: {:.1} GB/s", bench.copy / 1e9);
    }
    let mut buffers = Buffers {
        planes: cuda.zeros(words(n, 2))?,
        levels: cuda.zeros(words(n, 32))?,
        scales: cuda.zeros(n.div_ceil(64))?,
        seen: cuda.zeros(n.div_ceil(64))?,
        reports: cuda.reports(1)?,
    };
    forward::<f32>(&mut bench, "f32", n, &mut buffers)?;
    forward::<bf16>(&mut bench, "bf16", n, &mut buffers)?;
    forward::<f16>(&mut bench, "f16", n, &mut buffers)?;
    back::<f32>(&mut bench, "f32", n, &buffers)?;
    back::<bf16>(&mut bench, "bf16", n, &buffers)?;
    back::<f16>(&mut bench, "f16", n, &buffers)?;
    reductions(&mut bench, n, &mut buffers)?;
    drop(buffers);
    lists::<f32>(&mut bench, "f32", 300, n)?;
    lists::<bf16>(&mut bench, "bf16", 300, n)?;
    lists::<f32>(&mut bench, "f32", 150, 10_000_000)?;
    lists::<bf16>(&mut bench, "bf16", 150, 10_000_000)?;
    lists::<bf16>(&mut bench, "bf16", 1, 4096)?;
    if bench.args.sweep {
        sweep::<f32>(&mut bench, "f32")?;
        sweep::<bf16>(&mut bench, "bf16")?;
    }

    let mut table = Table::new();
    table.set_header(["operation", "ps/element", "bytes", "GB/s", "share of copy", "ms (fastest to slowest)"]);
    for f in &bench.figures {
        table.add_row([
            f.name.clone(),
            format!("{:.4}", f.ps_per_element),
            format!("{:.3}", f.bytes_per_element),
            format!("{:.0}", f.gb_per_second),
            format!("{:.1}%", 100.0 * f.share_of_copy),
            format!("{:.4} ({:.4} to {:.4})", f.milliseconds, f.fastest, f.slowest),
        ]);
    }
    for column in 1..=5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{table}\n{}", card());
    if let Some(path) = &bench.args.json {
        let json = serde_json::json!({
            "device": cuda.name(), "card": card(), "n": n, "copy_gb_per_second": bench.copy / 1e9, "figures": bench.figures,
        });
        std::fs::write(path, serde_json::to_string_pretty(&json)?)?;
    }
    Ok(())
}
