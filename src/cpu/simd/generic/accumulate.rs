//! Adaptive accumulation: sums of a block are kept in a buffer while the scale that covers them is found.

use super::draws::{BatchDraws, Draws, Generator, OFFSET, patterns};
use super::quantize::NOTHING_KEPT;
use super::*;
use crate::cpu::plain::accumulate::adaptive as plain_adaptive;
use crate::cpu::simd::vector::{Fields, Job};
use crate::cpu::split::Tile;
use crate::cpu::tile::AdaptiveTile;
use crate::numerics::constants::{MIN_NORMAL, ZERO_LIMIT};
use crate::numerics::float::magnitude;
use crate::numerics::level::level_max;
use crate::op::Report;

/// Sums below 2^125 under a scale below 2^110 cannot hide an addend out of range (2^126 and above): levels of eight
/// bits times the scale stay below 2^118.
const SUM_LIMIT: u32 = 0x7e00_0000;
const SCALE_LIMIT: u32 = 0x7680_0000;
/// Scales that operations make lie above: 2^-97. Below it a level times a scale may not be exact.
const SCALE_MIN: u32 = 0x0f00_0000;

/// Groups whose sums take half a page: spare room to move the sums within.
const HALF_PAGE: usize = 2048 / 4 / GROUP;

/// Scratch of a part: see [`part`].
#[repr(C, align(64))]
struct Parts<const GROUPS: usize> {
    /// `l s + p` of every element, from group `skip` on.
    sums: [[f32; GROUP]; GROUPS],
    maxima: [u32; GROUPS],
    /// The scales that decisions use, one a group, and about their reciprocals in fixed point.
    scales: [f32; GROUPS],
    reciprocals: [f32; GROUPS],
    lanes: [u32; GROUPS],
    draws: Draws<GROUPS>,
    skip: usize,
}

/// A tile: whole blocks and batches here, the rest elsewhere.
pub(in crate::cpu::simd) fn tile<V: Fields, T: Element>(
    v: V,
    tile: AdaptiveTile<'_, T>,
    rest: impl FnOnce(AdaptiveTile<'_, T>) -> Report,
) -> Report {
    let whole = whole_units::<V>(tile.x.len(), tile.how.block);
    let (body, tail) = tile.split(whole);
    let mut report = adaptive(v, body);
    if !tail.x.is_empty() {
        report.merge(rest(tail));
    }
    report
}

/// Whole units of blocks: see [`whole_units`].
#[inline(always)]
fn adaptive<V: Fields, T: Element>(v: V, tile: AdaptiveTile<'_, T>) -> Report {
    let weight = magnitude(tile.how.weight);
    match (tile.how.bits, tile.how.weight == 1f32.to_bits()) {
        _ if weight == 0 => plain_adaptive(tile),
        (2, true) => sized::<V, T, 2, false>(v, tile),
        (2, false) => sized::<V, T, 2, true>(v, tile),
        (4, true) => sized::<V, T, 4, false>(v, tile),
        (4, false) => sized::<V, T, 4, true>(v, tile),
        (8, true) => sized::<V, T, 8, false>(v, tile),
        (8, false) => sized::<V, T, 8, true>(v, tile),
        _ => plain_adaptive(tile),
    }
}

#[inline(always)]
fn sized<V: Fields, T: Element, const BITS: usize, const WEIGHTED: bool>(v: V, tile: AdaptiveTile<'_, T>) -> Report {
    if tile.how.block > PART {
        v.enter(Adaptive::<T, BITS, WEIGHTED, { GROUPS_MAX + HALF_PAGE }> { tile })
    } else {
        v.enter(Adaptive::<T, BITS, WEIGHTED, { PART_GROUPS + HALF_PAGE }> { tile })
    }
}

struct Adaptive<'a, T, const BITS: usize, const WEIGHTED: bool, const GROUPS: usize> {
    tile: AdaptiveTile<'a, T>,
}

impl<V: Fields, T: Element, const BITS: usize, const WEIGHTED: bool, const GROUPS: usize> Job<V>
    for Adaptive<'_, T, BITS, WEIGHTED, GROUPS>
{
    type Output = Report;

    #[inline(always)]
    fn run(self, v: V) -> Report {
        let AdaptiveTile { x, levels, scales, mut first, how } = self.tile;
        let size = how.block;
        let mut report = Report::default();
        let generator = Generator::new(v, &how.at, one(BITS));
        let weight = v.splat_f32(f32::from_bits(how.weight));
        let mut p = Parts::<GROUPS> {
            sums: [[0.0; GROUP]; GROUPS],
            maxima: [0; GROUPS],
            scales: [0.0; GROUPS],
            reciprocals: [0.0; GROUPS],
            lanes: [0; GROUPS],
            draws: Draws::new(),
            skip: 0,
        };
        // A load whose address equals that of a recent store but for the page waits for it: keep the sums just below
        // the gradient in that sense, not just above.
        if p.sums.as_ptr().addr().wrapping_sub(x.as_ptr().addr()) % 4096 < 2048 {
            p.skip = HALF_PAGE;
        }
        let (x, fields) = (x.as_chunks::<GROUP>().0, levels.as_chunks_mut::<BITS>().0);
        let (groups, blocks) = (part(size) / GROUP, part(size) / size);
        for ((x, fields), scales) in x.chunks(groups).zip(fields.chunks_mut(groups)).zip(scales.chunks_mut(blocks)) {
            spread_scales(scales, size, &mut p.lanes[..x.len()]);
            let group = (first / GROUP as u64) as u32;
            let (batches, levels) = (V::batches(x), V::batches(fields));
            if add::<V, T, BITS, WEIGHTED, GROUPS>(v, &mut p, &generator, group, batches, levels, size, weight) {
                grid::<V, BITS, GROUPS>(v, &mut p, batches.len());
                write_scales(scales, &p.lanes, size);
                store::<V, BITS, GROUPS>(v, &p, V::batches_mut(fields));
            } else {
                let (x, levels) = (x.as_flattened(), fields.as_flattened_mut());
                report.merge(plain_adaptive(AdaptiveTile { x, levels, scales, first, how }));
            }
            first += (x.len() * GROUP) as u64;
        }
        report
    }
}

