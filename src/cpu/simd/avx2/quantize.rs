//! Stochastic quantize: blocks in one pass over memory; and the trits of a run under a given measure.

use super::draws::{Draws, Generator, uniforms};
use super::*;
use crate::cpu::measure::{measure as measure_group, rows};
use crate::cpu::plain::quantize::{blocks as plain_blocks, encode as plain_encode};
use crate::cpu::split::{Tile, join as join_reports};
use crate::numerics::constants::{MIN_NORMAL, RANGE_LIMIT, ZERO_LIMIT};

/// A scale under which nothing in a block of scale zero is kept: every draw times it lies above 2^-90.
pub(super) const NOTHING_KEPT: f32 = f32::from_bits(RANGE_LIMIT);

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks<T: Element>(cpu: Avx2, method: &Method, w: QuantizeTile<'_, T>) -> Report {
    let (whole, size) = (whole_units(w.x.len(), w.size), w.size);
    let (body, tail) = w.split(whole);
    let report = match *method {
        Method::Threshold(rule) => threshold::blocks(method, rule, body),
        Method::Stochastic { clip: Some(_), .. } => clipped(cpu, method, body),
        Method::Stochastic { .. } if size > PART => stochastic::<T, BATCHES_MAX>(method, body),
        Method::Stochastic { .. } => stochastic::<T, PART_BATCHES>(method, body),
    };
    if tail.x.is_empty() { report } else { join_reports(report, rows(&cpu, method, tail)) }
}

/// Scratch of a part: whole blocks and batches, up to [`PART`] elements or one larger block. Scales are found for
/// all of it before its planes are written, so that the latency of one block's reduction overlaps that of others.
struct Parts<const BATCHES: usize> {
    /// The scales that decisions use, one a group.
    decide: [[f32; 8]; BATCHES],
    /// The scales as they are stored, one a group.
    scales: [[u32; 8]; BATCHES],
    draws: [Draws; BATCHES],
}

#[target_feature(enable = "avx2,fma,f16c")]
fn stochastic<T: Element, const BATCHES: usize>(method: &Method, w: QuantizeTile<'_, T>) -> Report {
    let Method::Stochastic { at, .. } = method else { return plain_blocks(method, w) };
    let QuantizeTile { x, words, scales, mut first, size } = w;
    let (x, words) = (x.as_chunks::<GROUP>().0, words.as_chunks_mut::<2>().0);
    let (groups, blocks) = (part(size) / GROUP, part(size) / size);
    let generator = Generator::new(at, 1.0);
    let mut p = Parts { decide: [[0.0; 8]; BATCHES], scales: [[0; 8]; BATCHES], draws: [Draws::new(); BATCHES] };
    let mut report = Report::default();
    for ((x, words), scales) in x.chunks(groups).zip(words.chunks_mut(groups)).zip(scales.chunks_mut(blocks)) {
        if measure(&generator, (first / GROUP as u64) as u32, &mut p, x, size) {
            write_scales(scales, &p.scales, size);
            for (b, (x, words)) in x.chunks_exact(8).zip(words.chunks_exact_mut(8)).enumerate() {
                let (draws, decide) = (&p.draws[b], &p.decide[b]);
                for g in 0..8 {
                    words[g] = planes(draws, g, &x[g], decide[g]);
                }
            }
        } else {
            let (x, words) = (x.as_flattened(), words.as_flattened_mut());
            report.merge(plain_blocks(method, QuantizeTile { x, words, scales, first, size }));
        }
        first += (x.len() * GROUP) as u64;
    }
    report
}

/// Clipped blocks: each is measured by itself; draws are made for eight groups at once.
#[target_feature(enable = "avx2,fma,f16c")]
fn clipped<T: Element>(cpu: Avx2, method: &Method, w: QuantizeTile<'_, T>) -> Report {
    let Method::Stochastic { at, .. } = method else { return plain_blocks(method, w) };
    let QuantizeTile { x, words, scales, mut first, size } = w;
    let (x, words) = (x.as_chunks::<GROUP>().0, words.as_chunks_mut::<2>().0);
    let (groups, blocks) = (size.max(BATCH) / GROUP, size.max(BATCH) / size);
    let generator = Generator::new(at, 1.0);
    let (mut draws, mut measures) = (Draws::new(), [Measure::default(); BATCH / GROUP]);
    let mut report = Report::default();
    for ((x, words), scales) in x.chunks(groups).zip(words.chunks_mut(groups)).zip(scales.chunks_mut(blocks)) {
        for (b, ((x, scale), m)) in x.as_flattened().chunks(size).zip(scales).zip(&mut measures).enumerate() {
            *m = measure_group(&cpu, method, x, first + (b * size) as u64, &mut report);
            *scale = (m.scale >> 16) as u16;
        }
        for (b, (x, words)) in x.chunks_exact(8).zip(words.chunks_exact_mut(8)).enumerate() {
            let inside = !any_outside(group_maxima(x), 0, RANGE_LIMIT);
            generator.draw((first / GROUP as u64) as u32, &mut draws);
            for g in 0..8 {
                let m = &measures[(b * BATCH + g * GROUP) / size];
                words[g] = if !inside {
                    words[g] = [0; 2];
                    plain_encode(method, m, &x[g], &mut words[g], 0, first + (g * GROUP) as u64, &mut report);
                    words[g]
                } else if m.limit == u32::MAX {
                    planes(&draws, g, &x[g], decided_by(m))
                } else {
                    clipped_planes(&draws, g, &x[g], m, &mut report)
                };
            }
            first += BATCH as u64;
        }
    }
    report
}

