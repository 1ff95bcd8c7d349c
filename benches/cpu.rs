//! Time of every CPU operation against a memcpy of the same input, taken in turn with it.
//!
//! `cargo bench --bench cpu -- [--n N] [--rounds N] [--threads 1,2] [--only TEXT] [--json PATH]`
//!
//! Each round runs every operation once, each right after a memcpy of its input (its output, for operations that
//! expand) by as many threads into a buffer that has been written before; the figure is the median of the ratios of
//! such pairs, so that a machine that slows down for a while slows both. Times are medians as well.
#![expect(clippy::print_stdout, reason = "a table is what this program is for")]

use clap::Parser;
use comfy_table::Table;
use half::{bf16, f16};
use rayon::ThreadPool;
use rayon::prelude::*;
use std::hint::black_box;
use std::time::Instant;
use trigrad::backend::Backend;
use trigrad::cpu::Cpu;
use trigrad::numerics::pack::words;
use trigrad::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, Look, LookItem, Merge};
use trigrad::op::check::{self, Check};
use trigrad::op::dequantize::{self, Dequantize};
use trigrad::op::quantize::{self, Quantize, Threshold};
use trigrad::op::read_out::{self, ReadOut};
use trigrad::op::reduce::{Dot, SquaredNorm};
use trigrad::op::{BlockSize, Draw, Element, Grouping, Report};

#[derive(Parser)]
struct Args {
    /// Elements.
    #[arg(long, default_value_t = 10_000_000)]
    n: usize,
    /// Rounds.
    #[arg(long, default_value_t = 31)]
    rounds: usize,
    /// Thread counts.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// Only rows whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Run the plain code as well.
    #[arg(long)]
    plain: bool,
    /// Where to write the figures.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One operation on one type.
struct Row {
    name: String,
    /// Bytes of the memcpy it is compared with.
    bytes: usize,
    run: Box<dyn FnMut() + Send>,
    seconds: Vec<f64>,
    ratios: Vec<f64>,
}

/// What the table and the file hold of a row.
#[derive(serde::Serialize)]
struct Figure {
    name: String,
    threads: usize,
    n: usize,
    ns_per_element: f64,
    ratio_to_memcpy: f64,
    /// The fastest round: least disturbed by what else the machine does.
    best_ns_per_element: f64,
    memcpy_bytes: usize,
}

fn gaussian<T: Element>(n: usize) -> Vec<T> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut unit = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..n).map(|_| T::from_f32_bits((unit() + unit() + unit() + unit() - 2.0).to_bits())).collect()
}

fn ok<R>(result: trigrad::Result<R>) -> R {
    match result {
        Ok(r) => r,
        Err(e) => unreachable!("{e}"),
    }
}

fn row(name: String, bytes: usize, run: impl FnMut() + Send + 'static) -> Row {
    Row { name, bytes, run: Box::new(run), seconds: Vec::new(), ratios: Vec::new() }
}

