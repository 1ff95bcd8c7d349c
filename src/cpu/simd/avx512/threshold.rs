//! Threshold quantize: blocks in one pass over memory, sums in integers, means in f64 where they are exact.

use super::*;
use crate::cpu::plain::quantize::blocks as plain_blocks;
use crate::cpu::tile::QuantizeTile;
use crate::numerics::constants::{MIN_NORMAL, RANGE_LIMIT, SUM_BITS, ZERO_LIMIT};
use crate::numerics::float::magnitude;
use crate::numerics::threshold::mul_trunc;
use crate::op::quantize::Threshold;

/// Units in the largest power of two of a sum.
const UNIT: f32 = (1 << SUM_BITS) as f32;

/// Scratch of a part, one lane a group.
struct Parts<const BATCHES: usize> {
    /// Exponents that the sums refer to, and the powers of two that bring magnitudes to their units.
    exponents: [__m512i; BATCHES],
    factors: [[f32; LANES]; BATCHES],
    limits: [[u32; LANES]; BATCHES],
    sums: [__m512i; BATCHES],
    counts: [[u32; LANES]; BATCHES],
}

/// Whole units of blocks: see [`whole_units`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn blocks<T: Element>(method: &Method, rule: Threshold, w: QuantizeTile<'_, T>) -> Report {
    if w.size > PART { run::<T, BATCHES_MAX>(method, rule, w) } else { run::<T, PART_BATCHES>(method, rule, w) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn run<T: Element, const BATCHES: usize>(method: &Method, rule: Threshold, w: QuantizeTile<'_, T>) -> Report {
    let QuantizeTile { x, words, scales, mut first, size } = w;
    let (x, words) = (x.as_chunks::<GROUP>().0, words.as_chunks_mut::<2>().0);
    let (groups, blocks) = (part(size) / GROUP, part(size) / size);
    let zero = _mm512_setzero_si512();
    let mut p = Parts {
        exponents: [zero; BATCHES],
        factors: [[0.0; LANES]; BATCHES],
        limits: [[0; LANES]; BATCHES],
        sums: [zero; BATCHES],
        counts: [[0; LANES]; BATCHES],
    };
    let mut report = Report::default();
    for ((x, words), scales) in x.chunks(groups).zip(words.chunks_mut(groups)).zip(scales.chunks_mut(blocks)) {
        if measure(&mut p, x, size) {
            limits(&mut p, rule, x, size);
            keep(&mut p, x, words, size);
            means(&mut p, x.len() / LANES, size);
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn measure<T: Element, const BATCHES: usize>(p: &mut Parts<BATCHES>, x: &[[T; GROUP]], size: usize) -> bool {
    for (x, max) in x.chunks_exact(LANES).zip(&mut p.sums) {
        *max = over_block::<false>(group_maxima(x), size);
    }
    let maxima = &mut p.sums[..x.len() / LANES];
    over_batches::<false>(maxima, size);
    let mut inside = true;
    for (max, (exponent, factors)) in maxima.iter().zip(p.exponents.iter_mut().zip(&mut p.factors)) {
        // A block of zeros sums to zero under any exponent.
        let zero = _mm512_testn_epi32_mask(*max, *max);
        let max = _mm512_mask_mov_epi32(*max, zero, _mm512_set1_epi32(ZERO_LIMIT as i32));
        inside &= !any_outside(max, ZERO_LIMIT, RANGE_LIMIT);
        *exponent = _mm512_srli_epi32::<23>(max);
        let factor = _mm512_sub_epi32(_mm512_set1_epi32(SUM_BITS as i32 + 253), *exponent);
        store_floats(factors, _mm512_castsi512_ps(_mm512_slli_epi32::<23>(factor)));
    }
    inside
}

/// The limits of a part.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn limits<T: Element, const BATCHES: usize>(p: &mut Parts<BATCHES>, rule: Threshold, x: &[[T; GROUP]], size: usize) {
    let batches = x.len() / LANES;
    // A subnormal counts as zero, which is above nothing.
    let least = _mm512_set1_epi32(MIN_NORMAL as i32 - 1);
    let factor = match rule {
        Threshold::Given(t) => {
            let t = _mm512_max_epi32(_mm512_set1_epi32(magnitude(t.to_bits()) as i32), least);
            for limits in &mut p.limits[..batches] {
                store_words(limits, t);
            }
            return;
        }
        Threshold::Mean(factor) => factor,
    };
    for ((x, factors), sum) in x.chunks_exact(LANES).zip(&p.factors).zip(&mut p.sums) {
        *sum = over_block::<true>(group_sums(x, factors), size);
    }
    over_batches::<true>(&mut p.sums[..batches], size);
    // A power of two, so its reciprocal is exact.
    let share = _mm512_set1_pd(1.0 / size as f64);
    let sums = p.sums.iter().zip(&p.exponents).zip(&mut p.limits).take(batches);
    for ((sum, exponent), limits) in sums {
        if (1.0 / UNIT..=2.0).contains(&factor) {
            // Means lie between 2^-102 and 2^126: their products with the factor are normal numbers.
            store_words(limits, _mm512_max_epi32(truncated_means(*sum, *exponent, share, factor), least));
        } else {
            store_words(limits, truncated_means(*sum, *exponent, share, 1.0));
            for t in limits {
                *t = mul_trunc(factor.to_bits(), *t).max(MIN_NORMAL - 1);
            }
        }
    }
}

/// Sums of the fixed-point magnitudes of sixteen groups, one a lane.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn group_sums<T: Element>(x: &[[T; GROUP]], factors: &[f32; LANES]) -> __m512i {
    let mut sums = [_mm512_setzero_si512(); LANES];
    for ((sum, x), f) in sums.iter_mut().zip(x).zip(factors) {
        let ([a, b], f) = (load32(x), _mm512_set1_ps(*f));
        let fixed = |x| _mm512_cvttps_epi32(_mm512_mul_ps(abs(x), f));
        *sum = _mm512_add_epi32(fixed(a), fixed(b));
    }
    reduce16::<true>(&sums)
}

/// Planes of a part, and sums and counts of what is kept.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn keep<T: Element, const BATCHES: usize>(
    p: &mut Parts<BATCHES>,
    x: &[[T; GROUP]],
    words: &mut [[u32; 2]],
    size: usize,
) {
    for (b, (x, words)) in x.chunks_exact(LANES).zip(words.chunks_exact_mut(LANES)).enumerate() {
        let (factors, limits, counts) = (&p.factors[b], &p.limits[b], &mut p.counts[b]);
        let mut sums = [_mm512_setzero_si512(); LANES];
        for g in 0..LANES {
            let (x, t, f) = (load32(&x[g]), _mm512_set1_epi32(limits[g] as i32), _mm512_set1_ps(factors[g]));
            let (m, mut masks) = ([abs(x[0]), abs(x[1])], [0; 2]);
            for q in 0..2 {
                masks[q] = _mm512_cmpgt_epi32_mask(_mm512_castps_si512(m[q]), t);
                let fixed = _mm512_maskz_cvttps_epi32(masks[q], _mm512_mul_ps(m[q], f));
                sums[g] = _mm512_add_epi32(sums[g], fixed);
            }
            let (kept, minus) = (both(masks[0], masks[1]), signs(x));
            words[g] = [kept & !minus, kept & minus];
            counts[g] = kept.count_ones();
        }
        p.sums[b] = over_block::<true>(reduce16::<true>(&sums), size);
    }
}

/// The means of what was kept, rounded to bf16, into `limits`, which are not needed any more.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn means<const BATCHES: usize>(p: &mut Parts<BATCHES>, batches: usize, size: usize) {
    over_batches::<true>(&mut p.sums[..batches], size);
    let mut counts = [_mm512_setzero_si512(); BATCHES];
    for (all, counts) in counts.iter_mut().zip(&p.counts).take(batches) {
        *all = over_block::<true>(load_words(counts), size);
    }
    over_batches::<true>(&mut counts[..batches], size);
    let sums = p.sums.iter().zip(&p.exponents).zip(counts).take(batches);
    for (((sum, exponent), count), mean) in sums.zip(&mut p.limits) {
        store_words(mean, rounded_means(*sum, *exponent, count));
    }
}

