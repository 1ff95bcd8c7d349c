//! Levels and counts of all widths as integers.

use super::*;

/// The 32 levels of a group: planes for 2 bits, fields for 4, 8 and 16.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
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