/// `l s + p` of a part, and the largest magnitude patterns of its blocks; `false` where the plain code must look.
#[expect(clippy::too_many_arguments, reason = "inlined: a part and where it lies")]
#[inline(always)]
fn add<V: Fields, T: Element, const BITS: usize, const WEIGHTED: bool, const GROUPS: usize>(
    v: V,
    p: &mut Parts<GROUPS>,
    generator: &Generator<V>,
    mut group: u32,
    x: &[V::Batch<[T; GROUP]>],
    fields: &[V::Batch<[u32; BITS]>],
    size: usize,
    weight: V::Floats,
) -> bool {
    let (mut all, mut old) = (v.splat(0), true);
    let sums = V::batches_mut(&mut p.sums[p.skip..]);
    let (lanes, scales) = (V::batches(&p.lanes), V::batches_mut(&mut p.scales));
    let maxima = V::batches_mut(&mut p.maxima);
    for (b, ((x, fields), sums)) in x.iter().zip(fields).zip(sums).enumerate() {
        // Arithmetic while memory is waited for.
        generator.draw(v, group, &mut p.draws, b);
        group = group.wrapping_add(V::LANES as u32);
        let s = v.load(&lanes[b]);
        old &= scales_of_operations(v, s);
        // A scale of 2^-97 or more is still a normal number in any unit of levels.
        v.store_floats(&mut scales[b], v.mul(v.float_of(s), v.splat_f32(V::level_unit(BITS))));
        let mut m = V::Batch::filled(s);
        for g in 0..V::LANES {
            prefetch(v, &x[g]);
            let s = v.splat_f32(scales[b][g]);
            let (l, mut sum) = (v.levels(&fields[g]), v.elements(&x[g]));
            for q in 0..GROUP / V::LANES {
                let addend = if WEIGHTED { weigh(v, sum[q], weight) } else { sum[q] };
                // `l s` is exact, so the fused sum is the rounded sum of the spec.
                sum[q] = v.mul_add(l[q], s, addend);
            }
            v.store_group(&mut sums[g], sum);
            m[g] = lane_maxima(v, sum);
        }
        let max = over_block::<V, false>(v, v.across::<false>(&m), size);
        v.store(&mut maxima[b], max);
        all = v.max(all, max);
    }
    over_batches::<V, false>(v, &mut maxima[..x.len()], size);
    old && !any_outside(v, all, 0, SUM_LIMIT)
}

/// Whether all scales are such as operations make, and small enough for [`SUM_LIMIT`].
#[inline(always)]
fn scales_of_operations<V: Vector>(v: V, scales: V::Ints) -> bool {
    let s = v.select(v.is_zero(scales), v.splat(SCALE_MIN), scales);
    !any_outside(v, s, SCALE_MIN, SCALE_LIMIT)
}

/// `weight x`, with a subnormal `x` as zero. A subnormal product needs no care: it is lost in any sum but with zero,
/// and then it is lost to the scale.
#[inline(always)]
pub(super) fn weigh<V: Vector>(v: V, x: V::Floats, weight: V::Floats) -> V::Floats {
    let normal = v.above(magnitudes(v, x), v.splat(MIN_NORMAL - 1));
    v.mul(v.float_of(v.keep(normal, v.pattern(x))), weight)
}