/// [`crate::numerics::threshold::Sum::mean`] times a factor, truncated, in sixteen lanes; `share` is the reciprocal of
/// the count, which is a power of two.
///
/// The quotients are exact; cut to 24 bits, their products with the factor are exact as well, and are cut in turn.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn truncated_means(sum: __m512i, exponent: __m512i, share: __m512d, factor: f32) -> __m512i {
    let factor = _mm512_set1_pd(f64::from(factor));
    let cut = _mm512_castsi512_pd(_mm512_set1_epi64(!0x1fff_ffff));
    let half = |sum: __m256i| {
        let q = _mm512_mul_pd(_mm512_cvtepu32_pd(sum), share);
        let t = _mm512_mul_pd(_mm512_and_pd(q, cut), factor);
        _mm512_cvtepi64_epi32(_mm512_srli_epi64::<29>(_mm512_castpd_si512(t)))
    };
    let (low, high) = halves(sum);
    to_f32(sum, exponent, half(low), half(high))
}

/// [`crate::numerics::threshold::Sum::mean_bf16`] in sixteen lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn rounded_means(sum: __m512i, exponent: __m512i, count: __m512i) -> __m512i {
    let half = |sum: __m256i, count: __m256i| {
        let q = _mm512_castpd_si512(_mm512_div_pd(_mm512_cvtepu32_pd(sum), _mm512_cvtepu32_pd(count)));
        let odd = _mm512_and_si512(_mm512_srli_epi64::<45>(q), _mm512_set1_epi64(1));
        let r = _mm512_add_epi64(_mm512_add_epi64(q, odd), _mm512_set1_epi64((1 << 44) - 1));
        _mm512_cvtepi64_epi32(_mm512_slli_epi64::<16>(_mm512_srli_epi64::<45>(r)))
    };
    let ((low, high), (low_count, high_count)) = (halves(sum), halves(count));
    to_f32(sum, exponent, half(low, low_count), half(high, high_count))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn halves(v: __m512i) -> (__m256i, __m256i) {
    (_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v))
}

