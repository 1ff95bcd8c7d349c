//! Quantize: one fused pass for blocks of a stochastic rule; sums, rules and trits for everything else.

use super::Wgpu;
use super::launch::{Batch, Window};
use super::memory::{Raw, USAGE};
use super::pipeline::Flags;
use super::reports::Reports;
use super::shaders::{self, Params};
use crate::error::{Error, Result};
use crate::numerics::constants::{CHUNK, domain};
use crate::numerics::float::magnitude;
use crate::op::quantize::{Item, Quantize, Rule, Threshold};
use crate::op::{BlockSize, Draw, Element, ElementType, Grouping};

/// The flag of an element type.
pub(super) fn element<T: Element>() -> &'static str {
    match T::TYPE {
        ElementType::F32 => "F32",
        ElementType::F16 => "F16",
        ElementType::Bf16 => "BF16",
    }
}

impl Wgpu {
    /// The flags of shaders that draw, add floats and join blocks of `block` elements.
    pub(super) fn able(&self, flags: &mut Flags, block: BlockSize) {
        flags.extend(self.inner.abilities.int64.then_some("INT64"));
        let subgroup = self.inner.abilities.subgroup;
        flags.extend((subgroup > 1 && block.get() / 32 <= subgroup).then_some("SUBGROUP"));
        self.soft(flags);
    }

    /// The flag of shaders that add or multiply floats.
    pub(super) fn soft(&self, flags: &mut Flags) {
        flags.extend(self.inner.abilities.soft.then_some("SOFT"));
    }
}

/// Sets where draws are made.
pub(super) fn draw(params: &mut Params, draw: &Draw, tensor: u32, domain: u32) {
    let position = draw.position(tensor, domain);
    [params.key0, params.key1] = position.key();
    [_, params.tensor, params.step, params.purpose] = position.counter(0);
}

