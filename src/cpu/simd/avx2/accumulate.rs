//! Adaptive accumulation: sums of a block are kept in a buffer while the scale that covers them is found.

use super::draws::{Draws, Generator, uniforms};
use super::*;
use crate::cpu::accumulate::{AdaptiveWork, plain_adaptive, plain_adaptive_block};
use crate::numerics::constants::{BLOCK_MAX, MIN_NORMAL};
use crate::numerics::float::{bf16_to_f32, magnitude};
use crate::numerics::level::level_max;
use crate::numerics::scale::level_scale;

/// Sums below 2^125 under a scale below 2^110 cannot hide an addend out of range (2^126 and above): levels of eight
/// bits times the scale stay below 2^118.
const SUM_LIMIT: u32 = 0x7e00_0000;
const SCALE_LIMIT: u32 = 0x7680_0000;
/// Scales that operations make lie above: 2^-97. Below it a level times a scale may not be exact.
const SCALE_MIN: u32 = 0x0f00_0000;

/// What becomes of the scale of a block: the decisions use `under` and its reciprocal, a little too small.
#[derive(Clone, Copy, Default)]
struct Grid {
    scales: [f32; 8],
    reciprocals: [f32; 8],
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn adaptive<T: Element>(w: AdaptiveWork<'_, T>) -> Report {
    let weight = magnitude(w.rule.weight);
    match (w.rule.bits, w.rule.weight == 1f32.to_bits()) {
        _ if weight == 0 => plain_adaptive(w),
        (2, true) => run::<T, 2, false>(w),
        (2, false) => run::<T, 2, true>(w),
        (4, true) => run::<T, 4, false>(w),
        (4, false) => run::<T, 4, true>(w),
        (8, true) => run::<T, 8, false>(w),
        (8, false) => run::<T, 8, true>(w),
        _ => plain_adaptive(w),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run<T: Element, const BITS: usize, const WEIGHTED: bool>(w: AdaptiveWork<'_, T>) -> Report {
    let AdaptiveWork { x, levels, scales, first, rule } = w;
    let (size, chunk) = (rule.block, rule.block.max(BATCH));
    let mut report = Report::default();
    let generator = Generator::new(&rule.at);
    let weight = _mm256_set1_ps(f32::from_bits(rule.weight));
    let mut sums = [[0f32; 8]; BLOCK_MAX as usize / 8];
    let (mut draws, mut grid) = (Draws::new(), Grid::default());
    let (groups, fields) = (x.as_chunks::<GROUP>().0, levels.as_chunks_mut::<BITS>().0);
    let whole = x.len() / chunk;
    for i in 0..whole {
        let range = i * (chunk / GROUP)..(i + 1) * (chunk / GROUP);
        let (x, fields) = (&groups[range.clone()], &mut fields[range]);
        let scales = &mut scales[i * (chunk / size)..(i + 1) * (chunk / size)];
        let position = first + (i * chunk) as u64;
        let max = add::<T, BITS, WEIGHTED>(x, fields, scales, size, weight, &mut sums);
        let old = scales.iter().all(|&s| s == 0 || (SCALE_MIN..SCALE_LIMIT).contains(&bf16_to_f32(s)));
        if !old || any_outside(max, 0, SUM_LIMIT) {
            let blocks = x.as_flattened().chunks(size).zip(fields.as_flattened_mut().chunks_mut(size / GROUP * BITS));
            for (b, ((x, levels), scale)) in blocks.zip(scales).enumerate() {
                plain_adaptive_block(&rule, x, levels, scale, position + (b * size) as u64, &mut report);
            }
            continue;
        }
        grid_of::<BITS>(max, scales, size, &mut grid);
        let group = (position / GROUP as u64) as u32;
        for (b, (fields, sums)) in fields.chunks_exact_mut(8).zip(sums.as_chunks::<4>().0.chunks_exact(8)).enumerate() {
            generator.draw(group.wrapping_add(8 * b as u32), &mut draws);
            for (g, (fields, sums)) in fields.iter_mut().zip(sums).enumerate() {
                let rounded = round(&draws, g, sums, grid.scales[g], grid.reciprocals[g]);
                store_levels(fields, rounded);
            }
        }
    }
    let rest = AdaptiveWork {
        x: &x[whole * chunk..],
        levels: &mut levels[whole * chunk / GROUP * BITS..],
        scales: &mut scales[whole * chunk / size..],
        first: first + (whole * chunk) as u64,
        rule,
    };
    report.merge(plain_adaptive(rest));
    report
}

/// `l s + p` of a chunk into `sums`; returns the largest magnitude patterns of its blocks, in the lanes of their
/// groups.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add<T: Element, const BITS: usize, const WEIGHTED: bool>(
    x: &[[T; GROUP]],
    fields: &[[u32; BITS]],
    scales: &[u16],
    size: usize,
    weight: __m256,
    sums: &mut [[f32; 8]],
) -> __m256i {
    let shift = (size / GROUP).trailing_zeros();
    let mut max = _mm256_setzero_si256();
    let batches = x.chunks_exact(8).zip(fields.chunks_exact(8)).zip(sums.as_chunks_mut::<4>().0.chunks_exact_mut(8));
    for (b, ((x, fields), sums)) in batches.enumerate() {
        let mut m = [_mm256_setzero_si256(); 8];
        for g in 0..8 {
            let scale = scales.get((8 * b + g) >> shift).copied().unwrap_or(0);
            let s = _mm256_set1_ps(f32::from_bits(bf16_to_f32(scale)));
            let l = load_levels(&fields[g]);
            let x = load32(&x[g]);
            for q in 0..4 {
                let p = if WEIGHTED { weigh(x[q], weight) } else { x[q] };
                // `l s` is exact, so the fused sum is the rounded sum of the spec.
                let v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(l[q]), s, p);
                store_floats(&mut sums[g][q], v);
                m[g] = join::<false>(m[g], abs_bits(v));
            }
        }
        max = join::<false>(max, reduce8::<false>(m));
    }
    over_block::<false>(max, size)
}

/// `weight x`, with a subnormal `x` as zero. A subnormal product needs no care: it is lost in any sum but with zero,
/// and then it is lost to the scale.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn weigh(x: __m256, weight: __m256) -> __m256 {
    let normal = _mm256_cmpgt_epi32(abs_bits(x), _mm256_set1_epi32(MIN_NORMAL as i32 - 1));
    _mm256_mul_ps(_mm256_and_ps(x, _mm256_castsi256_ps(normal)), weight)
}

