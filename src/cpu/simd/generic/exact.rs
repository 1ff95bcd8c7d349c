//! Exact accumulation: the trits of a group become bytes, and those are added to its counts.

use super::accumulate::weigh;
use super::draws::{Draws, Generator, uniforms};
use super::quantize::NOTHING_KEPT;
use super::*;
use crate::cpu::plain::accumulate::exact as plain_exact;
use crate::cpu::simd::vector::{Fields, Job};
use crate::cpu::split::Tile;
use crate::cpu::tile::ExactTile;
use crate::numerics::constants::{RANGE_LIMIT, ZERO_LIMIT};
use crate::numerics::float::magnitude;
use crate::op::Report;

/// The least scale that operations make, 2^-97. The greatest is [`RANGE_LIMIT`].
const SCALE_MIN: u32 = 0x0f00_0000;

/// Scratch of a part, one value a group: see [`part`].
#[repr(C, align(64))]
struct Parts<const GROUPS: usize> {
    maxima: [u32; GROUPS],
    scales: [u32; GROUPS],
    /// The scales that decisions use.
    decide: [f32; GROUPS],
    /// Maxima as they are stored.
    seen: [u32; GROUPS],
    draws: Draws<GROUPS>,
}

/// A tile: whole blocks and batches here, the rest elsewhere.
pub(in crate::cpu::simd) fn tile<V: Fields, T: Element>(
    v: V,
    tile: ExactTile<'_, T>,
    rest: impl FnOnce(ExactTile<'_, T>) -> Report,
) -> Report {
    let whole = whole_units::<V>(tile.x.len(), tile.how.block);
    let (body, tail) = tile.split(whole);
    let mut report = exact(v, body);
    if !tail.x.is_empty() {
        report.merge(rest(tail));
    }
    report
}

/// Whole units of blocks: see [`whole_units`].
#[inline(always)]
fn exact<V: Fields, T: Element>(v: V, tile: ExactTile<'_, T>) -> Report {
    let weight = magnitude(tile.how.weight);
    match (tile.how.bits, tile.how.weight == 1f32.to_bits()) {
        _ if weight == 0 => plain_exact(tile),
        (4, true) => sized::<V, T, 4, false>(v, tile),
        (4, false) => sized::<V, T, 4, true>(v, tile),
        (8, true) => sized::<V, T, 8, false>(v, tile),
        (8, false) => sized::<V, T, 8, true>(v, tile),
        (16, true) => sized::<V, T, 16, false>(v, tile),
        (16, false) => sized::<V, T, 16, true>(v, tile),
        _ => plain_exact(tile),
    }
}

#[inline(always)]
fn sized<V: Fields, T: Element, const BITS: usize, const WEIGHTED: bool>(v: V, tile: ExactTile<'_, T>) -> Report {
    if tile.how.block > PART {
        v.enter(Exact::<T, BITS, WEIGHTED, GROUPS_MAX> { tile })
    } else {
        v.enter(Exact::<T, BITS, WEIGHTED, PART_GROUPS> { tile })
    }
}

struct Exact<'a, T, const BITS: usize, const WEIGHTED: bool, const GROUPS: usize> {
    tile: ExactTile<'a, T>,
}

