//! Pack, unpack and convert.

use super::Wgpu;
use super::launch::{Batch, Window};
use super::memory::{Raw, View, ViewMut};
use super::reports::Reports;
use super::shaders::{self, Params};
use crate::error::Result;
use crate::op::pack::{validate_fields, validate_planes, validate_trits};

pub(super) fn pack(
    gpu: &Wgpu,
    trits: View<'_, i8>,
    words: &ViewMut<'_, u32>,
    reports: &mut Reports,
    slot: usize,
) -> Result<()> {
    validate_trits(trits.raw.bytes as usize, (words.raw.bytes / 4) as usize)?;
    reports.check(slot)?;
    reports.reach(gpu, trits.raw.bytes)?;
    let mut batch = Batch::new(gpu);
    for Window { start, len } in gpu.windows(trits.raw.bytes as usize, 1) {
        let (x, words) = (trits.raw.part(start, len), words.raw.part(start / 32 * 8, len.div_ceil(32) * 8));
        let mut params = Params { n: len as u32, x: x.skip(1), words: words.skip(4), ..Params::default() };
        reports.address(&mut params, slot, start);
        batch.dispatch(&shaders::PACK, Vec::new(), &[x, words, reports.raw()], params, len.div_ceil(32))?;
    }
    batch.run("pack").map(drop)
}

pub(super) fn unpack(
    gpu: &Wgpu,
    words: View<'_, u32>,
    trits: &ViewMut<'_, i8>,
    reports: &mut Reports,
    slot: usize,
) -> Result<()> {
    validate_trits(trits.raw.bytes as usize, (words.raw.bytes / 4) as usize)?;
    reports.check(slot)?;
    reports.reach(gpu, trits.raw.bytes)?;
    let mut batch = Batch::new(gpu);
    for Window { start, len } in gpu.windows(trits.raw.bytes as usize, 1) {
        let (words, out) = (words.raw.part(start / 32 * 8, len.div_ceil(32) * 8), trits.raw.part(start, len));
        let mut params = Params { n: len as u32, words: words.skip(4), out: out.skip(1), ..Params::default() };
        reports.address(&mut params, slot, start);
        let threads = (out.offset % 4 + len).div_ceil(4);
        batch.dispatch(&shaders::PACK_UNPACK, Vec::new(), &[words, out, reports.raw()], params, threads)?;
    }
    batch.run("unpack").map(drop)
}

/// Words a group of 32 elements takes in each of three buffers.
type Widths = [u64; 3];

fn convert(gpu: &Wgpu, flag: &'static str, a: Raw<'_>, b: Raw<'_>, c: Raw<'_>, widths: Widths) -> Result<()> {
    let groups = a.bytes / 4 / widths[0];
    let mut batch = Batch::new(gpu);
    // In elements a window has 32 to a group.
    for Window { start, len } in gpu.windows(groups as usize, 8) {
        let part = |raw: Raw<'_>, width: u64| (4 * width * start, if raw.bytes == 0 { 0 } else { 4 * width * len });
        let [a, b, c] = [(a, widths[0]), (b, widths[1]), (c, widths[2])].map(|(raw, width)| {
            let (at, bytes) = part(raw, width);
            raw.part(at, bytes)
        });
        let params = Params { n: len as u32, x: a.skip(4), out: b.skip(4), other: c.skip(4), ..Params::default() };
        batch.dispatch(&shaders::PACK_CONVERT, vec![flag], &[a, b, c], params, len)?;
    }
    batch.run("convert").map(drop)
}

pub(super) fn split_planes(
    gpu: &Wgpu,
    words: View<'_, u32>,
    plus: &ViewMut<'_, u32>,
    minus: &ViewMut<'_, u32>,
) -> Result<()> {
    let count = |raw: Raw<'_>| (raw.bytes / 4) as usize;
    validate_planes(count(words.raw), count(plus.raw), count(minus.raw))?;
    convert(gpu, "SPLIT", words.raw, plus.raw, minus.raw, [2, 1, 1])
}

pub(super) fn join_planes(
    gpu: &Wgpu,
    plus: View<'_, u32>,
    minus: View<'_, u32>,
    words: &ViewMut<'_, u32>,
) -> Result<()> {
    let count = |raw: Raw<'_>| (raw.bytes / 4) as usize;
    validate_planes(count(words.raw), count(plus.raw), count(minus.raw))?;
    convert(gpu, "JOIN", plus.raw, words.raw, minus.raw, [1, 2, 1])
}

pub(super) fn planes_to_fields(gpu: &Wgpu, words: View<'_, u32>, fields: &ViewMut<'_, u32>) -> Result<()> {
    validate_fields((words.raw.bytes / 4) as usize, (fields.raw.bytes / 4) as usize)?;
    convert(gpu, "TO_FIELDS", words.raw, fields.raw, fields.raw, [2, 2, 2])
}

pub(super) fn fields_to_planes(gpu: &Wgpu, fields: View<'_, u32>, words: &ViewMut<'_, u32>) -> Result<()> {
    validate_fields((words.raw.bytes / 4) as usize, (fields.raw.bytes / 4) as usize)?;
    convert(gpu, "TO_PLANES", fields.raw, words.raw, words.raw, [2, 2, 2])
}