/// New scales, and the grid they make.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn grid_of<const BITS: usize>(max: __m256i, scales: &mut [u16], size: usize, grid: &mut Grid) {
    let mut lanes = [0; 8];
    store_words(&mut lanes, max);
    let step = size / GROUP;
    for (b, scale) in scales.iter_mut().enumerate() {
        let g = b * step;
        let s = match BITS {
            2 => level_scale(lanes[g], level_max(2)),
            4 => level_scale(lanes[g], level_max(4)),
            _ => level_scale(lanes[g], level_max(8)),
        };
        *scale = (s >> 16) as u16;
        // Under a scale of zero all sums lie below 2^-90 and every level is zero, as it is under a huge scale.
        let under = if s == 0 { f32::from_bits(0x7f00_0000) } else { f32::from_bits(s) };
        grid.scales[g..(g + step).min(8)].fill(under);
    }
    let below = _mm256_set1_ps(1.0 - 1.0 / 4_194_304.0);
    let r = _mm256_mul_ps(_mm256_div_ps(_mm256_set1_ps(1.0), load_floats(&grid.scales)), below);
    store_floats(&mut grid.reciprocals, r);
}

/// Levels of a group: `sign(v) (floor(|v| / s) + (u s < rest))`.
///
/// The product with the reciprocal lies below `|v| / s` by less than 2^-14, so its floor is the quotient's or one
/// less, and the remainder, exact in 24 bits, tells which.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn round(draws: &Draws, g: usize, sums: &[[f32; 8]; 4], scale: f32, reciprocal: f32) -> [__m256i; 4] {
    let (s, r) = (_mm256_set1_ps(scale), _mm256_set1_ps(reciprocal));
    let u = uniforms(draws, g);
    let mut levels = [_mm256_setzero_si256(); 4];
    for q in 0..4 {
        let v = load_floats(&sums[q]);
        let m = abs(v);
        let c = _mm256_cvttps_epi32(_mm256_mul_ps(m, r));
        let rest = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(c), s, m);
        let less = _mm256_castps_si256(_mm256_sub_ps(rest, s)); // negative unless the quotient is one more
        let rest = _mm256_castsi256_ps(_mm256_min_epu32(_mm256_castps_si256(rest), less));
        let up = _mm256_castps_si256(_mm256_fmsub_ps(u[q], s, rest)); // negative for up
        // c + 1 - (less < 0) + (up < 0)
        let change = _mm256_sub_epi32(_mm256_srli_epi32::<31>(up), _mm256_srli_epi32::<31>(less));
        let l = _mm256_sub_epi32(_mm256_add_epi32(c, change), _mm256_set1_epi32(-1));
        levels[q] = _mm256_sign_epi32(l, _mm256_castps_si256(v));
    }
    levels
}