impl<V: Fields, T: Element, const BITS: usize, const WEIGHTED: bool, const GROUPS: usize> Job<V>
    for Exact<'_, T, BITS, WEIGHTED, GROUPS>
{
    type Output = Report;

    #[inline(always)]
    fn run(self, v: V) -> Report {
        let ExactTile { x, counts, scales, seen, mut first, how } = self.tile;
        let size = how.block;
        let mut report = Report::default();
        let generator = Generator::new(v, &how.at, 1.0);
        let weight = v.splat_f32(f32::from_bits(how.weight));
        let mut p = Parts::<GROUPS> {
            maxima: [0; GROUPS],
            scales: [0; GROUPS],
            decide: [0.0; GROUPS],
            seen: [0; GROUPS],
            draws: Draws::new(),
        };
        let (x, counts) = (x.as_chunks::<GROUP>().0, counts.as_chunks_mut::<BITS>().0);
        let (groups, blocks) = (part(size) / GROUP, part(size) / size);
        let scaled = scales.chunks(blocks).zip(seen.chunks_mut(blocks));
        for ((x, counts), (scales, seen)) in x.chunks(groups).zip(counts.chunks_mut(groups)).zip(scaled) {
            spread_scales(scales, size, &mut p.scales[..x.len()]);
            let group = (first / GROUP as u64) as u32;
            let batches = V::batches(x);
            if let Some(above) = measure::<V, T, WEIGHTED, GROUPS>(v, &mut p, &generator, group, batches, size, weight)
            {
                for (seen, max) in seen.iter_mut().zip(p.seen.iter().step_by(size / GROUP)) {
                    *seen = (*seen).max((max >> 16) as u16);
                }
                let (scales, decide) = (V::batches(&p.scales), V::batches(&p.decide));
                for (b, (x, counts)) in batches.iter().zip(V::batches_mut(counts)).enumerate() {
                    let draws = p.draws.batch(b);
                    for g in 0..V::LANES {
                        let a = addends::<V, T, WEIGHTED>(v, &x[g], weight);
                        if above {
                            report.clipped += u64::from(count_above(v, a, scales[b][g]));
                        }
                        let (s, mut decided) = (v.splat_f32(decide[b][g]), uniforms(v, draws, g));
                        for q in 0..GROUP / V::LANES {
                            decided[q] = v.mul_sub(decided[q], s, v.abs(a[q]));
                        }
                        v.count(&mut counts[g], decided, a);
                    }
                }
            } else {
                let (x, counts) = (x.as_flattened(), counts.as_flattened_mut());
                report.merge(plain_exact(ExactTile { x, counts, scales, seen, first, how }));
            }
            first += (x.len() * GROUP) as u64;
        }
        report
    }
}

/// Maxima and draws of a part, and whether any maximum lies above its scale; `None` where the plain code must look.
#[inline(always)]
fn measure<V: Vector, T: Element, const WEIGHTED: bool, const GROUPS: usize>(
    v: V,
    p: &mut Parts<GROUPS>,
    generator: &Generator<V>,
    mut group: u32,
    x: &[V::Batch<[T; GROUP]>],
    size: usize,
    weight: V::Floats,
) -> Option<bool> {
    for (b, (x, max)) in x.iter().zip(V::batches_mut(&mut p.maxima)).enumerate() {
        generator.draw(v, group, &mut p.draws, b);
        group = group.wrapping_add(V::LANES as u32);
        let mut m = V::Batch::filled(v.splat(0));
        for g in 0..V::LANES {
            prefetch(v, &x[g]);
            m[g] = lane_maxima(v, addends::<V, T, WEIGHTED>(v, &x[g], weight));
        }
        v.store(max, over_block::<V, false>(v, v.across::<false>(&m), size));
    }
    let maxima = &mut V::batches_mut(&mut p.maxima)[..x.len()];
    over_batches::<V, false>(v, maxima, size);
    let (mut inside, mut above) = (true, false);
    let to = V::batches_mut(&mut p.decide).iter_mut().zip(V::batches_mut(&mut p.seen));
    for ((max, scales), (decide, seen)) in maxima.iter().zip(V::batches(&p.scales)).zip(to) {
        let (max, s) = (v.load(max), v.load(scales));
        inside &= !any_outside(v, max, 0, RANGE_LIMIT);
        // Zeros under a scale of zero stay zeros, as under a huge scale; anything else under it is looked at.
        let zeros = v.is_zero(v.or(max, s));
        let under = v.select(zeros, v.splat(NOTHING_KEPT.to_bits()), s);
        inside &= !any_outside(v, under, SCALE_MIN, RANGE_LIMIT + 1);
        above |= v.any(v.above(max, s));
        v.store_floats(decide, v.float_of(under));
        let up = v.without(v.add(max, v.splat(0xffff)), v.splat(0xffff));
        v.store(seen, v.drop(v.above(v.splat(ZERO_LIMIT), max), up));
    }
    inside.then_some(above)
}

#[inline(always)]
fn addends<V: Vector, T: Element, const WEIGHTED: bool>(
    v: V,
    x: &[T; GROUP],
    weight: V::Floats,
) -> V::Group<V::Floats> {
    let mut p = v.elements(x);
    if WEIGHTED {
        for q in 0..GROUP / V::LANES {
            p[q] = weigh(v, p[q], weight);
        }
    }
    p
}

/// How many of a group lie above a scale.
#[inline(always)]
fn count_above<V: Vector>(v: V, p: V::Group<V::Floats>, s: u32) -> u32 {
    let s = v.splat_f32(f32::from_bits(s));
    let mut above = V::Group::filled(v.less(s, v.abs(p[0])));
    for q in 1..GROUP / V::LANES {
        above[q] = v.less(s, v.abs(p[q]));
    }
    v.bits_of(above).count_ones()
}
