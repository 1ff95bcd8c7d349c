//! Quantize: gradients become planes and scales.

use super::Cuda;
use super::draw::DrawParams;
use super::item::{Pointer, item};
use super::launch::{CTA_TILE, Call, suffix};
use super::modules::Module;
use super::scratch::rounds;
use crate::error::Result;
use crate::numerics::constants::{CHUNK, domain};
use crate::numerics::float::magnitude;
use crate::op::quantize::{Quantize, Rule, Threshold};
use crate::op::{Checked, Launch};
use crate::types::{BlockSize, Draw, Element, ElementType, Grouping};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

item! {
    /// `QuantizeItem` in kernels/include/quantize.cuh.
    struct Row {
        gradient: Pointer,
        words: Pointer,
        scales: Pointer,
        /// Groups and their chunks, where there is a second pass.
        scratch: Pointer,
        report: Pointer,
        n: u64,
        first: u64,
        tensor: u32,
        begin: u32,
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Blocks {
    draw: DrawParams,
    block_shift: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct BlocksThreshold {
    threshold: u32,
    of_mean: u32,
    block_shift: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct BlocksClip {
    draw: DrawParams,
    sigmas: u32,
    block_shift: u32,
}

/// Rows and whole tensors. Mirrors `QuantizeGroup` in kernels/include/group.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Groups {
    draw: DrawParams,
    /// Elements of a row; 0: the whole tensor.
    size: u64,
    goal: u32,
    parameter: u32,
    kept: u32,
    slices: u32,
}

/// `Goal` in kernels/include/group.cuh.
const STOCHASTIC: u32 = 0;
const CLIPPED: u32 = 1;
const GIVEN: u32 = 2;
const OF_MEAN: u32 = 3;

/// Bytes of a `Group` and of a `Chunk` in scratch memory.
const GROUP_BYTES: u64 = 64;
const CHUNK_BYTES: u64 = 16;
/// Chunks that one CTA joins before a group gets another.
const CHUNKS_PER_SLICE: u64 = 2048;
const SLICES_MAX: u64 = 64;
/// Rows up to this length are read by a warp each, longer groups by a CTA for each chunk.
const WARP_TILE: u64 = 1024;
/// Warps of a CTA.
const WARPS: u64 = 4;

/// CTAs of the kernels that take several tiles each: `TILES` in kernels/include/quantize.cuh.
fn ctas<T: Element>(row: &Row) -> u64 {
    let tiles = match T::TYPE {
        ElementType::F32 => 2,
        ElementType::F16 | ElementType::Bf16 => 4,
    };
    row.n.div_ceil(tiles * CTA_TILE)
}

impl Launch<Quantize> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Quantize, T>) -> Result<()> {
        let (op, items, (state, reports)) = work.into_parts();
        let mut call = Call::new(self)?;
        let state = call.state(state.0)?;
        let slots = call.reports(reports)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(Row {
                gradient: call.read(item.x)?,
                words: call.write(&mut item.words)?,
                scales: call.write(&mut item.scales)?,
                scratch: Pointer::NULL,
                report: slots.at(item.report),
                n: item.x.len() as u64,
                first: item.first,
                tensor: item.tensor,
                begin: 0,
            });
        }
        match op.grouping {
            Grouping::Block(block) => by_block::<T>(&call, op.rule, state, block, &rows),
            Grouping::Row(size) => match one_pass(size) {
                Some(block) => by_block::<T>(&call, op.rule, state, block, &rows),
                None => by_group::<T>(&call, op.rule, state, size, rows),
            },
            Grouping::Tensor => by_group::<T>(&call, op.rule, state, 0, rows),
        }
    }
}

/// Rows that are as long as some block are quantized as blocks: in one pass instead of two.
fn one_pass(size: u64) -> Option<BlockSize> {
    u32::try_from(size).ok().and_then(|size| BlockSize::new(size).ok())
}

/// The launch's draws; none are made by threshold rules.
fn draws(draw: &Draw, state: Pointer) -> DrawParams {
    DrawParams::new(draw, domain::TERNARY, state)
}

fn by_block<T: Element>(call: &Call<'_>, rule: Rule, state: Pointer, block: BlockSize, rows: &[Row]) -> Result<()> {
    let block_shift = block.get().ilog2();
    let name = |kernel: &str| format!("quantize_block_{kernel}_{}", suffix::<T>());
    let threshold = |threshold, of_mean| {
        let params = BlocksThreshold { threshold, of_mean, block_shift, pad: 0 };
        call.launch(Module::Quantize, &name("threshold"), &params, rows, ctas::<T>, 0)
    };
    match rule {
        Rule::Stochastic { draw, clip: None } => {
            let params = Blocks { draw: draws(&draw, state), block_shift, pad: 0 };
            call.launch(Module::Quantize, &name("stochastic"), &params, rows, ctas::<T>, 0)
        }
        Rule::Stochastic { draw, clip: Some(c) } => {
            let params = BlocksClip { draw: draws(&draw, state), sigmas: c.to_bits(), block_shift };
            call.launch(Module::Quantize, &name("clip"), &params, rows, ctas::<T>, 0)
        }
        Rule::Threshold(Threshold::Given(t)) => threshold(magnitude(t.to_bits()), 0),
        Rule::Threshold(Threshold::Mean(factor)) => threshold(magnitude(factor.to_bits()), 1),
    }
}

