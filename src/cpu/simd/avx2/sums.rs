//! Maxima and integer sums of runs and chunks.

use super::{abs, abs_bits, join, load8};
use crate::cpu::plain::quantize::{moments as plain_moments, sum as plain_sum};
use crate::numerics::constants::{CHUNK, MIN_NORMAL, RANGE_LIMIT, SQUARE_BITS, SUM_BITS, ZERO_LIMIT};
use crate::numerics::threshold::{Moments, Sum, chunk_exponent};
use crate::op::Element;
use std::arch::x86_64::*;

/// The largest of `bits & 0x7fffffff`.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
pub(super) fn max<T: Element>(x: &[T]) -> u32 {
    let (groups, rest) = x.as_chunks::<32>();
    let mut m = [_mm256_setzero_si256(); 4];
    for x in groups {
        let (x, _) = x.as_chunks::<8>();
        for (m, x) in m.iter_mut().zip(x) {
            *m = _mm256_max_epu32(*m, abs_bits(load8(x)));
        }
    }
    let mut max = lanes(join::<false>(join::<false>(m[0], m[1]), join::<false>(m[2], m[3]))).into_iter().max();
    for x in rest {
        max = max.max(Some(x.to_f32_bits() & 0x7fff_ffff));
    }
    max.unwrap_or(0)
}

#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn lanes(v: __m256i) -> [u32; 8] {
    let mut lanes = [0; 8];
    super::store_words(&mut lanes, v);
    lanes
}

/// `2^(bits - 1 + 127 - exponent)`: what brings magnitudes to units of a sum.
pub(super) fn units(exponent: u32, bits: u32) -> f32 {
    f32::from_bits((bits + 253 - exponent) << 23)
}

/// Whether a multiplication by [`units`] and a truncation give the fixed-point numbers of the spec.
///
/// Both do `floor(m / unit)` then; below 2^-90 the factor may not exist and subnormals would count.
pub(super) fn scalable(max: u32) -> bool {
    (ZERO_LIMIT..RANGE_LIMIT).contains(&max)
}

/// The sum of a chunk over what lies above `t`.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
pub(super) fn sum<T: Element>(x: &[T], t: Option<u32>) -> Sum {
    let max = max(x);
    if max == 0 {
        return Sum { total: 0, exponent: 1, count: if t.is_none() { x.len() as u64 } else { 0 } };
    }
    if !scalable(max) || x.len() > CHUNK {
        return plain_sum(x, t);
    }
    let exponent = chunk_exponent(max);
    let unit = units(exponent, SUM_BITS);
    // A subnormal counts as zero, which is above nothing.
    let limit = t.map_or(-1, |t| t.max(MIN_NORMAL - 1) as i32);
    let (factor, limit_8) = (_mm256_set1_ps(unit), _mm256_set1_epi32(limit));
    let (mut total, mut count) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    let (vectors, rest) = x.as_chunks::<8>();
    for x in vectors {
        let m = abs(load8(x));
        let fixed = _mm256_cvttps_epi32(_mm256_mul_ps(m, factor));
        let kept = _mm256_cmpgt_epi32(_mm256_castps_si256(m), limit_8);
        total = _mm256_add_epi32(total, _mm256_and_si256(fixed, kept));
        count = _mm256_sub_epi32(count, kept);
    }
    let mut sum = Sum { total: 0, exponent, count: 0 };
    for (t, c) in lanes(total).into_iter().zip(lanes(count)) {
        sum.total += u64::from(t);
        sum.count += u64::from(c);
    }
    for x in rest {
        let m = x.to_f32_bits() & 0x7fff_ffff;
        if m as i32 > limit {
            sum.total += u64::from((f32::from_bits(m) * unit) as u32);
            sum.count += 1;
        }
    }
    sum
}

/// Moments of a chunk.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
pub(super) fn moments<T: Element>(x: &[T]) -> Moments {
    let max = max(x);
    if !scalable(max) || x.len() > CHUNK {
        return plain_moments(x);
    }
    let exponent = chunk_exponent(max);
    let unit = units(exponent, SQUARE_BITS);
    let factor = _mm256_set1_ps(unit);
    let low = _mm256_set1_epi64x(0xffff_ffff);
    let (mut first, mut second) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    let (vectors, rest) = x.as_chunks::<8>();
    for x in vectors {
        let x = load8(x);
        let q = _mm256_cvttps_epi32(_mm256_mul_ps(abs(x), factor));
        // `q` has 15 bits, so the sign of the pattern may be put on it (a zero pattern has q = 0), and its square is
        // the 16-bit product of its low half.
        first = _mm256_add_epi32(first, _mm256_sign_epi32(q, _mm256_castps_si256(x)));
        let square = _mm256_madd_epi16(q, q);
        second = _mm256_add_epi64(second, _mm256_and_si256(square, low));
        second = _mm256_add_epi64(second, _mm256_srli_epi64::<32>(square));
    }
    let mut m = Moments { first: 0, second: 0, exponent, count: x.len() as u64 };
    for f in lanes(first) {
        m.first += i64::from(f as i32);
    }
    for s in lanes(second).as_chunks::<2>().0 {
        m.second += u64::from(s[0]) | u64::from(s[1]) << 32;
    }
    for x in rest {
        let bits = x.to_f32_bits();
        let q = (f32::from_bits(bits & 0x7fff_ffff) * unit) as i64;
        m.first += if bits >> 31 == 1 { -q } else { q };
        m.second += (q * q) as u64;
    }
    m
}
