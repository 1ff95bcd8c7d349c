//! Stochastic quantize: blocks in one pass over memory; and the trits of a run under a given measure.

use super::draws::{BatchDraws, Draws, Generator, uniforms};
use super::{threshold, *};
use crate::cpu::measure::{Kernels, measure as measure_group};
use crate::cpu::plain::quantize::{blocks as plain_blocks, encode as plain_encode};
use crate::cpu::simd::vector::Job;
use crate::cpu::split::Tile;
use crate::cpu::tile::{Measure, Method, QuantizeTile};
use crate::numerics::constants::{MIN_NORMAL, RANGE_LIMIT, ZERO_LIMIT};
use crate::numerics::draw::Position;
use crate::op::Report;

/// A scale under which nothing in a block of scale zero is kept: every draw times it lies above 2^-90.
pub(in crate::cpu::simd) const NOTHING_KEPT: f32 = f32::from_bits(RANGE_LIMIT);

/// A tile: whole blocks and batches here, the rest elsewhere.
pub(in crate::cpu::simd) fn tile<V: Vector + Kernels, T: Element>(
    v: V,
    method: &Method,
    tile: QuantizeTile<'_, T>,
    rest: impl FnOnce(QuantizeTile<'_, T>) -> Report,
) -> Report {
    let whole = whole_units::<V>(tile.x.len(), tile.size);
    let (body, tail) = tile.split(whole);
    let mut report = blocks(v, method, body);
    if !tail.x.is_empty() {
        report.merge(rest(tail));
    }
    report
}

/// Whole units of blocks: see [`whole_units`].
#[inline(always)]
fn blocks<V: Vector + Kernels, T: Element>(v: V, method: &Method, tile: QuantizeTile<'_, T>) -> Report {
    match method {
        Method::Threshold(rule) => threshold::blocks(v, method, *rule, tile),
        Method::Stochastic { at, clip: Some(_) } => v.enter(Clipped { method, at, tile }),
        Method::Stochastic { at, .. } if tile.size > PART => v.enter(Stochastic::<T, GROUPS_MAX> { method, at, tile }),
        Method::Stochastic { at, .. } => v.enter(Stochastic::<T, PART_GROUPS> { method, at, tile }),
    }
}

struct Stochastic<'a, T, const GROUPS: usize> {
    method: &'a Method,
    at: &'a Position,
    tile: QuantizeTile<'a, T>,
}

/// Scratch of a part: whole blocks and batches, up to [`PART`] elements or one larger block. Scales are found for
/// all of it before its planes are written, so that the latency of one block's reduction overlaps that of others.
#[repr(C, align(64))]
struct Parts<const GROUPS: usize> {
    /// The scales that decisions use, one a group.
    decide: [f32; GROUPS],
    /// The scales as they are stored, one a group.
    scales: [u32; GROUPS],
    maxima: [u32; GROUPS],
    draws: Draws<GROUPS>,
}

impl<V: Vector, T: Element, const GROUPS: usize> Job<V> for Stochastic<'_, T, GROUPS> {
    type Output = Report;

    #[inline(always)]
    fn run(self, v: V) -> Report {
        let QuantizeTile { x, words, scales, mut first, size } = self.tile;
        let (x, words) = (x.as_chunks::<GROUP>().0, words.as_chunks_mut::<2>().0);
        let (groups, blocks) = (part(size) / GROUP, part(size) / size);
        let generator = Generator::new(v, self.at, 1.0);
        let mut p = Parts { decide: [0.0; GROUPS], scales: [0; GROUPS], maxima: [0; GROUPS], draws: Draws::new() };
        let mut report = Report::default();
        for ((x, words), scales) in x.chunks(groups).zip(words.chunks_mut(groups)).zip(scales.chunks_mut(blocks)) {
            if measure(v, &generator, (first / GROUP as u64) as u32, &mut p, V::batches(x), size) {
                write_scales(scales, &p.scales, size);
                let decide = V::batches(&p.decide);
                for (b, (x, words)) in V::batches(x).iter().zip(V::batches_mut(words)).enumerate() {
                    let draws = p.draws.batch(b);
                    for g in 0..V::LANES {
                        words[g] = planes(v, draws, g, &x[g], decide[b][g]);
                    }
                }
            } else {
                let (x, words) = (x.as_flattened(), words.as_flattened_mut());
                report.merge(plain_blocks(self.method, QuantizeTile { x, words, scales, first, size }));
            }
            first += (x.len() * GROUP) as u64;
        }
        report
    }
}

