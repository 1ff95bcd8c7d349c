//! Threshold quantize: blocks in one pass over memory, sums in integers, means in f64 where they are exact.

use super::sums::UNIT;
use super::*;
use crate::cpu::plain::quantize::blocks as plain_blocks;
use crate::cpu::tile::{Method, QuantizeTile};
use crate::numerics::constants::{MIN_NORMAL, RANGE_LIMIT, SUM_BITS, ZERO_LIMIT};
use crate::numerics::float::magnitude;
use crate::numerics::threshold::mul_trunc;
use crate::op::quantize::Threshold;

/// Scratch of a part, one lane a group.
struct Parts<const BATCHES: usize> {
    /// Exponents that the sums refer to, and the powers of two that bring magnitudes to their units.
    exponents: [__m256i; BATCHES],
    factors: [[f32; 8]; BATCHES],
    limits: [[u32; 8]; BATCHES],
    sums: [__m256i; BATCHES],
    counts: [[u32; 8]; BATCHES],
    /// Fixed-point magnitudes.
    fixed: [[[[u32; 8]; 4]; 8]; BATCHES],
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks<T: Element>(method: &Method, rule: Threshold, w: QuantizeTile<'_, T>) -> Report {
    if w.size > PART { run::<T, BATCHES_MAX>(method, rule, w) } else { run::<T, PART_BATCHES>(method, rule, w) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run<T: Element, const BATCHES: usize>(method: &Method, rule: Threshold, w: QuantizeTile<'_, T>) -> Report {
    let QuantizeTile { x, words, scales, mut first, size } = w;
    let (x, words) = (x.as_chunks::<GROUP>().0, words.as_chunks_mut::<2>().0);
    let (groups, blocks) = (part(size) / GROUP, part(size) / size);
    let zero = _mm256_setzero_si256();
    let mut p = Parts {
        exponents: [zero; BATCHES],
        factors: [[0.0; 8]; BATCHES],
        limits: [[0; 8]; BATCHES],
        sums: [zero; BATCHES],
        counts: [[0; 8]; BATCHES],
        fixed: [[[[0; 8]; 4]; 8]; BATCHES],
    };
    let mut report = Report::default();
    for ((x, words), scales) in x.chunks(groups).zip(words.chunks_mut(groups)).zip(scales.chunks_mut(blocks)) {
        if measure(&mut p, x, size) {
            limits(&mut p, rule, x, size);
            keep(&mut p, x, words, size);
            means(&mut p, x.len() / 8, size);
            write_scales(scales, &p.limits, size);
        } else {
            let (x, words) = (x.as_flattened(), words.as_flattened_mut());
            report.merge(plain_blocks(method, QuantizeTile { x, words, scales, first, size }));
        }
        first += (x.len() * GROUP) as u64;
    }
    report
}

/// The units of the sums of a part; `false` where a maximum is out of range or too small for them, but not zero.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn measure<T: Element, const BATCHES: usize>(p: &mut Parts<BATCHES>, x: &[[T; GROUP]], size: usize) -> bool {
    for (x, max) in x.chunks_exact(8).zip(&mut p.sums) {
        *max = over_block::<false>(group_maxima(x), size);
    }
    let maxima = &mut p.sums[..x.len() / 8];
    over_batches::<false>(maxima, size);
    let mut inside = true;
    for (max, (exponent, factors)) in maxima.iter().zip(p.exponents.iter_mut().zip(&mut p.factors)) {
        // A block of zeros sums to zero under any exponent.
        let zero = _mm256_cmpeq_epi32(*max, _mm256_setzero_si256());
        let max = _mm256_or_si256(*max, _mm256_and_si256(zero, _mm256_set1_epi32(ZERO_LIMIT as i32)));
        inside &= !any_outside(max, ZERO_LIMIT, RANGE_LIMIT);
        *exponent = _mm256_srli_epi32::<23>(max);
        let factor = _mm256_sub_epi32(_mm256_set1_epi32(SUM_BITS as i32 + 253), *exponent);
        store_floats(factors, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(factor)));
    }
    inside
}

/// Fixed-point magnitudes and limits of a part.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn limits<T: Element, const BATCHES: usize>(p: &mut Parts<BATCHES>, rule: Threshold, x: &[[T; GROUP]], size: usize) {
    let batches = x.len() / 8;
    let summed = x.chunks_exact(8).zip(p.fixed.iter_mut().zip(&p.factors)).zip(&mut p.sums);
    for ((x, (fixed, factors)), sum) in summed {
        *sum = over_block::<true>(group_sums(x, fixed, factors), size);
    }
    // A subnormal counts as zero, which is above nothing.
    let least = _mm256_set1_epi32(MIN_NORMAL as i32 - 1);
    let factor = match rule {
        Threshold::Given(t) => {
            let t = _mm256_max_epi32(_mm256_set1_epi32(magnitude(t.to_bits()) as i32), least);
            for limits in &mut p.limits[..batches] {
                store_words(limits, t);
            }
            return;
        }
        Threshold::Mean(factor) => factor,
    };
    over_batches::<true>(&mut p.sums[..batches], size);
    let sums = p.sums.iter().zip(&p.exponents).zip(&mut p.limits).take(batches);
    for ((sum, exponent), limits) in sums {
        let count = _mm256_set1_epi32(size as i32);
        if (1.0 / UNIT..=2.0).contains(&factor) {
            // Means lie between 2^-102 and 2^126: their products with the factor are normal numbers.
            let t = truncated_means(*sum, *exponent, count, factor);
            store_words(limits, _mm256_max_epi32(t, least));
        } else {
            store_words(limits, truncated_means(*sum, *exponent, count, 1.0));
            for t in limits {
                *t = mul_trunc(factor.to_bits(), *t).max(MIN_NORMAL - 1);
            }
        }
    }
}

