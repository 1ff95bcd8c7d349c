//! The cases of each operation, and the walk over all of them.

mod accumulate_adaptive;
mod accumulate_exact;
mod accumulate_f32;
mod check;
mod dequantize;
mod every_length;
mod guards;
mod look;
mod pack;
mod planes;
mod quantize;
mod read_out;
mod read_out_f32;
mod reduce;
mod squared_norm_f32;
mod state;
mod sums;
mod update;
mod update_adamw_8bit;
mod window;
mod wrong;

pub use accumulate_adaptive::AccumulateAdaptive;
pub use accumulate_exact::AccumulateExact;
pub use accumulate_f32::AccumulateF32;
pub use check::Check;
pub use dequantize::Dequantize;
pub use look::Look;
pub use pack::{Pack, Unpack};
pub use planes::{Conversion, Convert};
pub use quantize::Quantize;
pub use read_out::{Levels, ReadOut};
pub use read_out_f32::ReadOutF32;
pub use reduce::{Reduce, Reduced, Reduction, Side};
pub use squared_norm_f32::SquaredNormF32;
pub use state::{Change, ChangeStates};
pub use update::{Rule as UpdateRule, Update};
pub use update_adamw_8bit::UpdateAdamW8;
pub use window::{CompareScales, Merge, WindowScales};
pub use wrong::Wrong;

use super::case::Visit;
use super::failure::{Difference, Failure};
use super::options::Options;
use super::values::{Pattern, Rng};
use crate::numerics::constants::ELEMENTS_MAX;
use crate::numerics::level::level_max;
use crate::numerics::pack::{set_field, words};
use crate::op::{BlockSize, Draw, Element, Grouping, OPERATIONS};

/// Runs a walk for each element type.
macro_rules! typed {
    ($module:ident, $options:expr, $visit:expr) => {{
        $module::each::<f32>($options, $visit)?;
        $module::each::<half::f16>($options, $visit)?;
        $module::each::<half::bf16>($options, $visit)?;
    }};
}

/// Walks over the cases of every operation that the options cover.
///
/// # Errors
///
/// The first that the visitor returns; [`Difference::NoCases`] for an operation without cases.
pub fn each(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    for &operation in OPERATIONS.iter().filter(|o| options.covers(o)) {
        match operation {
            "quantize" => typed!(quantize, options, visit),
            "dequantize" => typed!(dequantize, options, visit),
            "accumulate_adaptive" => typed!(accumulate_adaptive, options, visit),
            "accumulate_exact" => typed!(accumulate_exact, options, visit),
            "accumulate_f32" => typed!(accumulate_f32, options, visit),
            "look" => typed!(look, options, visit),
            "window_scales" => window::each_scales(options, visit)?,
            "compare_scales" => window::each_compare(options, visit)?,
            "merge" => window::each_merge(options, visit)?,
            "read_out" => typed!(read_out, options, visit),
            "read_out_f32" => typed!(read_out_f32, options, visit),
            "check" => typed!(check, options, visit),
            "pack" => pack::each_pack(options, visit)?,
            "unpack" => pack::each_unpack(options, visit)?,
            "split_planes" => planes::each(Conversion::SplitPlanes, options, visit)?,
            "join_planes" => planes::each(Conversion::JoinPlanes, options, visit)?,
            "planes_to_fields" => planes::each(Conversion::PlanesToFields, options, visit)?,
            "fields_to_planes" => planes::each(Conversion::FieldsToPlanes, options, visit)?,
            "count_nonzero" => reduce::each_count(options, visit)?,
            "dot" => reduce::each_dot(options, visit)?,
            "squared_norm" => reduce::each_norm(options, visit)?,
            "squared_norm_f32" => squared_norm_f32::each(options, visit)?,
            "update_sgd" | "update_adamw" => {
                update::each::<f32>(operation == "update_adamw", options, visit)?;
                update::each::<half::bf16>(operation == "update_adamw", options, visit)?;
            }
            "update_adamw_8bit" => {
                update_adamw_8bit::each::<f32>(options, visit)?;
                update_adamw_8bit::each::<half::bf16>(options, visit)?;
            }
            "advance_micro_batch" | "decide" | "advance_step" => state::each(operation, options, visit)?,
            _ => return Err(Failure::of_suite("the suite", operation, options.seed, Difference::NoCases)),
        }
        if options.is_full() {
            every_length::each(operation, options, visit)?;
        }
        wrong::each(operation, options, visit)?;
    }
    Ok(())
}

/// One tensor of a list: its number, the index of its first element, its values, its report slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Given<T> {
    /// The tensor's number: keys its draws.
    pub tensor: u32,
    /// Index of the first element.
    pub first: u64,
    /// The values.
    pub x: Vec<T>,
    /// The report slot.
    pub slot: usize,
}