/// The scales of a part and its draws, arithmetic while memory is waited for; `false` if an element is out of range.
#[inline(always)]
fn measure<V: Vector, T: Element, const GROUPS: usize>(
    v: V,
    generator: &Generator<V>,
    mut group: u32,
    p: &mut Parts<GROUPS>,
    x: &[V::Batch<[T; GROUP]>],
    size: usize,
) -> bool {
    for (b, (x, max)) in x.iter().zip(V::batches_mut(&mut p.maxima)).enumerate() {
        generator.draw(v, group, &mut p.draws, b);
        group = group.wrapping_add(V::LANES as u32);
        v.store(max, over_block::<V, false>(v, group_maxima(v, x), size));
    }
    let maxima = &mut V::batches_mut(&mut p.maxima)[..x.len()];
    over_batches::<V, false>(v, maxima, size);
    let mut all = v.splat(0);
    let to = V::batches_mut(&mut p.scales).iter_mut().zip(V::batches_mut(&mut p.decide));
    for (max, (scale, decide)) in maxima.iter().zip(to) {
        let max = v.load(max);
        all = v.max(all, max);
        let up = v.without(v.add(max, v.splat(0xffff)), v.splat(0xffff));
        let zero = v.above(v.splat(ZERO_LIMIT), max);
        v.store(scale, v.drop(zero, up));
        v.store_floats(decide, v.float_of(v.select(zero, v.splat(NOTHING_KEPT.to_bits()), up)));
    }
    !any_outside(v, all, 0, RANGE_LIMIT)
}

/// Stochastic planes of a group; every element is in range.
#[inline(always)]
pub(in crate::cpu::simd) fn planes<V: Vector, T: Element>(
    v: V,
    draws: BatchDraws<'_, V>,
    g: usize,
    x: &[T; GROUP],
    scale: f32,
) -> [u32; 2] {
    let (x, s) = (v.elements(x), v.splat_f32(scale));
    // u s < |x| if and only if the fused difference is negative: a single rounding keeps the sign.
    let mut decided = uniforms(v, draws, g);
    for q in 0..GROUP / V::LANES {
        decided[q] = v.mul_sub(decided[q], s, v.abs(x[q]));
    }
    let (kept, minus) = (v.signs(decided), v.signs(x));
    [kept & !minus, kept & minus]
}

/// Clipped blocks: each is measured by itself; draws are made for a batch at once.
struct Clipped<'a, T> {
    method: &'a Method,
    at: &'a Position,
    tile: QuantizeTile<'a, T>,
}

impl<V: Vector + Kernels, T: Element> Job<V> for Clipped<'_, T> {
    type Output = Report;

    #[inline(always)]
    fn run(self, v: V) -> Report {
        let (method, batch) = (self.method, V::LANES * GROUP);
        let QuantizeTile { x, words, scales, mut first, size } = self.tile;
        let (x, words) = (x.as_chunks::<GROUP>().0, words.as_chunks_mut::<2>().0);
        let (groups, blocks) = (size.max(batch) / GROUP, size.max(batch) / size);
        let generator = Generator::new(v, self.at, 1.0);
        let (mut draws, mut measures) = (Draws::<LANES_MAX>::new(), [Measure::default(); LANES_MAX]);
        let mut report = Report::default();
        for ((x, words), scales) in x.chunks(groups).zip(words.chunks_mut(groups)).zip(scales.chunks_mut(blocks)) {
            for (b, ((x, scale), m)) in x.as_flattened().chunks(size).zip(scales).zip(&mut measures).enumerate() {
                *m = measure_group(&v, method, x, first + (b * size) as u64, &mut report);
                *scale = (m.scale >> 16) as u16;
            }
            for (b, (x, words)) in V::batches(x).iter().zip(V::batches_mut(words)).enumerate() {
                let inside = !any_outside(v, group_maxima(v, x), 0, RANGE_LIMIT);
                generator.draw(v, (first / GROUP as u64) as u32, &mut draws, 0);
                for g in 0..V::LANES {
                    let m = &measures[(b * batch + g * GROUP) / size];
                    words[g] = if !inside {
                        words[g] = [0; 2];
                        plain_encode(method, m, &x[g], &mut words[g], 0, first + (g * GROUP) as u64, &mut report);
                        words[g]
                    } else if m.limit == u32::MAX {
                        planes(v, draws.batch(0), g, &x[g], decided_by(m))
                    } else {
                        clipped_planes(v, draws.batch(0), g, &x[g], m, &mut report)
                    };
                }
                first += batch as u64;
            }
        }
        report
    }
}