/// The scales of a window's blocks.
pub(super) fn scales_of(scales: Raw<'_>, block: BlockSize, start: u64, len: u64) -> Raw<'_> {
    let block = u64::from(block.get());
    scales.part(start / block * 2, len.div_ceil(block) * 2)
}

pub(super) fn quantize<T: Element>(
    gpu: &Wgpu,
    op: &Quantize,
    items: &mut [Item<'_, Wgpu, T>],
    reports: &mut Reports,
) -> Result<()> {
    op.validate()?;
    let mut end = 0;
    for item in items.iter() {
        item.validate(op)?;
        reports.check(item.report)?;
        end = end.max(item.first + item.x.raw.bytes / size_of::<T>() as u64);
    }
    reports.reach(gpu, end)?;
    let mut batch = Batch::new(gpu);
    match (op.grouping, op.rule) {
        (Grouping::Block(block), Rule::Stochastic { draw, clip: None }) => {
            for item in items.iter() {
                blocks(&mut batch, block, &draw, item, reports)?;
            }
        }
        _ => grouped(&mut batch, op, items, reports)?,
    }
    batch.run("quantize").map(drop)
}

fn blocks<T: Element>(
    batch: &mut Batch<'_>,
    block: BlockSize,
    drawn: &Draw,
    item: &Item<'_, Wgpu, T>,
    reports: &Reports,
) -> Result<()> {
    let size = size_of::<T>() as u64;
    let n = (item.x.raw.bytes / size) as usize;
    for Window { start, len } in batch.gpu.windows(n, size) {
        let x = item.x.raw.part(start * size, len * size);
        let words = item.words.raw.part(start / 32 * 8, len.div_ceil(32) * 8);
        let scales = scales_of(item.scales.raw, block, start, len);
        let mut params = Params {
            n: len as u32,
            x: x.skip(size),
            words: words.skip(4),
            scales: scales.skip(2),
            shift: block.get().ilog2() - 5,
            ..Params::default()
        };
        draw(&mut params, drawn, item.tensor, domain::TERNARY);
        reports.address(&mut params, item.report, item.first + start);
        let mut flags = vec![element::<T>()];
        flags.extend((x.vectors(16) && words.vectors(8)).then_some("VECTOR"));
        batch.gpu.able(&mut flags, block);
        batch.dispatch(&shaders::QUANTIZE, flags, &[x, words, scales, reports.raw()], params, len.div_ceil(32))?;
    }
    Ok(())
}

/// Chunks whose records are held at a time, unless one group has more.
const CHUNKS: u64 = 1 << 18;
/// Bytes of a chunk's record, and of a group's rule.
const RECORD: u64 = 32;
const RULE: u64 = 8;

/// How a tensor's groups are worked off: `held` groups of `cols` elements and `chunks` chunks at a time.
#[derive(Clone, Copy)]
struct Plan {
    cols: u64,
    chunks: u64,
    count: u64,
    held: u64,
}

impl Plan {
    fn new(grouping: Grouping, n: u64) -> Self {
        let cols = grouping.size(n as usize) as u64;
        let chunks = cols.div_ceil(CHUNK as u64);
        let count = n.div_ceil(cols);
        // Whole groups that begin on a multiple of 32 elements.
        Plan { cols, chunks, count, held: (CHUNKS / chunks / 32 * 32).max(32).min(count) }
    }

    /// Bytes of the records and of the rules.
    fn scratch(&self) -> (u64, u64) {
        (self.held * self.chunks * RECORD, self.held * RULE)
    }
}

/// Any grouping and rule, in passes over some whole groups at a time. All tensors of a call use the same scratch,
/// since one is worked off after the other.
fn grouped<T: Element>(
    batch: &mut Batch<'_>,
    op: &Quantize,
    items: &[Item<'_, Wgpu, T>],
    reports: &Reports,
) -> Result<()> {
    let gpu = batch.gpu;
    let size = size_of::<T>() as u64;
    let plan = |item: &Item<'_, Wgpu, T>| Plan::new(op.grouping, item.x.raw.bytes / size);
    let larger = |a: (u64, u64), b: (u64, u64)| (a.0.max(b.0), a.1.max(b.1));
    let (records, rules) = items.iter().map(|item| plan(item).scratch()).fold((RECORD, RULE), larger);
    if records > gpu.inner.binding_max {
        let limit = gpu.inner.binding_max / RECORD * CHUNK as u64;
        return Err(Error::Limit { what: "elements in a scale group", got: records / RECORD * CHUNK as u64, limit });
    }
    let buffers = [gpu.allocate(records, USAGE)?, gpu.allocate(rules, USAGE)?];
    let records = Raw { buffer: &buffers[0], offset: 0, bytes: records };
    let rules = Raw { buffer: &buffers[1], offset: 0, bytes: rules };
    for item in items {
        let n = item.x.raw.bytes / size;
        let Plan { cols, chunks, count, held } = plan(item);
        for first in (0..count).step_by(held.max(1) as usize) {
            let number = held.min(count - first);
            let (start, end) = (first * cols, n.min((first + number) * cols));
            let work = Groups { op, item, reports, size, cols, chunks, number, start, end, records, rules };
            work.run(batch, item.scales.raw.part(2 * first, 2 * number))?;
        }
    }
    Ok(())
}

/// Some whole groups of one tensor.
struct Groups<'a, 'i, T: Element> {
    op: &'a Quantize,
    item: &'a Item<'i, Wgpu, T>,
    reports: &'a Reports,
    size: u64,
    cols: u64,
    chunks: u64,
    number: u64,
    start: u64,
    end: u64,
    records: Raw<'a>,
    rules: Raw<'a>,
}

impl<T: Element> Groups<'_, '_, T> {
    fn run(&self, batch: &mut Batch<'_>, scales: Raw<'_>) -> Result<()> {
        match self.op.rule {
            Rule::Stochastic { clip: None, .. } => {
                self.sums(batch, "LARGEST", true)?;
                self.rules(batch, "LARGEST", scales, 0)?;
            }
            Rule::Stochastic { clip: Some(c), .. } => {
                self.sums(batch, "MOMENTS", true)?;
                self.rules(batch, "MOMENTS", scales, c.to_bits())?;
            }
            Rule::Threshold(Threshold::Given(_)) => {
                self.sums(batch, "ABOVE", true)?;
                self.rules(batch, "ABOVE", scales, 0)?;
            }
            Rule::Threshold(Threshold::Mean(factor)) => {
                self.sums(batch, "SUM", true)?;
                self.rules(batch, "SUM", scales, magnitude(factor.to_bits()))?;
                self.sums(batch, "ABOVE", false)?;
                self.rules(batch, "ABOVE", scales, 0)?;
            }
        }
        self.trits(batch)
    }

    fn given(&self) -> Option<u32> {
        match self.op.rule {
            Rule::Threshold(Threshold::Given(t)) => Some(magnitude(t.to_bits())),
            _ => None,
        }
    }

    /// The records of all chunks: whole groups at a time where they fit a window, else parts of one.
    fn sums(&self, batch: &mut Batch<'_>, what: &'static str, report: bool) -> Result<()> {
        let window = batch.gpu.windows(usize::MAX, self.size).next().map_or(65_536, |w| w.len);
        let rows = window / self.cols;
        let mut at = self.start;
        while at < self.end {
            let row = (at - self.start) / self.cols;
            let within = (at - self.start) % self.cols;
            // A part of a group is a multiple of 4096 elements, except for its last.
            let (len, cols) = if rows > 0 {
                ((rows * self.cols).min(self.end - at), self.cols)
            } else {
                let len = window.min(self.cols - within).min(self.end - at);
                (len, len)
            };
            let x = self.item.x.raw.part(at * self.size, len * self.size);
            let chunks = cols.div_ceil(CHUNK as u64);
            let given = self.given();
            let mut params = Params {
                n: len as u32,
                x: x.skip(self.size),
                cols: cols as u32,
                chunks: chunks as u32,
                count: (len.div_ceil(cols) * chunks) as u32,
                row: (row * self.chunks + within / CHUNK as u64) as u32,
                other: row as u32,
                limit: given.unwrap_or(0),
                head: u32::from(given.is_some()),
                mode: u32::from(report),
                ..Params::default()
            };
            self.reports.address(&mut params, self.item.report, self.item.first + at);
            let mut flags = vec![element::<T>(), what];
            // Every chunk begins on 16 bytes: there is one group, or groups are whole pieces.
            let pieces = u64::from(params.count) == chunks || (cols * self.size).is_multiple_of(16);
            flags.extend((x.vectors(16) && pieces).then_some("VECTOR"));
            let threads = u64::from(params.count) * 128;
            batch.dispatch(
                &shaders::QUANTIZE_SUMS,
                flags,
                &[x, self.records, self.rules, self.reports.raw()],
                params,
                threads,
            )?;
            at += len;
        }
        Ok(())
    }

    fn rules(&self, batch: &mut Batch<'_>, what: &'static str, scales: Raw<'_>, factor: u32) -> Result<()> {
        let wide = self.chunks > 8;
        let params = Params {
            scales: scales.skip(2),
            chunks: self.chunks as u32,
            count: self.number as u32,
            weight: factor,
            ..Params::default()
        };
        let mut flags = vec![what];
        flags.extend(wide.then_some("WIDE"));
        let threads = self.number * if wide { 128 } else { 1 };
        batch.dispatch(&shaders::QUANTIZE_RULES, flags, &[self.records, self.rules, scales], params, threads)
    }

    fn trits(&self, batch: &mut Batch<'_>) -> Result<()> {
        for Window { start, len } in batch.gpu.windows((self.end - self.start) as usize, self.size) {
            let at = self.start + start;
            let x = self.item.x.raw.part(at * self.size, len * self.size);
            let words = self.item.words.raw.part(at / 32 * 8, len.div_ceil(32) * 8);
            let row = start / self.cols;
            let fits = |x: u64| u32::try_from(x).unwrap_or(u32::MAX);
            let mut params = Params {
                n: len as u32,
                x: x.skip(self.size),
                words: words.skip(4),
                cols: fits(self.cols),
                head: fits((row + 1) * self.cols - start),
                other: row as u32,
                limit: self.given().unwrap_or(0),
                mode: u32::from(self.given().is_some()),
                ..Params::default()
            };
            let mut flags = vec![element::<T>()];
            match self.op.rule {
                Rule::Stochastic { draw: drawn, .. } => draw(&mut params, &drawn, self.item.tensor, domain::TERNARY),
                Rule::Threshold(_) => flags.push("ABOVE"),
            }
            self.reports.address(&mut params, self.item.report, self.item.first + at);
            flags.extend(x.vectors(16).then_some("VECTOR"));
            flags.extend(batch.gpu.inner.abilities.int64.then_some("INT64"));
            let threads = len.div_ceil(32);
            batch.dispatch(
                &shaders::QUANTIZE_GROUPS,
                flags,
                &[x, words, self.rules, self.reports.raw()],
                params,
                threads,
            )?;
        }
        Ok(())
    }
}
