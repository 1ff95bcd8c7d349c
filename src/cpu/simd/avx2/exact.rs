//! Exact accumulation: the trits of a group become bytes, and those are added to its counts.

use super::accumulate::{nibbles, weigh};
use super::draws::{Draws, Generator, uniforms};
use super::*;
use crate::cpu::accumulate::{ExactWork, plain_exact, plain_exact_block};
use crate::numerics::constants::RANGE_LIMIT;
use crate::numerics::float::{bf16_to_f32, magnitude};
use crate::numerics::scale::stochastic_scale;

/// Scales for which the decision is the sign of a fused difference: 2^-97 to 2^126.
const SCALES: std::ops::RangeInclusive<u32> = 0x0f00_0000..=RANGE_LIMIT;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn exact<T: Element>(w: ExactWork<'_, T>) -> Report {
    let weight = magnitude(w.rule.weight);
    match (w.rule.bits, w.rule.weight == 1f32.to_bits()) {
        _ if weight == 0 => plain_exact(w),
        (4, true) => run::<T, 4, false>(w),
        (4, false) => run::<T, 4, true>(w),
        (8, true) => run::<T, 8, false>(w),
        (8, false) => run::<T, 8, true>(w),
        (16, true) => run::<T, 16, false>(w),
        (16, false) => run::<T, 16, true>(w),
        _ => plain_exact(w),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run<T: Element, const BITS: usize, const WEIGHTED: bool>(w: ExactWork<'_, T>) -> Report {
    let ExactWork { x, counts, scales, seen, first, rule } = w;
    let size = rule.block;
    let mut report = Report::default();
    let generator = Generator::new(&rule.at);
    let weight = _mm256_set1_ps(f32::from_bits(rule.weight));
    let (mut draws, mut drawn) = (Draws::new(), None);
    let blocks = x.chunks(size).zip(counts.chunks_mut(size / GROUP * BITS)).zip(scales).zip(seen);
    for (b, (((x, counts), &scale), seen)) in blocks.enumerate() {
        let position = first + (b * size) as u64;
        let (groups, rest) = x.as_chunks::<GROUP>();
        let max = block_max::<T, WEIGHTED>(groups, weight);
        let s = bf16_to_f32(scale);
        if !rest.is_empty() || max >= RANGE_LIMIT || !SCALES.contains(&s) {
            if max != 0 || !rest.is_empty() {
                plain_exact_block(&rule, x, counts, scale, seen, position, &mut report);
            }
            continue;
        }
        *seen = (*seen).max((stochastic_scale(max) >> 16) as u16);
        let above = max > s;
        // In 64 bits: the last group of the longest tensor is u32::MAX, and a range steps past what it gave.
        let group = position / GROUP as u64;
        for (g, (x, counts)) in (group..).zip(groups.iter().zip(counts.as_chunks_mut::<BITS>().0)) {
            let g = g as u32;
            // Eight groups are drawn at once, from multiples of eight on.
            if drawn != Some(g / 8) {
                generator.draw(g / 8 * 8, &mut draws);
                drawn = Some(g / 8);
            }
            let p = addends::<T, WEIGHTED>(x, weight);
            if above {
                report.clipped += u64::from(count_above(p, s));
            }
            add(counts, trits(&draws, (g % 8) as usize, p, f32::from_bits(s)));
        }
    }
    report
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn addends<T: Element, const WEIGHTED: bool>(x: &[T; GROUP], weight: __m256) -> [__m256; 4] {
    let mut p = load32(x);
    if WEIGHTED {
        for p in &mut p {
            *p = weigh(*p, weight);
        }
    }
    p
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn block_max<T: Element, const WEIGHTED: bool>(x: &[[T; GROUP]], weight: __m256) -> u32 {
    let mut m = [_mm256_setzero_si256(); 4];
    for x in x {
        for (m, p) in m.iter_mut().zip(addends::<T, WEIGHTED>(x, weight)) {
            *m = join::<false>(*m, abs_bits(p));
        }
    }
    let m = join::<false>(join::<false>(m[0], m[1]), join::<false>(m[2], m[3]));
    let m = _mm_max_epu32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
    let m = _mm_max_epu32(m, _mm_shuffle_epi32::<0b01_00_11_10>(m));
    _mm_cvtsi128_si32(_mm_max_epu32(m, _mm_shuffle_epi32::<0b10_11_00_01>(m))) as u32
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn count_above(p: [__m256; 4], s: u32) -> u32 {
    let s = _mm256_set1_ps(f32::from_bits(s));
    let mut above = p;
    for p in &mut above {
        *p = _mm256_cmp_ps::<_CMP_GT_OQ>(abs(*p), s);
    }
    signs(above).count_ones()
}

/// Trits as bytes: -1, 0, 1.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn trits(draws: &Draws, g: usize, p: [__m256; 4], scale: f32) -> __m256i {
    let s = _mm256_set1_ps(scale);
    let u = uniforms(draws, g);
    let (mut decided, mut sign) = ([_mm256_setzero_si256(); 4], [_mm256_setzero_si256(); 4]);
    for q in 0..4 {
        decided[q] = _mm256_castps_si256(_mm256_fmsub_ps(u[q], s, abs(p[q])));
        sign[q] = _mm256_castps_si256(p[q]);
    }
    let zero = _mm256_setzero_si256();
    let kept = _mm256_cmpgt_epi8(zero, to_bytes(decided));
    let minus = _mm256_cmpgt_epi8(zero, to_bytes(sign));
    _mm256_and_si256(kept, _mm256_or_si256(minus, _mm256_set1_epi8(1)))
}

/// Adds 32 bytes to the counts of a group, each within its field.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add<const BITS: usize>(counts: &mut [u32; BITS], trits: __m256i) {
    match BITS {
        4 => {
            if let Some(c) = counts.first_chunk_mut::<4>() {
                let (top, rest) = (_mm_set1_epi8(-0x78), _mm_set1_epi8(0x77));
                // SAFETY: `c` is 16 bytes.
                let a = unsafe { _mm_loadu_si128(c.as_ptr().cast()) };
                let b = nibbles(trits);
                let sum = _mm_add_epi8(_mm_and_si128(a, rest), _mm_and_si128(b, rest));
                let sum = _mm_xor_si128(sum, _mm_and_si128(_mm_xor_si128(a, b), top));
                // SAFETY: `c` is 16 bytes.
                unsafe { _mm_storeu_si128(c.as_mut_ptr().cast(), sum) }
            }
        }
        8 => {
            if let Some(c) = counts.first_chunk_mut::<8>() {
                store_words(c, _mm256_add_epi8(load_words(c), trits));
            }
        }
        _ => {
            let halves = [_mm256_castsi256_si128(trits), _mm256_extracti128_si256::<1>(trits)];
            for (c, t) in counts.as_chunks_mut::<8>().0.iter_mut().zip(halves) {
                store_words(c, _mm256_add_epi16(load_words(c), _mm256_cvtepi8_epi16(t)));
            }
        }
    }
}