/// Fixed-point magnitudes of eight groups, and their sums, one a lane.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group_sums<T: Element>(x: &[[T; GROUP]], fixed: &mut [[[u32; 8]; 4]; 8], factors: &[f32; 8]) -> __m256i {
    let mut sums = [_mm256_setzero_si256(); 8];
    for g in 0..8 {
        let (x, f) = (load32(&x[g]), _mm256_set1_ps(factors[g]));
        let mut q = [_mm256_setzero_si256(); 4];
        for i in 0..4 {
            q[i] = _mm256_cvttps_epi32(_mm256_mul_ps(abs(x[i]), f));
            store_words(&mut fixed[g][i], q[i]);
        }
        sums[g] = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
    }
    reduce8::<true>(sums)
}

/// Planes of a part, and sums and counts of what is kept.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn keep<T: Element, const BATCHES: usize>(
    p: &mut Parts<BATCHES>,
    x: &[[T; GROUP]],
    words: &mut [[u32; 2]],
    size: usize,
) {
    for (b, (x, words)) in x.chunks_exact(8).zip(words.chunks_exact_mut(8)).enumerate() {
        let (fixed, limits, counts) = (&p.fixed[b], &p.limits[b], &mut p.counts[b]);
        let mut sums = [_mm256_setzero_si256(); 8];
        for g in 0..8 {
            let (planes, mut kept) = above(&x[g], limits[g]);
            words[g] = planes;
            counts[g] = (planes[0] | planes[1]).count_ones();
            for i in 0..4 {
                kept[i] = _mm256_and_si256(kept[i], load_words(&fixed[g][i]));
            }
            sums[g] = _mm256_add_epi32(_mm256_add_epi32(kept[0], kept[1]), _mm256_add_epi32(kept[2], kept[3]));
        }
        p.sums[b] = over_block::<true>(reduce8::<true>(sums), size);
    }
}

/// Threshold planes of a group, and the masks of what is kept.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn above<T: Element>(x: &[T; GROUP], limit: u32) -> ([u32; 2], [__m256i; 4]) {
    let (x, t) = (load32(x), _mm256_set1_epi32(limit as i32));
    let mut masks = [_mm256_setzero_si256(); 4];
    for i in 0..4 {
        masks[i] = _mm256_cmpgt_epi32(abs_bits(x[i]), t);
    }
    let (kept, minus) = (_mm256_movemask_epi8(in_order(mixed_bytes(masks))) as u32, signs(x));
    ([kept & !minus, kept & minus], masks)
}

/// The means of what was kept, rounded to bf16, into `limits`, which are not needed any more.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn means<const BATCHES: usize>(p: &mut Parts<BATCHES>, batches: usize, size: usize) {
    over_batches::<true>(&mut p.sums[..batches], size);
    let mut counts = [_mm256_setzero_si256(); BATCHES];
    for (all, counts) in counts.iter_mut().zip(&p.counts).take(batches) {
        *all = over_block::<true>(load_words(counts), size);
    }
    over_batches::<true>(&mut counts[..batches], size);
    let sums = p.sums.iter().zip(&p.exponents).zip(counts).take(batches);
    for (((sum, exponent), count), mean) in sums.zip(&mut p.limits) {
        store_words(mean, rounded_means(*sum, *exponent, count));
    }
}

/// Four u32 as f64, exact.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn to_f64(v: __m128i) -> __m256d {
    let magic = _mm256_castpd_si256(_mm256_set1_pd(4_503_599_627_370_496.0)); // 2^52
    let v = _mm256_or_si256(_mm256_cvtepu32_epi64(v), magic);
    _mm256_sub_pd(_mm256_castsi256_pd(v), _mm256_castsi256_pd(magic))
}