/// New scales from the maxima: [`crate::numerics::scale::level_scale`].
#[inline(always)]
fn grid<V: Vector, const BITS: usize, const GROUPS: usize>(v: V, p: &mut Parts<GROUPS>, batches: usize) {
    let l_max = level_max(BITS as u32) as f32;
    let (l_max, inverse) = (v.splat_f32(l_max), v.splat_f32((1.0 - 1.0 / 1_048_576.0) / l_max));
    let to = V::batches_mut(&mut p.scales).iter_mut().zip(V::batches_mut(&mut p.reciprocals));
    let to = V::batches_mut(&mut p.lanes).iter_mut().zip(to);
    for (maxima, (lanes, (scales, reciprocals))) in V::batches(&p.maxima).iter().zip(to).take(batches) {
        let pattern = v.load(maxima);
        let max = v.float_of(pattern);
        // A bf16 at or below the quotient, then one step up, or two, until it covers: the products are exact.
        let mut s = v.without(v.pattern(v.mul(max, inverse)), v.splat(0xffff));
        for _ in 0..2 {
            let short = v.less(v.mul(v.float_of(s), l_max), max);
            s = v.add(s, v.keep(short, v.splat(0x1_0000)));
        }
        let zero = v.above(v.splat(ZERO_LIMIT), pattern);
        v.store(lanes, v.drop(zero, s));
        // Under a scale of zero all sums lie below 2^-90 and every level is zero, as it is under a huge scale.
        let s = v.float_of(v.select(zero, v.splat(NOTHING_KEPT.to_bits()), s));
        v.store_floats(scales, s);
        v.store_floats(reciprocals, v.div(v.splat_f32(one(BITS)), s));
    }
}

/// Bits after the point of the fixed-point numbers that [`store`] rounds: with 13 two elements fit 32 bits.
pub(in crate::cpu::simd) const fn after_point(bits: usize) -> u32 {
    if bits == 8 { 20 } else { 13 }
}

/// What stands for one level in them.
const fn one(bits: usize) -> f32 {
    (1 << after_point(bits)) as f32
}

/// In the units of [`one`]: roundings of 2^-24 of up to 129 levels, three of them, come to less in the first case; of
/// up to 9 levels to a hundredth of it in the second.
pub(in crate::cpu::simd) const fn margin(bits: usize) -> u32 {
    if bits == 8 { 64 } else { 1 }
}

/// Rounds the sums of a part and stores their levels: `sign(v) ceil(|v| / s - u)`, which is `floor(|v| / s)` and one
/// more if `u s` lies below the remainder.
///
/// `|v| / s - u + 1` is computed in fixed point, with the pattern of the draw in place of `u`; where it comes so near
/// to an integer that rounding might have crossed it, the remainder decides.
#[inline(always)]
fn store<V: Fields, const BITS: usize, const GROUPS: usize>(
    v: V,
    p: &Parts<GROUPS>,
    fields: &mut [V::Batch<[u32; BITS]>],
) {
    let two = v.splat_f32(2.0 * one(BITS) + margin(BITS) as f32);
    let (scales, reciprocals) = (V::batches(&p.scales), V::batches(&p.reciprocals));
    for (b, (fields, sums)) in fields.iter_mut().zip(V::batches(&p.sums[p.skip..])).enumerate() {
        let draws = p.draws.batch(b);
        for g in 0..V::LANES {
            let (sum, r, f) = (v.elements(&sums[g]), v.splat_f32(reciprocals[b][g]), patterns(v, draws, g));
            let mut t = V::Group::filled(two);
            for q in 0..GROUP / V::LANES {
                t[q] = v.minus(v.mul_add(v.abs(sum[q]), r, two), f[q]);
            }
            match v.rounded::<BITS>(t, sum) {
                Some(levels) => v.store_levels(&mut fields[g], levels),
                None => {
                    v.rarely(RoundExactly { draws, g, sums: &sums[g], scale: scales[b][g], fields: &mut fields[g] });
                }
            }
        }
    }
}

/// Levels of a group by an exact remainder.
///
/// A product with a reciprocal that is a little too small lies below `|v| / s` by less than 2^-13, so its floor is
/// the quotient's or one less; the remainder, exact in 24 bits, tells which.
struct RoundExactly<'a, V: Vector, const BITS: usize> {
    draws: BatchDraws<'a, V>,
    g: usize,
    sums: &'a [f32; GROUP],
    scale: f32,
    fields: &'a mut [u32; BITS],
}

impl<V: Fields, const BITS: usize> Job<V> for RoundExactly<'_, V, BITS> {
    type Output = ();

    #[inline(always)]
    fn run(self, v: V) {
        let (s, f) = (v.splat_f32(self.scale), patterns(v, self.draws, self.g));
        let r = v.mul(v.div(v.splat_f32(1.0), s), v.splat_f32(1.0 - 1.0 / 4_194_304.0));
        let (unit, offset, one_more) = (v.splat_f32(1.0 / one(BITS)), v.splat_f32(OFFSET), v.splat(1));
        let sums = v.elements(self.sums);
        let mut levels = V::Group::filled(one_more);
        for q in 0..GROUP / V::LANES {
            let (m, u) = (v.abs(sums[q]), v.mul_sub(f[q], unit, offset));
            let c = v.truncated(v.mul(m, r));
            let rest = v.sub_mul(m, v.to_floats(c), s);
            let less = v.minus(rest, s); // negative unless the quotient is one more
            let next = v.above(v.pattern(less), v.splat(u32::MAX));
            let rest = v.float_of(v.select(next, v.pattern(less), v.pattern(rest)));
            let up = v.above(v.splat(0), v.pattern(v.mul_sub(u, s, rest))); // negative for up
            levels[q] = v.add(v.add(c, v.keep(next, one_more)), v.keep(up, one_more));
        }
        v.store_levels(self.fields, v.with_signs(levels, sums));
    }
}