/// The scale that decisions use.
const fn decided_by(m: &Measure) -> f32 {
    if m.scale == 0 { NOTHING_KEPT } else { f32::from_bits(m.scale) }
}

/// As [`planes`], magnitudes cut to a limit first.
#[inline(always)]
fn clipped_planes<V: Vector, T: Element>(
    v: V,
    draws: BatchDraws<'_, V>,
    g: usize,
    x: &[T; GROUP],
    measure: &Measure,
    report: &mut Report,
) -> [u32; 2] {
    let (s, t) = (v.splat_f32(decided_by(measure)), v.splat_f32(f32::from_bits(measure.limit)));
    let (x, mut decided) = (v.elements(x), uniforms(v, draws, g));
    let mut over = V::Group::filled(v.less(t, v.abs(x[0])));
    for q in 0..GROUP / V::LANES {
        let m = v.abs(x[q]);
        over[q] = v.less(t, m);
        decided[q] = v.mul_sub(decided[q], s, v.least(m, t));
    }
    report.clipped += u64::from(v.bits_of(over).count_ones());
    let (kept, minus) = (v.signs(decided), v.signs(x));
    [kept & !minus, kept & minus]
}

/// See [`plain_encode`]: whole groups here, what lies before and after them there.
#[expect(clippy::too_many_arguments, reason = "a piece of a group and where it lies")]
#[inline(always)]
pub(in crate::cpu::simd) fn encode<V: Vector, T: Element>(
    v: V,
    method: &Method,
    measure: &Measure,
    x: &[T],
    words: &mut [u32],
    start: usize,
    first: u64,
    report: &mut Report,
) {
    let head = (start.next_multiple_of(GROUP) - start).min(x.len());
    let body = (x.len() - head) / GROUP * GROUP;
    if body == 0 || (measure.scale == 0 && matches!(method, Method::Stochastic { .. })) {
        return plain_encode(method, measure, x, words, start, first, report);
    }
    let (before, rest) = x.split_at(head);
    let (x, after) = rest.split_at(body);
    plain_encode(method, measure, before, words, start, first, report);
    plain_encode(method, measure, after, words, start + head + body, first, report);
    let from = (start + head) / GROUP;
    let x = x.as_chunks::<GROUP>().0;
    let words = &mut words.as_chunks_mut::<2>().0[from..][..x.len()];
    v.enter(Groups { method, measure, x, words, group: (first / GROUP as u64) as u32 + from as u32, report });
}

/// Whole groups under one measure, which keeps something.
struct Groups<'a, T> {
    method: &'a Method,
    measure: &'a Measure,
    x: &'a [[T; GROUP]],
    words: &'a mut [[u32; 2]],
    /// The number of the first.
    group: u32,
    report: &'a mut Report,
}

impl<V: Vector, T: Element> Job<V> for Groups<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self, v: V) {
        let Groups { method, measure, x, words, mut group, report } = self;
        let limit = measure.limit.max(MIN_NORMAL - 1); // a subnormal counts as zero, which is above nothing
        let generator = match method {
            Method::Stochastic { at, .. } => Some(Generator::new(v, at, 1.0)),
            Method::Threshold(_) => None,
        };
        let mut draws = Draws::<LANES_MAX>::new();
        for (x, words) in x.chunks(V::LANES).zip(words.chunks_mut(V::LANES)) {
            let mut max = v.splat(0);
            for x in x {
                prefetch(v, x);
                max = v.max(max, lane_maxima(v, v.elements(x)));
            }
            if any_outside(v, max, 0, RANGE_LIMIT) {
                let (x, words) = (x.as_flattened(), words.as_flattened_mut());
                plain_encode(method, measure, x, words, 0, u64::from(group) * GROUP as u64, report);
            } else if let Some(generator) = &generator {
                generator.draw(v, group, &mut draws, 0);
                for (g, (x, words)) in x.iter().zip(words).enumerate() {
                    *words = if measure.limit == u32::MAX {
                        planes(v, draws.batch(0), g, x, f32::from_bits(measure.scale))
                    } else {
                        clipped_planes(v, draws.batch(0), g, x, measure, report)
                    };
                }
            } else {
                for (x, words) in x.iter().zip(words) {
                    *words = threshold::planes(v, x, limit);
                }
            }
            group = group.wrapping_add(V::LANES as u32);
        }
    }
}