/// [`crate::numerics::threshold::Sum::mean`] times a factor, truncated, in eight lanes; `count` is a power of two.
///
/// The quotients are exact; cut to 24 bits, their products with the factor are exact as well, and are cut in turn.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn truncated_means(sum: __m256i, exponent: __m256i, count: __m256i, factor: f32) -> __m256i {
    let factor = _mm256_set1_pd(f64::from(factor));
    let cut = _mm256_castsi256_pd(_mm256_set1_epi64x(!0x1fff_ffff));
    let half = |sum: __m128i, count: __m128i| {
        let q = _mm256_div_pd(to_f64(sum), to_f64(count));
        let t = _mm256_mul_pd(_mm256_and_pd(q, cut), factor);
        _mm256_srli_epi64::<29>(_mm256_castpd_si256(t))
    };
    to_f32(sum, exponent, count, half)
}

/// [`crate::numerics::threshold::Sum::mean_bf16`] in eight lanes, under the conditions of [`sums::mean_bf16`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn rounded_means(sum: __m256i, exponent: __m256i, count: __m256i) -> __m256i {
    let half = |sum: __m128i, count: __m128i| {
        let q = _mm256_castpd_si256(_mm256_div_pd(to_f64(sum), to_f64(count)));
        let odd = _mm256_and_si256(_mm256_srli_epi64::<45>(q), _mm256_set1_epi64x(1));
        let r = _mm256_add_epi64(_mm256_add_epi64(q, odd), _mm256_set1_epi64x((1 << 44) - 1));
        _mm256_slli_epi64::<16>(_mm256_srli_epi64::<45>(r))
    };
    to_f32(sum, exponent, count, half)
}

/// Eight lanes by halves of four, from an f64 exponent and the units of the sum to an f32; 0 for an empty sum.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn to_f32(sum: __m256i, exponent: __m256i, count: __m256i, half: impl Fn(__m128i, __m128i) -> __m256i) -> __m256i {
    let low = half(_mm256_castsi256_si128(sum), _mm256_castsi256_si128(count));
    let high = half(_mm256_extracti128_si256::<1>(sum), _mm256_extracti128_si256::<1>(count));
    // The low words of the eight lanes, in order.
    let words = _mm256_shuffle_ps::<0b10_00_10_00>(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high));
    let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_castps_si256(words));
    let shift = _mm256_slli_epi32::<23>(_mm256_sub_epi32(exponent, _mm256_set1_epi32(1022 + SUM_BITS as i32)));
    let empty = _mm256_cmpeq_epi32(sum, _mm256_setzero_si256());
    _mm256_andnot_si256(empty, _mm256_add_epi32(words, shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::Bits;
    use crate::numerics::threshold::{Sum, relative};

    /// Sums of chunks whose largest element is counted, near quotients of few bits, where rounding could err.
    fn sums(bits: &mut Bits, power_of_two: bool) -> [Sum; 8] {
        std::array::from_fn(|_| {
            let r = bits.next();
            let count =
                if power_of_two { 32 << (r % 8) } else { 1 + u64::from(r % if r & 4096 == 0 { 64 } else { 4096 }) };
            let near = (count * u64::from(bits.next() % (1 << 9) + 128)) << (bits.next() % 12);
            let total = match r >> 30 {
                0 => near.wrapping_sub(1),
                1 => near + 1,
                2 => count * u64::from(bits.next() % (1 << 20)),
                _ => u64::from(bits.next()),
            };
            Sum { total: total.clamp(1 << 19, (count << 20) - 1), exponent: 37 + bits.next() % 216, count }
        })
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn lanes(sums: &[Sum; 8], of: impl Fn(&Sum) -> u32) -> __m256i {
        let mut lanes = [0; 8];
        for (lane, sum) in lanes.iter_mut().zip(sums) {
            *lane = of(sum);
        }
        load_words(&lanes)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn compare(bits: &mut Bits, factor: f32) {
        let exact = sums(bits, true);
        let [sum, exponent, count] =
            [lanes(&exact, |s| s.total as u32), lanes(&exact, |s| s.exponent), lanes(&exact, |s| s.count as u32)];
        let mut got = [0; 8];
        store_words(&mut got, truncated_means(sum, exponent, count, factor));
        assert_eq!(got, exact.map(|s| relative(&s, factor.to_bits())), "{exact:?}");
        let any = sums(bits, false);
        let [sum, exponent, count] =
            [lanes(&any, |s| s.total as u32), lanes(&any, |s| s.exponent), lanes(&any, |s| s.count as u32)];
        store_words(&mut got, rounded_means(sum, exponent, count));
        assert_eq!(got, any.map(|s| s.mean_bf16()), "{any:?}");
    }

    #[test]
    fn means_equal_the_spec() {
        let mut bits = Bits::new(8);
        if Avx2::new().is_some() {
            for i in 0..200_000 {
                let factor = [1.0, 0.7, 0.5, 2.0, 1.0 / UNIT, 1.999_999_9][i % 6];
                // SAFETY: the features were detected.
                unsafe { compare(&mut bits, factor) }
            }
        }
    }
}