/// Every operation that takes a gradient, for one type.
fn gradient_rows<T: Element>(cpu: Cpu, kind: &str, n: usize, rows: &mut Vec<Row>) {
    let block = BlockSize::default();
    let bytes = n * size_of::<T>();
    let x: std::sync::Arc<[T]> = gaussian::<T>(n).into();
    let draw = Draw::new(1, 2);
    let columns = Grouping::Row(1000);
    for (name, op) in [
        ("quantize stochastic", Quantize::stochastic(draw)),
        ("quantize stochastic, block 256", Quantize::stochastic(draw).grouping(grouping(256))),
        ("quantize stochastic, rows of 1000", Quantize::stochastic(draw).grouping(columns)),
        ("quantize stochastic, tensor", Quantize::stochastic(draw).grouping(Grouping::Tensor)),
        ("quantize stochastic, 2.5 sigma", Quantize::stochastic(draw).clip(2.5)),
        ("quantize threshold mean", Quantize::threshold(Threshold::MEAN_MAGNITUDE)),
        ("quantize threshold given", Quantize::threshold(Threshold::Given(0.5))),
        ("quantize threshold mean, tensor", Quantize::threshold(Threshold::TWN).grouping(Grouping::Tensor)),
    ] {
        if columns == op.grouping && !n.is_multiple_of(1000) {
            continue;
        }
        let (x, mut w, mut s) = (x.clone(), vec![0; words(n, 2)], vec![0; op.grouping.groups(n)]);
        let mut reports = vec![Report::default()];
        rows.push(row(format!("{name} {kind}"), bytes, move || {
            let item =
                quantize::Item { tensor: 0, first: 0, x: &x[..], words: &mut w[..], scales: &mut s[..], report: 0 };
            ok(cpu.quantize(&op, &mut [item], &mut reports));
        }));
    }
    for bits in [2, 4, 8] {
        let (x, mut levels, mut scales) = (x.clone(), vec![0; words(n, bits)], vec![0; block.blocks(n)]);
        let mut reports = vec![Report::default()];
        let mut micro_batch = 0;
        rows.push(row(format!("accumulate adaptive {bits} bits {kind}"), bytes, move || {
            micro_batch += 1;
            let op = Adaptive { bits, block, draw: draw.micro_batch(micro_batch), weight: 1.0 };
            let (levels, scales) = (&mut levels[..], &mut scales[..]);
            let item = AdaptiveItem { tensor: 0, first: 0, x: &x[..], levels, scales, report: 0 };
            ok(cpu.accumulate_adaptive(&op, &mut [item], &mut reports));
        }));
    }
    for bits in [4, 8, 16] {
        let (x, mut counts, mut scales) = (x.clone(), vec![0; words(n, bits)], vec![0; block.blocks(n)]);
        let mut seen = scales.clone();
        let mut reports = vec![Report::default()];
        let item = LookItem { x: &x[..], seen: &mut scales[..], report: 0 };
        ok(cpu.look(&Look { block, weight: 1.0 }, &mut [item], &mut reports));
        rows.push(row(format!("accumulate exact {bits} bits {kind}"), bytes, move || {
            let op = Exact { bits, block, draw, weight: 1.0, held: 0 };
            let (counts, seen) = (&mut counts[..], &mut seen[..]);
            let item = ExactItem { tensor: 0, first: 0, x: &x[..], counts, scales: &scales[..], seen, report: 0 };
            ok(cpu.accumulate_exact(&op, &mut [item], &mut reports));
        }));
    }
    let (y, mut seen, mut reports) = (x.clone(), vec![0; block.blocks(n)], vec![Report::default()]);
    rows.push(row(format!("look {kind}"), bytes, move || {
        let item = LookItem { x: &y[..], seen: &mut seen[..], report: 0 };
        ok(cpu.look(&Look { block, weight: 1.0 }, &mut [item], &mut reports));
    }));
    let mut reports = vec![Report::default()];
    rows.push(row(format!("check {kind}"), bytes, move || {
        ok(cpu.check(&Check { weight: 1.0 }, &[check::Item { x: &x[..], first: 0, report: 0 }], &mut reports));
    }));
}

fn grouping(block: u32) -> Grouping {
    Grouping::Block(ok(BlockSize::new(block)))
}

/// Packed words and scales of a Gaussian tensor: levels, or planes for 2 bits.
fn levels(n: usize, bits: u32) -> (Vec<u32>, Vec<u16>) {
    let (cpu, block, x) = (Cpu::new(), BlockSize::default(), gaussian::<f32>(n));
    let (mut levels, mut scales) = (vec![0; words(n, bits)], vec![0; block.blocks(n)]);
    let op = Adaptive { bits, block, draw: Draw::new(1, 2), weight: 1.0 };
    let item =
        AdaptiveItem { tensor: 0, first: 0, x: &x[..], levels: &mut levels[..], scales: &mut scales[..], report: 0 };
    ok(cpu.accumulate_adaptive(&op, &mut [item], &mut vec![Report::default()]));
    (levels, scales)
}

/// Operations that expand, for one type.
fn output_rows<T: Element>(cpu: Cpu, kind: &str, n: usize, rows: &mut Vec<Row>) {
    let bytes = n * size_of::<T>();
    let (w, s) = levels(n, 2);
    let mut out = vec![T::from_f32_bits(0); n];
    rows.push(row(format!("dequantize {kind}"), bytes, move || {
        let item = dequantize::Item { words: &w[..], scales: &s[..], out: &mut out[..] };
        ok(cpu.dequantize(&Dequantize::default(), &mut [item]));
    }));
    for bits in [2, 4, 8] {
        let (levels, scales) = levels(n, bits);
        let mut out = vec![T::from_f32_bits(0); n];
        rows.push(row(format!("read out {bits} bits {kind}"), bytes, move || {
            let op = ReadOut { bits, block: BlockSize::default(), factor: 0.125 };
            let item = read_out::Item { levels: &levels[..], scales: &scales[..], out: &mut out[..], guard: None };
            ok(cpu.read_out(&op, &mut [item], None));
        }));
    }
}

