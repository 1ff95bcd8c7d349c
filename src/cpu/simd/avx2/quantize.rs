//! Quantize: blocks in one pass over memory, and the trits of a run under a given scale.

use super::draws::{Draws, Generator, uniforms};
use super::sums::{mean, mean_bf16};
use super::*;
use crate::cpu::quantize::{Measure, Method, Work, plain_blocks, plain_encode, rows};
use crate::cpu::simd::Simd;
use crate::cpu::split::{Tile, join as join_reports};
use crate::numerics::constants::{MIN_NORMAL, RANGE_LIMIT, SUM_BITS, ZERO_LIMIT};
use crate::numerics::draw::Position;
use crate::numerics::float::magnitude;
use crate::numerics::threshold::mul_trunc;
use crate::op::quantize::Threshold;

/// A scale under which nothing in a block of scale zero is kept: every draw times it lies above 2^-90.
const NOTHING_KEPT: f32 = f32::from_bits(0x7f00_0000);

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks<T: Element>(cpu: Avx2, method: &Method, w: Work<'_, T>) -> Report {
    let chunk = w.size.max(BATCH);
    let whole = w.x.len() / chunk * chunk;
    let (mut body, tail) = w.split(whole);
    let report = match *method {
        Method::Stochastic { at, clip: None } => stochastic(method, &at, &mut body, chunk),
        Method::Stochastic { clip: Some(_), .. } => {
            return join_reports(rows(Simd::Avx2(cpu), method, body), rows(Simd::Avx2(cpu), method, tail));
        }
        Method::Threshold(rule) => threshold(method, rule, &mut body, chunk),
    };
    if tail.x.is_empty() {
        return report;
    }
    join_reports(report, rows(Simd::Avx2(cpu), method, tail))
}

/// Part `i` of the work, of `chunk` elements: elements, words and scales.
type Part<'a, T> = (&'a [[T; GROUP]], &'a mut [[u32; 2]], &'a mut [u16]);

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn part<'a, T: Element>(w: &'a mut Work<'_, T>, i: usize, chunk: usize) -> Part<'a, T> {
    let groups = i * (chunk / GROUP)..(i + 1) * (chunk / GROUP);
    let blocks = i * (chunk / w.size)..(i + 1) * (chunk / w.size);
    let (x, words) = (w.x.as_chunks::<GROUP>().0, w.words.as_chunks_mut::<2>().0);
    (&x[groups.clone()], &mut words[groups], &mut w.scales[blocks])
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn part_plain<T: Element>(method: &Method, w: &mut Work<'_, T>, i: usize, chunk: usize) -> Report {
    let (first, size) = (w.first + (i * chunk) as u64, w.size);
    let (x, words, scales) = part(w, i, chunk);
    plain_blocks(method, Work { x: x.as_flattened(), words: words.as_flattened_mut(), scales, first, size })
}

/// Largest magnitude patterns of eight groups, one a lane.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group_maxima<T: Element>(x: &[[T; GROUP]]) -> __m256i {
    let mut m = [_mm256_setzero_si256(); 8];
    for (m, x) in m.iter_mut().zip(x) {
        let [a, b, c, d] = load32(x);
        *m = join::<false>(join::<false>(abs_bits(a), abs_bits(b)), join::<false>(abs_bits(c), abs_bits(d)));
    }
    reduce8::<false>(m)
}

/// Largest magnitude patterns of the blocks of a chunk, in the lanes of their groups.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn block_maxima<T: Element>(x: &[[T; GROUP]], size: usize) -> __m256i {
    let mut max = _mm256_setzero_si256();
    for x in x.chunks_exact(8) {
        max = join::<false>(max, group_maxima(x));
    }
    over_block::<false>(max, size)
}