impl<T: Element> Given<T> {
    /// One value with its neighbours in memory order, for messages.
    fn show(&self, element: usize) -> String {
        match self.x.get(element) {
            Some(x) => format!(
                "element {element} of {} (first {}, tensor number {}): x = {x:?} ({:#010x} as f32)",
                self.x.len(),
                self.first,
                self.tensor,
                x.to_f32_bits()
            ),
            None => format!("element {element} lies past the {} of the tensor", self.x.len()),
        }
    }
}

/// A list of tensors: lengths and patterns in step, tensor numbers, positions and slots of all kinds.
///
/// Positions are multiples of `multiple`. Slot 0 and the last of [`slots`] stay unused; some tensors share one.
fn list<T: Element>(rng: &mut Rng, shapes: &[(usize, Pattern)], multiple: u64) -> Vec<Given<T>> {
    let given = |(i, &(n, pattern)): (usize, &(usize, Pattern))| {
        let last = (ELEMENTS_MAX - n as u64) / multiple * multiple;
        let first = match rng.below(4) {
            0 | 1 => 0,
            2 => multiple * rng.below(1 << 12),
            _ => rng.pick(&[multiple, last, last / 2 / multiple * multiple, (1u64 << 32).next_multiple_of(multiple)]),
        };
        let tensor = if rng.below(8) == 0 { rng.word() } else { i as u32 };
        Given { tensor, first, x: pattern.values(rng, n), slot: 1 + i / 2 * 2 }
    };
    shapes.iter().enumerate().map(given).collect()
}

/// Report slots for a list of this many tensors.
fn slots(tensors: usize) -> usize {
    tensors + 3
}

/// A draw from anywhere in a run.
fn place(rng: &mut Rng) -> Draw {
    let step = rng.pick(&[0, 1, 1000, u32::MAX]);
    let micro_batch = rng.pick(&[0, 1, 31, (1 << 24) - 1]);
    Draw::new(rng.next(), step).micro_batch(micro_batch)
}

/// All block sizes, smallest first.
fn blocks() -> impl Iterator<Item = BlockSize> {
    (5..=12).filter_map(|bits| BlockSize::new(1 << bits).ok())
}

/// Lengths for a block size: all up to twice a small block, the edges around a large one; without the full budget
/// those of the largest blocks come in turns by `number`.
fn lengths(options: &Options, block: usize, number: usize) -> Vec<usize> {
    let every = if options.is_full() { 256 } else { 64 };
    let all = 0..=(2 * block).min(every);
    let edges = [block - 1, block, block + 1, 2 * block - 31, 2 * block - 1, 2 * block, 2 * block + 1, 5 * block + 33];
    let edges = edges.into_iter().filter(|&n| n > every);
    let edges = edges.enumerate().filter(|(i, _)| options.is_full() || block < 1024 || (number + i).is_multiple_of(4));
    options.within(all.chain(edges.map(|(_, n)| n)))
}

/// Lengths around larger units: the chunk of 4096, 65536, and a long one in the full budget.
fn long_lengths(options: &Options) -> Vec<usize> {
    let edges = [4095, 4096, 4097, 8191, 12_289, 65_535, 65_536, 65_537];
    let long: &[usize] = if options.is_full() { &[131_073, 262_144, 1_000_003] } else { &[] };
    options.within(edges.into_iter().chain(long.iter().copied()))
}

/// Tensors of whole tiles, of all that a kernel takes at once (up to 16,384 elements) and with a tail behind, in which one
/// element of one tile is NaN.
fn tiles<T: Element>(options: &Options, rng: &mut Rng, multiple: u64) -> Vec<Given<T>> {
    let shapes: Vec<_> = options.within([16_384, 37_000]).into_iter().map(|n| (n, Pattern::Normal)).collect();
    let mut tensors = list(rng, &shapes, multiple);
    for x in tensors.iter_mut().flat_map(|t| t.x.get_mut(3 * 4096 + 2 * 1024 + 77)) {
        *x = T::from_f32_bits(f32::NAN.to_bits());
    }
    tensors
}

/// Lists of shapes for one set of parameters: every length with patterns that rotate from one set to the next, then
/// every pattern at some lengths. `number` is the number of the set.
fn shapes(options: &Options, block: usize, number: usize) -> Vec<Vec<(usize, Pattern)>> {
    let lengths = lengths(options, block, number);
    let rotated = |by: usize| -> Vec<(usize, Pattern)> {
        lengths.iter().enumerate().map(|(i, &n)| (n, Pattern::cycle(i + by))).collect()
    };
    let every = |n: usize| Pattern::ALL.iter().map(|&p| (n, p)).collect::<Vec<_>>();
    let mut lists = Vec::new();
    if options.is_full() {
        lists.extend((0..Pattern::ALL.len()).map(|by| rotated(number + by)));
    } else {
        lists.push(rotated(number * 5));
    }
    let n = if options.is_full() || block < 1024 { block + block / 2 + 5 } else { block / 2 + 5 };
    if options.max_elements.is_none_or(|max| n <= max) {
        lists.push(every(n));
    }
    lists
}

