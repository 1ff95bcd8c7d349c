//! Quantize: one fused pass for blocks of a stochastic rule; sums, rules and trits for everything else.

use super::device::Wgpu;
use super::launch::{Batch, Piece};
use super::layout::{element, shift};
use super::raw::Raw;
use super::reports::Reports;
use super::shaders::{self, Draws, GroupsParams, QuantizeParams, RulesParams, SumsParams};
use crate::error::{Error, Result};
use crate::numerics::constants::{CHUNK, domain};
use crate::numerics::float::magnitude;
use crate::op::quantize::{Item, Quantize, Rule, Threshold};
use crate::op::{Checked, Launch};
use crate::types::{BlockSize, Draw, Element, Grouping};

impl Launch<Quantize> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Quantize, T>) -> Result<()> {
        let (op, items, (state, reports)) = work.into_parts();
        reports.reach(self, items.iter().map(|i| i.first + i.x.len as u64))?;
        let mut batch = Batch::following(self, state.0);
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
}

fn blocks<T: Element>(
    batch: &mut Batch<'_>,
    block: BlockSize,
    draw: &Draw,
    item: &Item<'_, Wgpu, T>,
    reports: &Reports,
) -> Result<()> {
    let size = size_of::<T>() as u64;
    for piece in batch.gpu.pieces(item.x.len, size) {
        let (x, words) = (piece.elements(item.x.raw, size), piece.words(item.words.raw, 2));
        let scales = piece.blocks(item.scales.raw, block);
        let first = item.first + piece.start;
        let params = QuantizeParams {
            found: reports.found(item.report, first),
            draws: batch.gpu.draws(draw, item.tensor, domain::TERNARY, first),
            zero: 0,
            n: piece.len as u32,
            x: x.skip(size),
            words: words.skip(4),
            scales: scales.skip(2),
            shift: shift(block),
        };
        let mut flags = vec![element::<T>()];
        flags.extend((x.vectors(16) && words.vectors(8)).then_some("VECTOR"));
        batch.gpu.able(&mut flags, block);
        let bindings = [x, words, scales, reports.raw()];
        batch.dispatch_following(&shaders::QUANTIZE, flags, &bindings, params, piece.len.div_ceil(32))?;
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
    let (link, binding_max) = (&batch.gpu.inner.link, batch.gpu.inner.binding_max);
    let size = size_of::<T>() as u64;
    let plan = |item: &Item<'_, Wgpu, T>| Plan::new(op.grouping, item.x.len as u64);
    let larger = |a: (u64, u64), b: (u64, u64)| (a.0.max(b.0), a.1.max(b.1));
    let (records, rules) = items.iter().map(|item| plan(item).scratch()).fold((RECORD, RULE), larger);
    if records > binding_max {
        let limit = binding_max / RECORD * CHUNK as u64;
        return Err(Error::Limit { what: "elements in a scale group", got: records / RECORD * CHUNK as u64, limit });
    }
    let buffers = [link.allocate(records)?, link.allocate(rules)?];
    let records = Raw { buffer: &buffers[0], offset: 0, bytes: records };
    let rules = Raw { buffer: &buffers[1], offset: 0, bytes: rules };
    for item in items {
        let n = item.x.len as u64;
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

    /// The records of all chunks: whole groups at a time where they fit a piece, else parts of one.
    fn sums(&self, batch: &mut Batch<'_>, what: &'static str, report: bool) -> Result<()> {
        let most = batch.gpu.pieces(usize::MAX, self.size).next().map_or(65_536, |piece| piece.len);
        let rows = most / self.cols;
        let mut at = self.start;
        while at < self.end {
            let row = (at - self.start) / self.cols;
            let within = (at - self.start) % self.cols;
            // A part of a group is a multiple of 4096 elements, except for its last.
            let (len, cols) = if rows > 0 {
                ((rows * self.cols).min(self.end - at), self.cols)
            } else {
                let len = most.min(self.cols - within).min(self.end - at);
                (len, len)
            };
            let x = self.item.x.raw.part(at * self.size, len * self.size);
            let chunks = cols.div_ceil(CHUNK as u64);
            let given = self.given();
            let params = SumsParams {
                found: self.reports.found(self.item.report, self.item.first + at),
                zero: 0,
                n: len as u32,
                x: x.skip(self.size),
                columns: cols as u32,
                chunks: chunks as u32,
                count: (len.div_ceil(cols) * chunks) as u32,
                first_record: (row * self.chunks + within / CHUNK as u64) as u32,
                first_rule: row as u32,
                given: u32::from(given.is_some()),
                limit: given.unwrap_or(0),
                reports: u32::from(report),
            };
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
        let params =
            RulesParams { scales: scales.skip(2), chunks: self.chunks as u32, count: self.number as u32, factor };
        let mut flags = vec![what];
        flags.extend(wide.then_some("WIDE"));
        let threads = self.number * if wide { 128 } else { 1 };
        batch.dispatch(&shaders::QUANTIZE_RULES, flags, &[self.records, self.rules, scales], params, threads)
    }

    fn trits(&self, batch: &mut Batch<'_>) -> Result<()> {
        for Piece { start, len } in batch.gpu.pieces((self.end - self.start) as usize, self.size) {
            let at = self.start + start;
            let x = self.item.x.raw.part(at * self.size, len * self.size);
            let words = self.item.words.raw.part(at / 32 * 8, len.div_ceil(32) * 8);
            let row = start / self.cols;
            let fits = |x: u64| u32::try_from(x).unwrap_or(u32::MAX);
            let first = self.item.first + at;
            let mut flags = vec![element::<T>()];
            let draws = match self.op.rule {
                Rule::Stochastic { draw, .. } => batch.gpu.draws(&draw, self.item.tensor, domain::TERNARY, first),
                Rule::Threshold(_) => {
                    flags.push("ABOVE");
                    Draws::default()
                }
            };
            let params = GroupsParams {
                found: self.reports.found(self.item.report, first),
                draws,
                zero: 0,
                n: len as u32,
                x: x.skip(self.size),
                words: words.skip(4),
                first_rule: row as u32,
                columns: fits(self.cols),
                head: fits((row + 1) * self.cols - start),
                given: u32::from(self.given().is_some()),
                limit: self.given().unwrap_or(0),
            };
            flags.extend(x.vectors(16).then_some("VECTOR"));
            batch.gpu.wide(&mut flags);
            let bindings = [x, words, self.rules, self.reports.raw()];
            batch.dispatch_following(&shaders::QUANTIZE_GROUPS, flags, &bindings, params, len.div_ceil(32))?;
        }
        Ok(())
    }
}