/// Writes one scale a block from eight lanes, one a group.
#[inline]
fn write_scales(scales: &mut [u16], lanes: &[u32; 8], size: usize) {
    let step = size / GROUP;
    for (b, scale) in scales.iter_mut().enumerate() {
        *scale = (lanes[(b * step) & 7] >> 16) as u16;
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn stochastic<T: Element>(method: &Method, at: &Position, w: &mut Work<'_, T>, chunk: usize) -> Report {
    let mut report = Report::default();
    let generator = Generator::new(at);
    let (mut draws, mut lanes, mut decide) = (Draws::new(), [0u32; 8], [0f32; 8]);
    let (size, first) = (w.size, w.first);
    for i in 0..w.x.len() / chunk {
        let (x, words, scales) = part(w, i, chunk);
        let max = block_maxima(x, size);
        if any_outside(max, 0, RANGE_LIMIT) {
            report.merge(part_plain(method, w, i, chunk));
            continue;
        }
        let up = _mm256_andnot_si256(_mm256_set1_epi32(0xffff), _mm256_add_epi32(max, _mm256_set1_epi32(0xffff)));
        let zero = _mm256_cmpgt_epi32(_mm256_set1_epi32(ZERO_LIMIT as i32), max);
        store_words(&mut lanes, _mm256_andnot_si256(zero, up));
        let under = _mm256_blendv_ps(_mm256_castsi256_ps(up), _mm256_set1_ps(NOTHING_KEPT), _mm256_castsi256_ps(zero));
        store_floats(&mut decide, under);
        write_scales(scales, &lanes, size);
        let group = ((first + (i * chunk) as u64) / GROUP as u64) as u32;
        for (b, (x, words)) in x.chunks_exact(8).zip(words.chunks_exact_mut(8)).enumerate() {
            generator.draw(group.wrapping_add(8 * b as u32), &mut draws);
            for (g, (x, words)) in x.iter().zip(words).enumerate() {
                *words = planes(&draws, g, x, decide[g]);
            }
        }
    }
    report
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

#[target_feature(enable = "avx2,fma,f16c")]
fn threshold<T: Element>(method: &Method, rule: Threshold, w: &mut Work<'_, T>, chunk: usize) -> Report {
    let mut report = Report::default();
    let (size, batches) = (w.size, chunk / BATCH);
    let (mut exponents, mut factors, mut limits, mut totals) = ([0u32; 8], [0f32; 8], [0u32; 8], [0u32; 8]);
    for i in 0..w.x.len() / chunk {
        let (x, words, scales) = part(w, i, chunk);
        let max = block_maxima(x, size);
        // A block of zeros sums to zero under any exponent.
        let zero = _mm256_cmpeq_epi32(max, _mm256_setzero_si256());
        let max = _mm256_or_si256(max, _mm256_and_si256(zero, _mm256_set1_epi32(ZERO_LIMIT as i32)));
        if any_outside(max, ZERO_LIMIT, RANGE_LIMIT) {
            report.merge(part_plain(method, w, i, chunk));
            continue;
        }
        let exponent = _mm256_srli_epi32::<23>(max);
        store_words(&mut exponents, exponent);
        let factor = _mm256_sub_epi32(_mm256_set1_epi32(SUM_BITS as i32 + 253), exponent);
        store_floats(&mut factors, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(factor)));
        let step = size / GROUP;
        match rule {
            Threshold::Given(t) => limits = [magnitude(t.to_bits()); 8],
            Threshold::Mean(factor) => {
                let mut sums = _mm256_setzero_si256();
                for x in x.chunks_exact(8) {
                    sums = _mm256_add_epi32(sums, group_sums(x, &factors));
                }
                store_words(&mut totals, over_block::<true>(sums, size));
                for g in (0..8).step_by(step.min(8)) {
                    let (total, exponent) = (u64::from(totals[g]), exponents[g]);
                    let sum = Sum { total, exponent, count: size as u64 };
                    let mean = if total == 0 { 0 } else { mean(&sum) };
                    let t = mul_trunc(factor.to_bits(), mean);
                    limits[g..(g + step).min(8)].fill(t);
                }
            }
        }
        for t in &mut limits {
            *t = (*t).max(MIN_NORMAL - 1); // a subnormal counts as zero, which is above nothing
        }
        let mut sums = _mm256_setzero_si256();
        let mut counts = [0u32; 8];
        for (x, words) in x.chunks_exact(8).zip(words.chunks_exact_mut(8)) {
            sums = _mm256_add_epi32(sums, keep_above(x, words, &factors, &limits, &mut counts));
        }
        store_words(&mut totals, over_block::<true>(sums, size));
        for (b, scale) in scales.iter_mut().enumerate() {
            let g = (b * step) & 7;
            let count = counts[g..(g + step).min(8)].iter().sum::<u32>();
            let sum = Sum { total: u64::from(totals[g]), exponent: exponents[g], count: u64::from(count) };
            *scale = (mean_bf16(&sum) >> 16) as u16;
        }
    }
    debug_assert!(batches <= BATCHES_MAX);
    report
}

/// Sums of the fixed-point magnitudes of eight groups, one a lane.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group_sums<T: Element>(x: &[[T; GROUP]], factors: &[f32; 8]) -> __m256i {
    let mut sums = [_mm256_setzero_si256(); 8];
    for (sum, (x, factor)) in sums.iter_mut().zip(x.iter().zip(factors)) {
        let f = _mm256_set1_ps(*factor);
        for x in load32(x) {
            *sum = _mm256_add_epi32(*sum, _mm256_cvttps_epi32(_mm256_mul_ps(abs(x), f)));
        }
    }
    reduce8::<true>(sums)
}

/// Threshold planes of eight groups; what they kept is counted, and its sums returned, one a lane.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn keep_above<T: Element>(
    x: &[[T; GROUP]],
    words: &mut [[u32; 2]],
    factors: &[f32; 8],
    limits: &[u32; 8],
    counts: &mut [u32; 8],
) -> __m256i {
    let mut sums = [_mm256_setzero_si256(); 8];
    for g in 0..8 {
        let (x, f, t) = (load32(&x[g]), _mm256_set1_ps(factors[g]), _mm256_set1_epi32(limits[g] as i32));
        let mut above = [_mm256_setzero_ps(); 4];
        for (above, x) in above.iter_mut().zip(x) {
            let m = abs(x);
            let kept = _mm256_cmpgt_epi32(_mm256_castps_si256(m), t);
            *above = _mm256_castsi256_ps(kept);
            // Masked as a float: what is not kept adds zero.
            let fixed = _mm256_cvttps_epi32(_mm256_mul_ps(_mm256_and_ps(m, *above), f));
            sums[g] = _mm256_add_epi32(sums[g], fixed);
        }
        let (kept, minus) = (signs(above), signs(x));
        words[g] = [kept & !minus, kept & minus];
        counts[g] += kept.count_ones();
    }
    reduce8::<true>(sums)
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
    let body = (x.len() - head) / BATCH * BATCH;
    if body == 0 || (measure.scale == 0 && matches!(method, Method::Stochastic { .. })) {
        return plain_encode(method, measure, x, words, start, first, report);
    }
    let (before, rest) = x.split_at(head);
    let (x, after) = rest.split_at(body);
    plain_encode(method, measure, before, words, start, first, report);
    let from = start + head;
    let group = (first / GROUP as u64) as u32 + (from / GROUP) as u32;
    let generator = match method {
        Method::Stochastic { at, .. } => Some(Generator::new(at)),
        Method::Threshold(_) => None,
    };
    let (groups, planes_of) = (x.as_chunks::<GROUP>().0, words.as_chunks_mut::<2>().0);
    let planes_of = &mut planes_of[from / GROUP..][..groups.len()];
    let limit = measure.limit.max(MIN_NORMAL - 1);
    let (mut draws, mut counts) = (Draws::new(), [0u32; 8]);
    for (b, (x, words)) in groups.chunks_exact(8).zip(planes_of.chunks_exact_mut(8)).enumerate() {
        if any_outside(group_maxima(x), 0, RANGE_LIMIT) {
            let at = b * BATCH;
            plain_encode(
                method,
                measure,
                x.as_flattened(),
                words.as_flattened_mut(),
                0,
                first + (from + at) as u64,
                report,
            );
            continue;
        }
        match &generator {
            None => {
                keep_above(x, words, &[0.0; 8], &[limit; 8], &mut counts);
            }
            Some(generator) => {
                generator.draw(group.wrapping_add(8 * b as u32), &mut draws);
                for (g, (x, words)) in x.iter().zip(words).enumerate() {
                    *words = if measure.limit == u32::MAX {
                        planes(&draws, g, x, f32::from_bits(measure.scale))
                    } else {
                        clipped_planes(&draws, g, x, measure, report)
                    };
                }
            }
        }
    }
    plain_encode(method, measure, after, words, from + body, first, report);
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
    let (x, s, t) =
        (load32(x), _mm256_set1_ps(f32::from_bits(measure.scale)), _mm256_set1_ps(f32::from_bits(measure.limit)));
    let u = uniforms(draws, g);
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
