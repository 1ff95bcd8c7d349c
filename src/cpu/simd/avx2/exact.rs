//! Exact accumulation: the trits of a group become bytes, and those are added to its counts.

use super::accumulate::weigh;
use super::draws::{Draws, Generator, uniforms};
use super::quantize::NOTHING_KEPT;
use super::*;
use crate::cpu::plain::accumulate::exact as plain_exact;
use crate::cpu::split::Tile;
use crate::cpu::tile::ExactTile;
use crate::numerics::constants::{RANGE_LIMIT, ZERO_LIMIT};
use crate::numerics::float::magnitude;

/// The least scale that operations make, 2^-97. The greatest is [`RANGE_LIMIT`].
const SCALE_MIN: u32 = 0x0f00_0000;

/// Scratch of a part, one lane a group: see [`part`].
struct Parts<const BATCHES: usize> {
    maxima: [__m256i; BATCHES],
    scales: [[u32; 8]; BATCHES],
    /// The scales that decisions use.
    decide: [[f32; 8]; BATCHES],
    /// Maxima as they are stored.
    seen: [[u32; 8]; BATCHES],
    draws: [Draws; BATCHES],
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn exact<T: Element>(w: ExactTile<'_, T>) -> Report {
    let weight = magnitude(w.how.weight);
    match (w.how.bits, w.how.weight == 1f32.to_bits()) {
        _ if weight == 0 => plain_exact(w),
        (4, true) => sized::<T, 4, false>(w),
        (4, false) => sized::<T, 4, true>(w),
        (8, true) => sized::<T, 8, false>(w),
        (8, false) => sized::<T, 8, true>(w),
        (16, true) => sized::<T, 16, false>(w),
        (16, false) => sized::<T, 16, true>(w),
        _ => plain_exact(w),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sized<T: Element, const BITS: usize, const WEIGHTED: bool>(w: ExactTile<'_, T>) -> Report {
    if w.how.block > PART {
        run::<T, BITS, WEIGHTED, BATCHES_MAX>(w)
    } else {
        run::<T, BITS, WEIGHTED, PART_BATCHES>(w)
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run<T: Element, const BITS: usize, const WEIGHTED: bool, const BATCHES: usize>(w: ExactTile<'_, T>) -> Report {
    let how = w.how;
    let size = how.block;
    let whole = whole_units(w.x.len(), size);
    let (body, tail) = w.split(whole);
    let mut report = Report::default();
    let generator = Generator::new(&how.at, 1.0);
    let weight = _mm256_set1_ps(f32::from_bits(how.weight));
    let mut p = Parts {
        maxima: [_mm256_setzero_si256(); BATCHES],
        scales: [[0; 8]; BATCHES],
        decide: [[0.0; 8]; BATCHES],
        seen: [[0; 8]; BATCHES],
        draws: [Draws::new(); BATCHES],
    };
    let (x, counts) = (body.x.as_chunks::<GROUP>().0, body.counts.as_chunks_mut::<BITS>().0);
    let (groups, blocks) = (part(size) / GROUP, part(size) / size);
    let scaled = body.scales.chunks(blocks).zip(body.seen.chunks_mut(blocks));
    let mut first = body.first;
    for ((x, counts), (scales, seen)) in x.chunks(groups).zip(counts.chunks_mut(groups)).zip(scaled) {
        spread_scales(scales, size, &mut p.scales[..x.len() / 8]);
        let group = (first / GROUP as u64) as u32;
        if let Some(above) = measure::<T, WEIGHTED, BATCHES>(&mut p, &generator, group, x, size, weight) {
            for (seen, max) in seen.iter_mut().zip(p.seen.as_flattened().iter().step_by(size / GROUP)) {
                *seen = (*seen).max((max >> 16) as u16);
            }
            for (b, (x, counts)) in x.chunks_exact(8).zip(counts.chunks_exact_mut(8)).enumerate() {
                for g in 0..8 {
                    let a = addends::<T, WEIGHTED>(&x[g], weight);
                    if above {
                        report.clipped += u64::from(count_above(a, p.scales[b][g]));
                    }
                    add(&mut counts[g], trits(&p.draws[b], g, a, p.decide[b][g]));
                }
            }
        } else {
            let (x, counts) = (x.as_flattened(), counts.as_flattened_mut());
            report.merge(plain_exact(ExactTile { x, counts, scales, seen, first, how }));
        }
        first += (x.len() * GROUP) as u64;
    }
    report.merge(plain_exact(tail));
    report
}

/// Maxima and draws of a part, and whether any maximum lies above its scale; `None` where the plain code must look.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn measure<T: Element, const WEIGHTED: bool, const BATCHES: usize>(
    p: &mut Parts<BATCHES>,
    generator: &Generator,
    mut group: u32,
    x: &[[T; GROUP]],
    size: usize,
    weight: __m256,
) -> Option<bool> {
    for (x, (max, draws)) in x.chunks_exact(8).zip(p.maxima.iter_mut().zip(&mut p.draws)) {
        generator.draw(group, draws);
        group = group.wrapping_add(8);
        let mut m = [_mm256_setzero_si256(); 8];
        for g in 0..8 {
            prefetch(&x[g]);
            let [a, b, c, d] = addends::<T, WEIGHTED>(&x[g], weight);
            m[g] = join::<false>(join::<false>(abs_bits(a), abs_bits(b)), join::<false>(abs_bits(c), abs_bits(d)));
        }
        *max = over_block::<false>(reduce8::<false>(m), size);
    }
    let maxima = &mut p.maxima[..x.len() / 8];
    over_batches::<false>(maxima, size);
    let (mut inside, mut above) = (true, _mm256_setzero_si256());
    let scaled = maxima.iter().zip(&p.scales).zip(p.decide.iter_mut().zip(&mut p.seen));
    for ((&max, scales), (decide, seen)) in scaled {
        let s = load_words(scales);
        inside &= !any_outside(max, 0, RANGE_LIMIT);
        // Zeros under a scale of zero stay zeros, as under a huge scale; anything else under it is looked at.
        let zeros = _mm256_cmpeq_epi32(_mm256_or_si256(max, s), _mm256_setzero_si256());
        let nothing = _mm256_castps_si256(_mm256_set1_ps(NOTHING_KEPT));
        let under = _mm256_or_si256(s, _mm256_and_si256(zeros, nothing));
        inside &= !any_outside(under, SCALE_MIN, RANGE_LIMIT + 1);
        above = _mm256_or_si256(above, _mm256_cmpgt_epi32(max, s));
        store_floats(decide, _mm256_castsi256_ps(under));
        let up = _mm256_andnot_si256(_mm256_set1_epi32(0xffff), _mm256_add_epi32(max, _mm256_set1_epi32(0xffff)));
        let small = _mm256_cmpgt_epi32(_mm256_set1_epi32(ZERO_LIMIT as i32), max);
        store_words(seen, _mm256_andnot_si256(small, up));
    }
    inside.then(|| _mm256_movemask_epi8(above) != 0)
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
fn count_above(p: [__m256; 4], s: u32) -> u32 {
    let s = _mm256_set1_ps(f32::from_bits(s));
    let mut above = p;
    for p in &mut above {
        *p = _mm256_cmp_ps::<_CMP_GT_OQ>(abs(*p), s);
    }
    signs(above).count_ones()
}

/// Trits of a group as [`mixed_bytes`]: -1, 0, 1.
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
    let kept = _mm256_cmpgt_epi8(zero, mixed_bytes(decided));
    let minus = _mm256_cmpgt_epi8(zero, mixed_bytes(sign));
    _mm256_and_si256(kept, _mm256_or_si256(minus, _mm256_set1_epi8(1)))
}

/// Adds the trits of a group, as [`mixed_bytes`], to its counts, each within its field.
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
                store_words(c, _mm256_add_epi8(load_words(c), in_order(trits)));
            }
        }
        _ => {
            let trits = in_order(trits);
            let halves = [_mm256_castsi256_si128(trits), _mm256_extracti128_si256::<1>(trits)];
            for (c, t) in counts.as_chunks_mut::<8>().0.iter_mut().zip(halves) {
                store_words(c, _mm256_add_epi16(load_words(c), _mm256_cvtepi8_epi16(t)));
            }
        }
    }
}
