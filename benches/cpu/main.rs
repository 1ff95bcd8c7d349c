//! Time of every CPU operation against a memcpy of the same input, taken in turn with it.
//!
//! `cargo bench --bench cpu -- [--n N] [--rounds N] [--threads 1,2] [--only TEXT] [--kinds] [--json PATH]`
//!
//! Each round runs every operation once, each right after a memcpy of its input (its output, for operations that
//! expand) by as many threads into a buffer that has been written before; the ratio is the median of the ratios of
//! such pairs, so that a machine that slows down for a while slows both. Times are medians too, and the fastest round
//! stands beside them: what others do on the machine disturbs it least.
#![expect(clippy::print_stdout, reason = "a table is what this program is for")]

mod rows;

use clap::Parser;
use comfy_table::Table;
use rayon::ThreadPool;
use rayon::prelude::*;
use rows::Row;
use std::hint::black_box;
use std::time::{Instant, SystemTime};
use trigrad::Memory;
use trigrad::cpu::Cpu;

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
    /// Every kind of code this machine can run, the plain code among them, not just the fastest.
    #[arg(long)]
    kinds: bool,
    /// Where to write the figures.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the table and the file hold of a row.
#[derive(serde::Serialize)]
struct Figure {
    name: String,
    threads: usize,
    ns_per_element: f64,
    best_ns_per_element: f64,
    /// Bytes read and written.
    bytes_per_element: f64,
    gb_per_s: f64,
    /// The rate at which these bytes move, against that of the memcpy.
    share_of_copy: f64,
    /// The median of the ratios of neighbours, and its quartiles.
    times_memcpy: f64,
    times_memcpy_quartiles: [f64; 2],
    /// The fastest round against the fastest memcpy.
    best_times_memcpy: f64,
    best_memcpy_ns_per_element: f64,
}

/// The machine and the run, then the figures.
#[derive(serde::Serialize)]
struct Results {
    cpu: String,
    code: String,
    n: usize,
    rounds: usize,
    cores: usize,
    load_average_before: f64,
    load_average_after: f64,
    seconds_since_1970: u64,
    figures: Vec<Figure>,
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

/// The value below which this share of the values lies.
fn quantile(values: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut v: Vec<f64> = values.collect();
    v.sort_by(f64::total_cmp);
    v[((v.len() - 1) as f64 * share).round() as usize]
}

/// A row's times and those of the memcpy before each.
#[derive(Clone, Default)]
struct Times {
    ran: Vec<f64>,
    copied: Vec<f64>,
}

fn measure(args: &Args, rows: &mut [Row], threads: usize, pool: &ThreadPool) -> Vec<Figure> {
    let (from, mut to) = (vec![1u8; 4 * args.n], vec![2u8; 4 * args.n]);
    let mut times = vec![Times::default(); rows.len()];
    for round in 0..=args.rounds.max(1) {
        for (row, times) in rows.iter_mut().zip(&mut times) {
            let bytes = row.bytes;
            let (copied, ran) = pool.install(|| {
                let copied = seconds(|| copy(&from[..bytes], &mut to[..bytes], threads));
                (copied, seconds(|| (row.run)()))
            });
            if round > 0 {
                times.ran.push(ran);
                times.copied.push(copied);
            }
        }
    }
    rows.iter().zip(&times).map(|(row, times)| figure(args.n, row, times, threads)).collect()
}

fn figure(n: usize, row: &Row, times: &Times, threads: usize) -> Figure {
    let ratios = || times.ran.iter().zip(&times.copied).map(|(a, b)| a / b);
    let (ran, copied) = (times.ran.iter().copied(), times.copied.iter().copied());
    let ns = 1e9 / n as f64;
    let (best, best_copy) = (quantile(ran.clone(), 0.0), quantile(copied, 0.0));
    let median = quantile(ran, 0.5);
    Figure {
        name: row.name.clone(),
        threads,
        ns_per_element: median * ns,
        best_ns_per_element: best * ns,
        bytes_per_element: row.moved as f64 / n as f64,
        gb_per_s: row.moved as f64 / median * 1e-9,
        share_of_copy: row.moved as f64 / (2 * row.bytes) as f64 / quantile(ratios(), 0.5),
        times_memcpy: quantile(ratios(), 0.5),
        times_memcpy_quartiles: [quantile(ratios(), 0.25), quantile(ratios(), 0.75)],
        best_times_memcpy: best / best_copy,
        best_memcpy_ns_per_element: best_copy * ns,
    }
}

/// The first number of /proc/loadavg, and the processor's name; empty where the system has no such files.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|t| t.parse().ok()).unwrap_or(0.0)
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |key: &str| text.lines().find(|l| l.starts_with(key)).and_then(|l| l.split(": ").nth(1)).unwrap_or("");
    format!("{}, family {}, model {}", line("model name"), line("cpu family"), line("model\t"))
}

fn table(figures: &[Figure], threads: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    let mut header = vec!["operation".to_owned()];
    for t in threads {
        header.extend([format!("{t} thread(s): ns"), "best".into(), "x memcpy".into(), "best".into(), "share".into()]);
    }
    if threads.len() > 1 {
        header.push("speed-up".to_owned());
    }
    table.set_header(header);
    let rows = figures.len() / threads.len().max(1);
    for i in 0..rows {
        let of: Vec<&Figure> = figures.iter().skip(i).step_by(rows).collect();
        let mut cells = vec![of[0].name.clone()];
        for f in &of {
            cells.extend([f.ns_per_element, f.best_ns_per_element].map(|x| format!("{x:.3}")));
            cells.extend([f.times_memcpy, f.best_times_memcpy].map(|x| format!("{x:.2}")));
            cells.push(format!("{:.0}%", 100.0 * f.share_of_copy));
        }
        if let [one, .., many] = of[..] {
            cells.push(format!("{:.2}", one.best_ns_per_element / many.best_ns_per_element));
        }
        table.add_row(cells);
    }
    table
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let load_average_before = load();
    let cpus = if args.kinds { Cpu::kinds() } else { vec![Cpu::new()] };
    let mut figures = Vec::new();
    for &threads in &args.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let mut rows = rows::all(&cpus, args.n);
        rows.retain(|r| r.name.contains(&args.only));
        figures.extend(measure(&args, &mut rows, threads, &pool));
    }
    println!("{}, {}, {} elements, {} rounds", processor(), Cpu::new().name(), args.n, args.rounds);
    println!("{}", table(&figures, &args.threads));
    if let Some(path) = &args.json {
        let results = Results {
            cpu: processor(),
            code: Cpu::new().name(),
            n: args.n,
            rounds: args.rounds,
            cores: std::thread::available_parallelism()?.get(),
            load_average_before,
            load_average_after: load(),
            seconds_since_1970: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
            figures,
        };
        std::fs::write(path, serde_json::to_string_pretty(&results)? + "\n")?;
    }
    Ok(())
}