/// Operations on packed data: compared with a memcpy of what they read.
fn packed_rows(cpu: Cpu, n: usize, rows: &mut Vec<Row>) {
    let (a, s) = levels(n, 2);
    let bytes = 4 * a.len();
    let grouping = Grouping::default();
    let (b, t) = (a.clone(), s.clone());
    rows.push(row("dot".to_owned(), 2 * bytes, move || {
        black_box(ok(cpu.dot(&Dot { grouping, n }, &b, &t, &b, &t)));
    }));
    let b = a.clone();
    rows.push(row("count nonzero".to_owned(), bytes, move || {
        black_box(ok(cpu.count_nonzero(&b)));
    }));
    rows.push(row("squared norm 2 bits".to_owned(), bytes, move || {
        black_box(ok(cpu.squared_norm(&SquaredNorm { bits: 2, grouping, n }, &a, &s)));
    }));
    let (a, s) = levels(n, 4);
    let bytes = 4 * a.len();
    let (b, t) = (a.clone(), s);
    rows.push(row("squared norm 4 bits".to_owned(), bytes, move || {
        black_box(ok(cpu.squared_norm(&SquaredNorm { bits: 4, grouping, n }, &b, &t)));
    }));
    let mut into = vec![0; a.len()];
    rows.push(row("merge 4 bits".to_owned(), bytes, move || {
        ok(cpu.merge(&Merge { bits: 4, held: 1, added: 1 }, &a, &mut into));
    }));
}

/// A memcpy by all threads of the pool.
fn copy(from: &[u8], to: &mut [u8], threads: usize) {
    if threads == 1 {
        to.copy_from_slice(from);
    } else {
        let part = from.len().div_ceil(threads);
        to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
    }
    black_box(&to[0]);
}

fn seconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

fn median(values: &[f64]) -> f64 {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

fn rows(args: &Args) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut all = |cpu: Cpu, suffix: &str| {
        gradient_rows::<f32>(cpu, &format!("f32{suffix}"), args.n, &mut rows);
        gradient_rows::<bf16>(cpu, &format!("bf16{suffix}"), args.n, &mut rows);
        gradient_rows::<f16>(cpu, &format!("f16{suffix}"), args.n, &mut rows);
        output_rows::<f32>(cpu, &format!("f32{suffix}"), args.n, &mut rows);
        output_rows::<bf16>(cpu, &format!("bf16{suffix}"), args.n, &mut rows);
        output_rows::<f16>(cpu, &format!("f16{suffix}"), args.n, &mut rows);
        packed_rows(cpu, args.n, &mut rows);
    };
    all(Cpu::new(), "");
    if args.plain {
        all(Cpu::plain(), " (plain)");
    }
    rows.retain(|r| r.name.contains(&args.only));
    rows
}

fn measure(args: &Args, threads: usize, pool: &ThreadPool) -> Vec<Figure> {
    let mut rows = rows(args);
    let (from, mut to) = (vec![1u8; 4 * args.n], vec![2u8; 4 * args.n]);
    for round in 0..=args.rounds {
        for row in &mut rows {
            let bytes = row.bytes;
            let (copied, ran) = pool.install(|| {
                let copied = seconds(|| copy(&from[..bytes], &mut to[..bytes], threads));
                (copied, seconds(|| (row.run)()))
            });
            if round > 0 {
                row.seconds.push(ran);
                row.ratios.push(ran / copied);
            }
        }
    }
    rows.iter()
        .map(|r| Figure {
            name: r.name.clone(),
            threads,
            n: args.n,
            ns_per_element: median(&r.seconds) * 1e9 / args.n as f64,
            ratio_to_memcpy: median(&r.ratios),
            best_ns_per_element: r.seconds.iter().copied().fold(f64::INFINITY, f64::min) * 1e9 / args.n as f64,
            memcpy_bytes: r.bytes,
        })
        .collect()
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut figures = Vec::new();
    for &threads in &args.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        figures.extend(measure(&args, threads, &pool));
    }
    let mut table = Table::new();
    let mut header = vec!["operation".to_owned()];
    for t in &args.threads {
        header.push(format!("ns/element, {t} thread(s)"));
        header.push("best".to_owned());
        header.push("x memcpy".to_owned());
    }
    if args.threads.len() > 1 {
        header.push("speed-up".to_owned());
    }
    table.set_header(header);
    let rows = figures.len() / args.threads.len().max(1);
    for i in 0..rows {
        let of: Vec<&Figure> = figures.iter().skip(i).step_by(rows).collect();
        let mut cells = vec![of[0].name.clone()];
        for f in &of {
            cells.push(format!("{:.3}", f.ns_per_element));
            cells.push(format!("{:.3}", f.best_ns_per_element));
            cells.push(format!("{:.2}", f.ratio_to_memcpy));
        }
        if let [one, .., many] = of[..] {
            cells.push(format!("{:.2}", one.ns_per_element / many.ns_per_element));
        }
        table.add_row(cells);
    }
    println!("{table}");
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&figures)?)?;
    }
    Ok(())
}
