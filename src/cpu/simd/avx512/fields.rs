//! Levels and counts in AVX-512: a lane each, narrowed when they are stored; trits are bytes.

use super::*;
use crate::cpu::simd::generic::accumulate::{after_point, margin};
use crate::cpu::simd::vector::{Fields, Vector, compiled_for};

impl Fields for Avx512 {
    type Levels = [__m512i; 2];

    #[inline(always)]
    fn level_unit(_: usize) -> f32 {
        1.0
    }

    #[inline(always)]
    fn levels<const BITS: usize>(self, words: &[u32; BITS]) -> [__m512; 2] {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { levels(words) }
    }

    #[inline(always)]
    fn rounded<const BITS: usize>(self, t: [__m512; 2], of: [__m512; 2]) -> Option<[__m512i; 2]> {
        let t = [self.truncated(t[0]), self.truncated(t[1])];
        // Within twice the margin above an integer all these bits are clear.
        let far = self.splat((1 << after_point(BITS)) - 2 * margin(BITS));
        let [a, b] = t.map(|t| self.is_zero(self.and(t, far)));
        let whole = [self.shr(t[0], after_point(BITS)), self.shr(t[1], after_point(BITS))];
        if a | b == 0 { Some(self.with_signs(whole, of)) } else { None }
    }

    #[inline(always)]
    fn store_levels<const BITS: usize>(self, words: &mut [u32; BITS], levels: [__m512i; 2]) {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { store_levels(words, levels) }
    }

    #[inline(always)]
    fn count<const BITS: usize>(self, counts: &mut [u32; BITS], decided: [__m512; 2], of: [__m512; 2]) {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { add_trits(counts, self.signs(decided), self.signs(of)) }
    }

    compiled_for! {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
        fn with_signs(levels: [__m512i; 2], of: [__m512; 2]) -> [__m512i; 2] {
            [with_sign(levels[0], of[0]), with_sign(levels[1], of[1])]
        }
    }
}

/// The levels of a group: planes for 2 bits, fields for 4 and 8.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
#[inline]
fn levels<const BITS: usize>(words: &[u32; BITS]) -> [__m512; 2] {
    match BITS {
        2 => {
            let one = _mm512_set1_ps(1.0);
            let (plus, minus) = (words[0] & !words[BITS - 1], words[BITS - 1] & !words[0]); // both bits: 0
            let level = |plus: u32, minus: u32| {
                let l = _mm512_maskz_mov_ps(plus as __mmask16, one);
                _mm512_mask_sub_ps(l, minus as __mmask16, l, one)
            };
            [level(plus, minus), level(plus >> 16, minus >> 16)]
        }
        4 => {
            let Some(words) = words.first_chunk::<4>() else { return [_mm512_setzero_ps(); 2] };
            let words = _mm512_broadcast_i32x4(
                // SAFETY: `words` is 16 bytes.
                unsafe { _mm_loadu_si128(words.as_ptr().cast()) },
            );
            let shift = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
            // A field, read as a place in this table, gives its level.
            let table =
                _mm512_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0);
            let level = |word| _mm512_permutexvar_ps(_mm512_srlv_epi32(word, shift), table);
            let low = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(2));
            [level(_mm512_permutexvar_epi32(low, words)), level(_mm512_permutexvar_epi32(high, words))]
        }
        _ => {
            let (words, _) = words.as_chunks::<4>();
            let level = |words: &[u32; 4]| {
                // SAFETY: `words` is 16 bytes.
                let bytes = unsafe { _mm_loadu_si128(words.as_ptr().cast()) };
                _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
            };
            if let [a, b] = words { [level(a), level(b)] } else { [_mm512_setzero_ps(); 2] }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
#[inline]
fn with_sign(l: __m512i, of: __m512) -> __m512i {
    _mm512_mask_sub_epi32(l, _mm512_movepi32_mask(_mm512_castps_si512(of)), _mm512_setzero_si512(), l)
}

/// Stores levels: planes for 2 bits, fields for 4 and 8.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
#[inline]
fn store_levels<const BITS: usize>(words: &mut [u32; BITS], [a, b]: [__m512i; 2]) {
    if BITS == 2 {
        let zero = _mm512_setzero_si512();
        words[0] = both(_mm512_cmpgt_epi32_mask(a, zero), _mm512_cmpgt_epi32_mask(b, zero));
        words[BITS - 1] = both(_mm512_movepi32_mask(a), _mm512_movepi32_mask(b));
        return;
    }
    let bytes = _mm256_set_m128i(_mm512_cvtepi32_epi8(b), _mm512_cvtepi32_epi8(a));
    if let Some(words) = words.first_chunk_mut::<8>() {
        // SAFETY: `words` is 32 bytes.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), bytes) }
    } else if let Some(words) = words.first_chunk_mut::<4>() {
        let pairs = nibbles(bytes);
        // SAFETY: `words` is 16 bytes.
        unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), pairs) }
    }
}

/// Adds trits to counts, each within its field: 1 for `kept`, -1 where `minus` besides.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
#[inline]
fn add_trits<const BITS: usize>(counts: &mut [u32; BITS], kept: u32, minus: u32) {
    let one = _mm256_maskz_set1_epi8(kept, 1);
    let trits = _mm256_mask_sub_epi8(one, minus, _mm256_setzero_si256(), one);
    if let Some(c) = counts.first_chunk_mut::<16>() {
        // SAFETY: `c` is 64 bytes.
        let sum = _mm512_add_epi16(unsafe { _mm512_loadu_si512(c.as_ptr().cast()) }, _mm512_cvtepi8_epi16(trits));
        // SAFETY: `c` is 64 bytes.
        unsafe { _mm512_storeu_si512(c.as_mut_ptr().cast(), sum) }
    } else if let Some(c) = counts.first_chunk_mut::<8>() {
        // SAFETY: `c` is 32 bytes.
        let sum = _mm256_add_epi8(unsafe { _mm256_loadu_si256(c.as_ptr().cast()) }, trits);
        // SAFETY: `c` is 32 bytes.
        unsafe { _mm256_storeu_si256(c.as_mut_ptr().cast(), sum) }
    } else if let Some(c) = counts.first_chunk_mut::<4>() {
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

/// The low halves of 32 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
#[inline]
fn nibbles(bytes: __m256i) -> __m128i {
    let low = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
    _mm256_cvtepi16_epi8(_mm256_maddubs_epi16(low, _mm256_set1_epi16(0x1001))) // first + 16 second
}