/// From f64 exponents and the units of the sums to f32 patterns; 0 for an empty sum.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn to_f32(sum: __m512i, exponent: __m512i, low: __m256i, high: __m256i) -> __m512i {
    let words = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
    let shift = _mm512_slli_epi32::<23>(_mm512_sub_epi32(exponent, _mm512_set1_epi32(1022 + SUM_BITS as i32)));
    let some = _mm512_test_epi32_mask(sum, sum);
    _mm512_maskz_add_epi32(some, words, shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::Bits;
    use crate::numerics::threshold::{Sum, relative};

    /// Sums of chunks whose largest element is counted, near quotients of few bits, where rounding could err.
    fn sums(bits: &mut Bits, size: Option<u64>) -> [Sum; LANES] {
        std::array::from_fn(|_| {
            let r = bits.next();
            let count = size.unwrap_or(1 + u64::from(r % if r & 4096 == 0 { 64 } else { 4096 }));
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

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    fn lanes(sums: &[Sum; LANES], of: impl Fn(&Sum) -> u32) -> __m512i {
        let mut lanes = [0; LANES];
        for (lane, sum) in lanes.iter_mut().zip(sums) {
            *lane = of(sum);
        }
        load_words(&lanes)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    fn compare(bits: &mut Bits, factor: f32) {
        let size = 32 << (bits.next() % 8);
        let exact = sums(bits, Some(size));
        let [sum, exponent] = [lanes(&exact, |s| s.total as u32), lanes(&exact, |s| s.exponent)];
        let mut got = [0; LANES];
        store_words(&mut got, truncated_means(sum, exponent, _mm512_set1_pd(1.0 / size as f64), factor));
        assert_eq!(got, exact.map(|s| relative(&s, factor.to_bits())), "{exact:?}");
        let any = sums(bits, None);
        let [sum, exponent, count] =
            [lanes(&any, |s| s.total as u32), lanes(&any, |s| s.exponent), lanes(&any, |s| s.count as u32)];
        store_words(&mut got, rounded_means(sum, exponent, count));
        assert_eq!(got, any.map(|s| s.mean_bf16()), "{any:?}");
    }

    #[test]
    fn means_equal_the_spec() {
        let mut bits = Bits::new(8);
        if Avx512::new().is_some() {
            for i in 0..100_000 {
                let factor = [1.0, 0.7, 0.5, 2.0, 1.0 / UNIT, 1.999_999_9][i % 6];
                // SAFETY: the features were detected.
                unsafe { compare(&mut bits, factor) }
            }
        }
    }
}
