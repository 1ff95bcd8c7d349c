//! Levels and counts in AVX2: bytes of four vectors at once, two levels of few bits in a lane.

use super::levels::load_levels;
use super::*;
use crate::cpu::simd::generic::accumulate::margin;
use crate::cpu::simd::vector::{Fields, compiled_for};

/// The value of the lowest bit of a level at the top of a word.
const NIBBLE: f32 = 1.0 / (1 << 28) as f32;

impl Fields for Avx2 {
    /// As [`mixed_bytes`].
    type Levels = __m256i;

    #[inline(always)]
    fn level_unit(bits: usize) -> f32 {
        if bits == 4 { NIBBLE } else { 1.0 }
    }

    #[inline(always)]
    fn levels<const BITS: usize>(self, words: &[u32; BITS]) -> [__m256; 4] {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { levels(words) }
    }

    #[inline(always)]
    fn rounded<const BITS: usize>(self, t: [__m256; 4], of: [__m256; 4]) -> Option<__m256i> {
        let (near, levels) = if BITS == 8 { self.rounded_words(t, of) } else { self.rounded_halves(t, of) };
        if near { None } else { Some(levels) }
    }

    #[inline(always)]
    fn store_levels<const BITS: usize>(self, words: &mut [u32; BITS], levels: __m256i) {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { store_levels(words, levels) }
    }

    #[inline(always)]
    fn count<const BITS: usize>(self, counts: &mut [u32; BITS], decided: [__m256; 4], of: [__m256; 4]) {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { add_trits(counts, decided, of) }
    }

    compiled_for! {
        #[target_feature(enable = "avx2,fma,f16c,popcnt")]
        fn with_signs(levels: [__m256i; 4], of: [__m256; 4]) -> __m256i {
            let mut levels = levels;
            for q in 0..4 {
                levels[q] = _mm256_sign_epi32(levels[q], _mm256_castps_si256(of[q]));
            }
            mixed_bytes(levels)
        }
    }
}

impl Avx2 {
    compiled_for! {
        #[target_feature(enable = "avx2,fma,f16c,popcnt")]
        // 20 bits after the point. Whether any is near, and the levels.
        fn rounded_words(t: [__m256; 4], of: [__m256; 4]) -> (bool, __m256i) {
            let (mut levels, mut nearest) = ([_mm256_setzero_si256(); 4], _mm256_set1_epi32(-1));
            for q in 0..4 {
                let t = _mm256_cvttps_epi32(t[q]);
                nearest = _mm256_min_epu32(nearest, _mm256_slli_epi32::<12>(t));
                levels[q] = _mm256_sign_epi32(_mm256_srai_epi32::<20>(t), _mm256_castps_si256(of[q]));
            }
            let near = _mm256_set1_epi32(((2 * margin(8)) << 12) as i32);
            let any = _mm256_cmpeq_epi32(_mm256_min_epu32(nearest, near), nearest);
            (_mm256_movemask_epi8(any) != 0, mixed_bytes(levels))
        }
        // 13 bits after the point, so that two elements share a 32-bit lane.
        fn rounded_halves(t: [__m256; 4], of: [__m256; 4]) -> (bool, __m256i) {
            let (mut whole, mut v) = ([_mm256_setzero_si256(); 4], [_mm256_setzero_si256(); 4]);
            for q in 0..4 {
                (whole[q], v[q]) = (_mm256_cvttps_epi32(t[q]), _mm256_castps_si256(of[q]));
            }
            // Saturation at 2^16 leaves the level at 7, where it belongs.
            let (a, b) = (_mm256_packus_epi32(whole[0], whole[1]), _mm256_packus_epi32(whole[2], whole[3]));
            let nearest = _mm256_min_epu16(_mm256_slli_epi16::<3>(a), _mm256_slli_epi16::<3>(b));
            let near = _mm256_set1_epi16(((2 * margin(4)) << 3) as i16);
            let any = _mm256_cmpeq_epi16(_mm256_min_epu16(nearest, near), nearest);
            let a = _mm256_sign_epi16(_mm256_srli_epi16::<13>(a), _mm256_packs_epi32(v[0], v[1]));
            let b = _mm256_sign_epi16(_mm256_srli_epi16::<13>(b), _mm256_packs_epi32(v[2], v[3]));
            (_mm256_movemask_epi8(any) != 0, _mm256_packs_epi16(a, b))
        }
    }
}

/// Levels in units of [`Fields::level_unit`]'s reciprocal.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn levels<const BITS: usize>(words: &[u32; BITS]) -> [__m256; 4] {
    let l = if BITS == 4 { top_nibbles(words) } else { load_levels(words) };
    [_mm256_cvtepi32_ps(l[0]), _mm256_cvtepi32_ps(l[1]), _mm256_cvtepi32_ps(l[2]), _mm256_cvtepi32_ps(l[3])]
}

/// Levels of 4 bits in units of 2^28.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn top_nibbles<const BITS: usize>(words: &[u32; BITS]) -> [__m256i; 4] {
    let (shift, top) = (_mm256_setr_epi32(28, 24, 20, 16, 12, 8, 4, 0), _mm256_set1_epi32(0xf000_0000_u32 as i32));
    let mut levels = [_mm256_setzero_si256(); 4];
    for (l, w) in levels.iter_mut().zip(words) {
        *l = _mm256_and_si256(_mm256_sllv_epi32(_mm256_set1_epi32(*w as i32), shift), top);
    }
    levels
}

/// Stores levels from [`mixed_bytes`]: planes for 2 bits, fields for 4 and 8.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn store_levels<const BITS: usize>(words: &mut [u32; BITS], levels: __m256i) {
    match BITS {
        2 => {
            let levels = in_order(levels);
            words[0] = _mm256_movemask_epi8(_mm256_cmpgt_epi8(levels, _mm256_setzero_si256())) as u32;
            words[BITS - 1] = _mm256_movemask_epi8(levels) as u32;
        }
        4 => {
            if let Some(words) = words.first_chunk_mut::<4>() {
                let packed = nibbles(levels);
                // SAFETY: `words` is 16 bytes.
                unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), packed) }
            }
        }
        _ => {
            if let Some(words) = words.first_chunk_mut::<8>() {
                store_words(words, in_order(levels));
            }
        }
    }
}

/// Trits of a group as [`mixed_bytes`]: -1, 0, 1.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn trits(decided: [__m256; 4], of: [__m256; 4]) -> __m256i {
    let (mut kept, mut sign) = ([_mm256_setzero_si256(); 4], [_mm256_setzero_si256(); 4]);
    for q in 0..4 {
        (kept[q], sign[q]) = (_mm256_castps_si256(decided[q]), _mm256_castps_si256(of[q]));
    }
    let zero = _mm256_setzero_si256();
    let kept = _mm256_cmpgt_epi8(zero, mixed_bytes(kept));
    let minus = _mm256_cmpgt_epi8(zero, mixed_bytes(sign));
    _mm256_and_si256(kept, _mm256_or_si256(minus, _mm256_set1_epi8(1)))
}

/// See [`Fields::count`].
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn add_trits<const BITS: usize>(counts: &mut [u32; BITS], decided: [__m256; 4], of: [__m256; 4]) {
    let trits = trits(decided, of);
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