/// Groupings by row with the lengths that go with them, and the whole tensor. Without the full budget the long ones
/// come in turns: `number` is the number of the set of parameters.
fn groupings(options: &Options, number: usize) -> Vec<(Grouping, Vec<usize>)> {
    let full = options.is_full();
    let counts: &[usize] = if full { &[0, 1, 2, 3, 7] } else { &[0, 1, 3] };
    let rows = |cols: usize| (Grouping::Row(cols as u64), options.within(counts.iter().map(|rows| rows * cols)));
    let mut groupings: Vec<_> = [1, 3, 31, 32, 33, 64, 100, 255, 1000].map(rows).into();
    let long = [4095, 4096, 4097, 10_000].into_iter().enumerate();
    groupings.extend(long.filter(|(i, _)| full || number % 4 == *i).map(|(_, cols)| rows(cols)));
    groupings.push((Grouping::Tensor, options.within(0..if full { 300 } else { 70 })));
    let long = long_lengths(options).into_iter().enumerate();
    let some = long.filter(|(i, _)| full || (number + i).is_multiple_of(4)).map(|(_, n)| n).collect();
    groupings.push((Grouping::Tensor, some));
    groupings
}

/// Levels (planes for 2 bits) and scales of any kind.
fn side(rng: &mut Rng, bits: u32, grouping: Grouping, n: usize) -> Side {
    (levels(rng, bits, n), count_scales(rng, bits, grouping.groups(n)))
}

/// The element type, for messages.
fn type_name<T: Element>() -> String {
    format!("{:?}", T::TYPE).to_lowercase()
}

/// Planes of `n` trits, this many of a hundred groups dense; a few pairs are invalid, the tail is zero.
fn trits(rng: &mut Rng, n: usize, density: u64) -> Vec<u32> {
    let mut planes = vec![0u32; words(n, 2)];
    for (group, pair) in planes.chunks_mut(2).enumerate() {
        let dense = rng.below(100) < density;
        let mask = if dense { u32::MAX } else { rng.word() & rng.word() };
        let signs = rng.word();
        let invalid = if rng.below(16) == 0 { 1 << rng.below(32) } else { 0 };
        let held = u32::MAX >> (32 - (n - group * 32).min(32));
        pair.copy_from_slice(&[(mask & signs | invalid) & held, (mask & !signs | invalid) & held]);
    }
    planes
}

/// Levels or counts of `n` elements at a width: any that are allowed, the largest of both signs often.
fn levels(rng: &mut Rng, bits: u32, n: usize) -> Vec<u32> {
    if bits == 2 {
        return trits(rng, n, 40);
    }
    let mut fields = vec![0; words(n, bits)];
    let max = i64::from(level_max(bits));
    for i in 0..n {
        let l = match rng.below(4) {
            0 => rng.pick(&[max, -max, 0, 1, -1]),
            _ => rng.below(2 * max as u64 + 1) as i64 - max,
        };
        set_field(&mut fields, bits, i, l as i32);
    }
    fields
}

/// Scales: bf16 from 2^-97 to `largest`, and zeros.
fn scales(rng: &mut Rng, n: usize, largest: u16) -> Vec<u16> {
    let smallest = 0x0f00;
    let around_one = |rng: &mut Rng| 0x3d00 + rng.below(0x300) as u16;
    let scale = |_| match rng.below(8) {
        0 => 0,
        1 => rng.pick(&[smallest, largest, 0x3f80]),
        2..5 => smallest + rng.below(u64::from(largest - smallest)) as u16,
        _ => around_one(rng),
    };
    (0..n).map(scale).collect()
}

/// Scales near the largest that a width has: 2^126, or 2^105 for 32 bits.
fn large_scales(bits: u32, n: usize) -> Vec<u16> {
    (0..n as u16).map(|i| if bits == 32 { 0x7400 - ((i % 4) << 7) } else { 0x7e80 - i % 4 }).collect()
}

/// Scales of levels or counts: for 32 bits powers of two from 2^-111 to 2^105, and zeros.
fn count_scales(rng: &mut Rng, bits: u32, n: usize) -> Vec<u16> {
    if bits < 32 {
        return scales(rng, n, 0x7e80);
    }
    let scale = |_| if rng.below(8) == 0 { 0 } else { (16 + rng.below(217) as u16) << 7 };
    (0..n).map(scale).collect()
}