/// Groups, and chunks of a group, in a tensor of `n` elements.
fn shape(size: u64, n: u64) -> (u64, u64, u64) {
    let size = if size == 0 { n } else { size };
    (size, n / size, size.div_ceil(CHUNK as u64))
}

fn by_group<T: Element>(call: &Call<'_>, rule: Rule, state: Pointer, size: u64, mut rows: Vec<Row>) -> Result<()> {
    rows.retain(|row| row.n > 0);
    if rows.is_empty() {
        return Ok(());
    }
    let (draw, goal, parameter) = match rule {
        Rule::Stochastic { draw, clip: None } => (draw, STOCHASTIC, 0),
        Rule::Stochastic { draw, clip: Some(c) } => (draw, CLIPPED, c.to_bits()),
        Rule::Threshold(Threshold::Given(t)) => (Draw::default(), GIVEN, magnitude(t.to_bits())),
        Rule::Threshold(Threshold::Mean(factor)) => (Draw::default(), OF_MEAN, magnitude(factor.to_bits())),
    };
    // The maximum is all that a stochastic scale needs: it is kept with the group, and nothing is left to combine.
    let maximum_alone = goal == STOCHASTIC;
    // Scratch memory of each item: its groups, then their chunks.
    let bytes_of_group = |row: &Row| {
        let (_, _, chunks) = shape(size, row.n);
        GROUP_BYTES + if maximum_alone { 0 } else { chunks * CHUNK_BYTES }
    };
    let params = Groups { draw: draws(&draw, state), size, goal, parameter, kept: 0, slices: 0 };
    let (groups, size_of) = (|row: &Row| shape(size, row.n).1, |row: &Row| shape(size, row.n).0);
    for rows in rounds(&rows, groups, size_of, bytes_of_group, |row, from, many| part::<T>(row, size, from, many)) {
        let kept = matches!(rule, Rule::Threshold(_));
        round::<T>(call, &params, rows, |row| groups(row) * bytes_of_group(row), kept)?;
    }
    Ok(())
}

/// `many` groups of an item from the group `from` on, whose first element is a multiple of 32.
fn part<T: Element>(row: &Row, size: u64, from: u64, many: u64) -> Row {
    let (size, _, _) = shape(size, row.n);
    let begin = from * size;
    Row {
        gradient: row.gradient.byte_add(begin * size_of::<T>() as u64),
        words: row.words.byte_add(begin / 32 * 8),
        scales: row.scales.byte_add(2 * from),
        n: many * size,
        first: row.first + begin,
        ..*row
    }
}

/// Both passes over items whose scratch memory is there at once.
fn round<T: Element>(
    call: &Call<'_>,
    params: &Groups,
    mut rows: Vec<Row>,
    bytes_of: impl Fn(&Row) -> u64,
    keeps_sums: bool,
) -> Result<()> {
    let size = params.size;
    let maximum_alone = params.goal == STOCHASTIC;
    let total: u64 = rows.iter().map(&bytes_of).sum();
    let mut scratch = call.cuda().scratch(total)?;
    let mut at: Pointer = scratch.pointer();
    for row in &mut rows {
        row.scratch = at;
        at = at.byte_add(bytes_of(row));
    }
    scratch.clear(call.cuda(), (total / 8) as usize)?;

    let longest = rows.iter().map(|row| shape(size, row.n).2).max().unwrap_or(1);
    let slices = longest.div_ceil(CHUNKS_PER_SLICE).clamp(1, SLICES_MAX);
    let params = Groups { slices: slices as u32, ..*params };
    let units = |row: &Row| {
        let (size, groups, chunks) = shape(size, row.n);
        if size <= WARP_TILE { groups.div_ceil(WARPS) } else { groups * chunks }
    };
    let sums = format!("group_sums_{}", suffix::<T>());
    call.launch(Module::Quantize, &sums, &params, &rows, units, 0)?;
    // Groups of one chunk have concluded in the first pass.
    let joined = |row: &Row| {
        let (_, groups, chunks) = shape(size, row.n);
        if chunks > 1 && !maximum_alone { groups * slices } else { 0 }
    };
    call.launch(Module::Quantize, "group_combine", &params, &rows, joined, 0)?;
    let codes = format!("group_codes_{}", suffix::<T>());
    call.launch(Module::Quantize, &codes, &params, &rows, ctas::<T>, 0)?;
    if keeps_sums {
        let params = Groups { kept: 1, ..params };
        let all = |row: &Row| shape(size, row.n).1 * slices;
        call.launch(Module::Quantize, "group_combine", &params, &rows, all, 0)?;
    }
    Ok(())
}