/// The scale that decisions use.
const fn decided_by(m: &Measure) -> f32 {
    if m.scale == 0 { NOTHING_KEPT } else { f32::from_bits(m.scale) }
}

/// The scales of a part and its draws, arithmetic while memory is waited for; `false` if an element is out of range.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn measure<T: Element, const BATCHES: usize>(
    generator: &Generator,
    mut group: u32,
    p: &mut Parts<BATCHES>,
    x: &[[T; GROUP]],
    size: usize,
) -> bool {
    let mut maxima = [_mm256_setzero_si256(); BATCHES];
    for (x, (max, draws)) in x.chunks_exact(8).zip(maxima.iter_mut().zip(&mut p.draws)) {
        generator.draw(group, draws);
        group = group.wrapping_add(8);
        *max = over_block::<false>(group_maxima(x), size);
    }
    let maxima = &mut maxima[..x.len() / 8];
    over_batches::<false>(maxima, size);
    let mut all = _mm256_setzero_si256();
    for (max, (scale, decide)) in maxima.iter().zip(p.scales.iter_mut().zip(&mut p.decide)) {
        all = join::<false>(all, *max);
        let up = _mm256_andnot_si256(_mm256_set1_epi32(0xffff), _mm256_add_epi32(*max, _mm256_set1_epi32(0xffff)));
        let zero = _mm256_cmpgt_epi32(_mm256_set1_epi32(ZERO_LIMIT as i32), *max);
        store_words(scale, _mm256_andnot_si256(zero, up));
        let (up, nothing) = (_mm256_castsi256_ps(up), _mm256_set1_ps(NOTHING_KEPT));
        store_floats(decide, _mm256_blendv_ps(up, nothing, _mm256_castsi256_ps(zero)));
    }
    !any_outside(all, 0, RANGE_LIMIT)
}

/// Stochastic planes of a group; every element is in range.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn planes<T: Element>(draws: &Draws, g: usize, x: &[T; GROUP], scale: f32) -> [u32; 2] {
    let (x, s) = (load32(x), _mm256_set1_ps(scale));
    let u = uniforms(draws, g);
    // u s < |x| if and only if the fused difference is negative: a single rounding keeps the sign.
    let kept = signs([
        _mm256_fmsub_ps(u[0], s, abs(x[0])),
        _mm256_fmsub_ps(u[1], s, abs(x[1])),
        _mm256_fmsub_ps(u[2], s, abs(x[2])),
        _mm256_fmsub_ps(u[3], s, abs(x[3])),
    ]);
    let minus = signs(x);
    [kept & !minus, kept & minus]
}

/// As [`planes`], magnitudes cut to a limit first.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn clipped_planes<T: Element>(
    draws: &Draws,
    g: usize,
    x: &[T; GROUP],
    measure: &Measure,
    report: &mut Report,
) -> [u32; 2] {
    let s = _mm256_set1_ps(decided_by(measure));
    let t = _mm256_set1_ps(f32::from_bits(measure.limit));
    let (x, u) = (load32(x), uniforms(draws, g));
    let (mut decided, mut over) = ([_mm256_setzero_ps(); 4], [_mm256_setzero_ps(); 4]);
    for q in 0..4 {
        let m = abs(x[q]);
        over[q] = _mm256_cmp_ps::<_CMP_GT_OQ>(m, t);
        decided[q] = _mm256_fmsub_ps(u[q], s, _mm256_min_ps(m, t));
    }
    report.clipped += u64::from(signs(over).count_ones());
    let (kept, minus) = (signs(decided), signs(x));
    [kept & !minus, kept & minus]
}

/// See [`plain_encode`]: whole groups here, what lies before and after them there.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn encode<T: Element>(
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
    let mut group = (first / GROUP as u64) as u32 + from as u32;
    let generator = match method {
        Method::Stochastic { at, .. } => Some(Generator::new(at, 1.0)),
        Method::Threshold(_) => None,
    };
    let x = x.as_chunks::<GROUP>().0;
    let words = &mut words.as_chunks_mut::<2>().0[from..][..x.len()];
    let limit = measure.limit.max(MIN_NORMAL - 1); // a subnormal counts as zero, which is above nothing
    let mut draws = Draws::new();
    for (x, words) in x.chunks(8).zip(words.chunks_mut(8)) {
        if any_outside(group_maxima(x), 0, RANGE_LIMIT) {
            let (x, words) = (x.as_flattened(), words.as_flattened_mut());
            plain_encode(method, measure, x, words, 0, u64::from(group) * GROUP as u64, report);
        } else if let Some(generator) = &generator {
            generator.draw(group, &mut draws);
            for (g, (x, words)) in x.iter().zip(words).enumerate() {
                *words = if measure.limit == u32::MAX {
                    planes(&draws, g, x, f32::from_bits(measure.scale))
                } else {
                    clipped_planes(&draws, g, x, measure, report)
                };
            }
        } else {
            for (x, words) in x.iter().zip(words) {
                *words = threshold::above(x, limit).0;
            }
        }
        group = group.wrapping_add(8);
    }
}
