//! The block kernels, written once over [`Vector`]: quantize and adaptive accumulation.
//!
//! Every function here equals a plain one bit for bit; what is rare (an element out of range, a block shorter than
//! the others, a scale that no operation makes) is left to the plain code.

pub(super) mod accumulate;
pub(super) mod draws;
pub(super) mod exact;
pub(super) mod quantize;
pub(super) mod threshold;

use super::vector::{Array, Vector};
use crate::numerics::constants::{BLOCK_MAX, GROUP};
use crate::op::Element;

/// Elements that are measured before any of their output is written, unless a block is larger: whole batches.
pub(super) const PART: usize = PART_GROUPS * GROUP;
pub(super) const PART_GROUPS: usize = 32;
/// Groups of the largest block.
pub(super) const GROUPS_MAX: usize = BLOCK_MAX as usize / GROUP;
/// Groups of the largest batch.
const LANES_MAX: usize = 16;
/// How far ahead of the first pass memory is fetched, in bytes: the hardware stops at page ends.
const AHEAD: usize = 4096;

/// Elements of a part: whole blocks and whole batches.
pub(super) const fn part(size: usize) -> usize {
    if size > PART { size } else { PART }
}

/// Of `n` elements, those that are whole blocks and whole batches.
pub(super) fn whole_units<V: Vector>(n: usize, size: usize) -> usize {
    let unit = size.max(V::LANES * GROUP);
    n / unit * unit
}

/// Sums (`ADD`) or maxima of unsigned integers.
#[inline(always)]
pub(super) fn join<V: Vector, const ADD: bool>(v: V, a: V::Ints, b: V::Ints) -> V::Ints {
    if ADD { v.add(a, b) } else { v.max(a, b) }
}

/// From one value a group to one a block of `size` elements, in the lanes of all its groups; of a block larger than a
/// batch, one a batch.
#[inline(always)]
pub(super) fn over_block<V: Vector, const ADD: bool>(v: V, mut x: V::Ints, size: usize) -> V::Ints {
    let mut distance = 1;
    while distance < V::LANES {
        if size > distance * GROUP {
            x = join::<V, ADD>(v, x, v.exchanged(x, distance));
        }
        distance *= 2;
    }
    x
}

/// From one value a batch to one a block, for blocks larger than a batch.
#[inline(always)]
pub(super) fn over_batches<V: Vector, const ADD: bool>(v: V, x: &mut [V::Batch<u32>], size: usize) {
    let batch = V::LANES * GROUP;
    if size > batch {
        for block in x.chunks_exact_mut(size / batch) {
            let mut all = v.splat(0);
            for x in block.iter() {
                all = join::<V, ADD>(v, all, v.load(x));
            }
            for x in block {
                v.store(x, all);
            }
        }
    }
}

/// Fetches what lies [`AHEAD`] of a group.
#[inline(always)]
pub(super) fn prefetch<V: Vector, T: Element>(v: V, x: &[T; GROUP]) {
    let at = x.as_ptr().cast::<i8>().wrapping_add(AHEAD);
    v.fetch(at);
    if size_of::<T>() == 4 {
        v.fetch(at.wrapping_add(64));
    }
}

/// Magnitude patterns without their sign, as integers.
#[inline(always)]
pub(super) fn magnitudes<V: Vector>(v: V, x: V::Floats) -> V::Ints {
    v.pattern(v.abs(x))
}

/// The largest magnitude pattern of each lane over the vectors of a group.
#[inline(always)]
pub(super) fn lane_maxima<V: Vector>(v: V, x: V::Group<V::Floats>) -> V::Ints {
    let mut max = magnitudes(v, x[0]);
    for q in 1..GROUP / V::LANES {
        max = v.max(max, magnitudes(v, x[q]));
    }
    max
}

/// Largest magnitude patterns of the groups of a batch.
#[inline(always)]
pub(super) fn group_maxima<V: Vector, T: Element>(v: V, x: &V::Batch<[T; GROUP]>) -> V::Ints {
    let mut maxima = V::Batch::filled(v.splat(0));
    for g in 0..V::LANES {
        prefetch(v, &x[g]);
        maxima[g] = lane_maxima(v, v.elements(&x[g]));
    }
    v.across::<false>(&maxima)
}

/// The bf16 scale of every group, as f32 bits.
#[inline(always)]
pub(super) fn spread_scales(scales: &[u16], size: usize, lanes: &mut [u32]) {
    let shift = (size / GROUP).trailing_zeros();
    for (g, lane) in lanes.iter_mut().enumerate() {
        *lane = u32::from(scales.get(g >> shift).copied().unwrap_or(0)) << 16;
    }
}

/// Writes one scale a block from lanes, one a group.
#[inline(always)]
pub(super) fn write_scales(scales: &mut [u16], lanes: &[u32], size: usize) {
    for (scale, lane) in scales.iter_mut().zip(lanes.iter().step_by(size / GROUP)) {
        *scale = (lane >> 16) as u16;
    }
}

/// Whether any lane is below `low` or at least `high`, as signed integers.
#[inline(always)]
pub(super) fn any_outside<V: Vector>(v: V, x: V::Ints, low: u32, high: u32) -> bool {
    v.any(v.either(v.above(v.splat(low), x), v.above(x, v.splat(high - 1))))
}