/// The 32 levels of a group: planes for 2 bits, fields for 4 and 8.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn load_levels<const BITS: usize>(words: &[u32; BITS]) -> [__m256i; 4] {
    let mut levels = [_mm256_setzero_si256(); 4];
    match BITS {
        2 => {
            let (plus, minus) = (_mm256_set1_epi32(words[0] as i32), _mm256_set1_epi32(words[BITS - 1] as i32));
            let mut bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            for l in &mut levels {
                let p = _mm256_cmpeq_epi32(_mm256_and_si256(plus, bit), bit);
                let m = _mm256_cmpeq_epi32(_mm256_and_si256(minus, bit), bit);
                *l = _mm256_sub_epi32(m, p); // both bits: 0
                bit = _mm256_slli_epi32::<8>(bit);
            }
        }
        4 => {
            let shift = _mm256_setr_epi32(28, 24, 20, 16, 12, 8, 4, 0);
            for (l, w) in levels.iter_mut().zip(words) {
                *l = _mm256_srai_epi32::<28>(_mm256_sllv_epi32(_mm256_set1_epi32(*w as i32), shift));
            }
        }
        8 => {
            for (l, w) in levels.iter_mut().zip(words.as_chunks::<2>().0) {
                let bytes = _mm_set_epi64x(0, (u64::from(w[0]) | u64::from(w[1]) << 32) as i64);
                *l = _mm256_cvtepi8_epi32(bytes);
            }
        }
        _ => {
            for (l, w) in levels.iter_mut().zip(words.as_chunks::<4>().0) {
                let low = (u64::from(w[0]) | u64::from(w[1]) << 32) as i64;
                let high = (u64::from(w[2]) | u64::from(w[3]) << 32) as i64;
                *l = _mm256_cvtepi16_epi32(_mm_set_epi64x(high, low));
            }
        }
    }
    levels
}

/// See [`load_levels`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store_levels<const BITS: usize>(words: &mut [u32; BITS], levels: [__m256i; 4]) {
    let bytes = to_bytes(levels);
    match BITS {
        2 => {
            words[0] = _mm256_movemask_epi8(_mm256_cmpgt_epi8(bytes, _mm256_setzero_si256())) as u32;
            words[BITS - 1] = _mm256_movemask_epi8(bytes) as u32;
        }
        4 => {
            if let Some(words) = words.first_chunk_mut::<4>() {
                store_nibbles(words, bytes);
            }
        }
        _ => {
            if let Some(words) = words.first_chunk_mut::<8>() {
                store_words(words, bytes);
            }
        }
    }
}

/// The low halves of 32 bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn nibbles(bytes: __m256i) -> __m128i {
    let low = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
    let pairs = _mm256_maddubs_epi16(low, _mm256_set1_epi16(0x1001)); // first + 16 second
    let packed = _mm256_packus_epi16(pairs, pairs);
    _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b10_00>(packed))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store_nibbles(words: &mut [u32; 4], bytes: __m256i) {
    let packed = nibbles(bytes);
    // SAFETY: `words` is 16 bytes.
    unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), packed) }
}
