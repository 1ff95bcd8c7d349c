//! Adaptive accumulation: sums of a block are kept in a buffer while the scale that covers them is found.

use super::draws::{Draws, Generator, OFFSET, patterns};
use super::quantize::NOTHING_KEPT;
use super::*;
use crate::cpu::plain::accumulate::adaptive as plain_adaptive;
use crate::cpu::tile::AdaptiveTile;
use crate::numerics::constants::{MIN_NORMAL, ZERO_LIMIT};
use crate::numerics::float::magnitude;
use crate::numerics::level::level_max;

/// Sums below 2^125 under a scale below 2^110 cannot hide an addend out of range (2^126 and above): levels of eight
/// bits times the scale stay below 2^118.
const SUM_LIMIT: u32 = 0x7e00_0000;
const SCALE_LIMIT: u32 = 0x7680_0000;
/// Scales that operations make lie above: 2^-97. Below it a level times a scale may not be exact.
const SCALE_MIN: u32 = 0x0f00_0000;

/// Batches whose sums take half a page: spare room to move the sums within.
const HALF_PAGE: usize = 2048 / 4 / BATCH;

/// Scratch of a part: see [`part`].
struct Parts<const BATCHES: usize> {
    /// `l s + p` of every element, from batch `skip` on.
    sums: [[[[f32; LANES]; 2]; LANES]; BATCHES],
    skip: usize,
    maxima: [__m512i; BATCHES],
    /// The scales that decisions use, one a group, and about their reciprocals in fixed point.
    scales: [[f32; LANES]; BATCHES],
    reciprocals: [[f32; LANES]; BATCHES],
    lanes: [[u32; LANES]; BATCHES],
    draws: [Draws; BATCHES],
}

/// Whole units of blocks: see [`whole_units`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn adaptive<T: Element>(w: AdaptiveTile<'_, T>) -> Report {
    let weight = magnitude(w.how.weight);
    match (w.how.bits, w.how.weight == 1f32.to_bits()) {
        _ if weight == 0 => plain_adaptive(w),
        (2, true) => sized::<T, 2, false>(w),
        (2, false) => sized::<T, 2, true>(w),
        (4, true) => sized::<T, 4, false>(w),
        (4, false) => sized::<T, 4, true>(w),
        (8, true) => sized::<T, 8, false>(w),
        (8, false) => sized::<T, 8, true>(w),
        _ => plain_adaptive(w),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn sized<T: Element, const BITS: usize, const WEIGHTED: bool>(w: AdaptiveTile<'_, T>) -> Report {
    if w.how.block > PART {
        run::<T, BITS, WEIGHTED, { BATCHES_MAX + HALF_PAGE }>(w)
    } else {
        run::<T, BITS, WEIGHTED, { PART_BATCHES + HALF_PAGE }>(w)
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[expect(clippy::needless_pass_by_value, reason = "work holds the outputs: whoever does it takes it")]
fn run<T: Element, const BITS: usize, const WEIGHTED: bool, const BATCHES: usize>(w: AdaptiveTile<'_, T>) -> Report {
    let (how, size) = (w.how, w.how.block);
    let mut report = Report::default();
    let generator = Generator::new(&how.at, one(BITS));
    let weight = _mm512_set1_ps(f32::from_bits(how.weight));
    let mut p = Parts {
        sums: [[[[0.0; LANES]; 2]; LANES]; BATCHES],
        skip: 0,
        maxima: [_mm512_setzero_si512(); BATCHES],
        scales: [[0.0; LANES]; BATCHES],
        reciprocals: [[0.0; LANES]; BATCHES],
        lanes: [[0; LANES]; BATCHES],
        draws: [Draws::new(); BATCHES],
    };
    // A load whose address equals that of a recent store but for the page waits for it: keep the sums just below the
    // gradient in that sense, not just above.
    if p.sums.as_ptr().addr().wrapping_sub(w.x.as_ptr().addr()) % 4096 < 2048 {
        p.skip = HALF_PAGE;
    }
    let (x, fields) = (w.x.as_chunks::<GROUP>().0, w.levels.as_chunks_mut::<BITS>().0);
    let (groups, blocks) = (part(size) / GROUP, part(size) / size);
    let parts = x.chunks(groups).zip(fields.chunks_mut(groups)).zip(w.scales.chunks_mut(blocks));
    let mut first = w.first;
    for ((x, fields), scales) in parts {
        spread_scales(scales, size, &mut p.lanes[..x.len() / LANES]);
        let group = (first / GROUP as u64) as u32;
        if add::<T, BITS, WEIGHTED, BATCHES>(&mut p, &generator, group, x, fields, size, weight) {
            grid::<BITS, BATCHES>(&mut p, x.len() / LANES);
            write_scales(scales, &p.lanes, size);
            store::<BITS, BATCHES>(&p, fields);
        } else {
            let (x, levels) = (x.as_flattened(), fields.as_flattened_mut());
            report.merge(plain_adaptive(AdaptiveTile { x, levels, scales, first, how }));
        }
        first += (x.len() * GROUP) as u64;
    }
    report
}

/// `l s + p` of a part, and the largest magnitude patterns of its blocks; `false` where the plain code must look.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn add<T: Element, const BITS: usize, const WEIGHTED: bool, const BATCHES: usize>(
    p: &mut Parts<BATCHES>,
    generator: &Generator,
    mut group: u32,
    x: &[[T; GROUP]],
    fields: &[[u32; BITS]],
    size: usize,
    weight: __m512,
) -> bool {
    let (mut all, mut old) = (_mm512_setzero_si512(), true);
    let batches = x.chunks_exact(LANES).zip(fields.chunks_exact(LANES)).zip(&mut p.sums[p.skip..]);
    for (b, ((x, fields), sums)) in batches.enumerate() {
        // Arithmetic while memory is waited for.
        generator.draw(group, &mut p.draws[b]);
        group = group.wrapping_add(LANES as u32);
        old &= scales_of_operations(load_words(&p.lanes[b]));
        let mut m = [_mm512_setzero_si512(); LANES];
        for g in 0..LANES {
            prefetch(&x[g]);
            let s = _mm512_set1_ps(f32::from_bits(p.lanes[b][g]));
            let (l, x) = (levels(&fields[g]), load32(&x[g]));
            let mut v = [_mm512_setzero_ps(); 2];
            for q in 0..2 {
                let addend = if WEIGHTED { weigh(x[q], weight) } else { x[q] };
                // `l s` is exact, so the fused sum is the rounded sum of the spec.
                v[q] = _mm512_fmadd_ps(l[q], s, addend);
                store_floats(&mut sums[g][q], v[q]);
            }
            m[g] = join::<false>(abs_bits(v[0]), abs_bits(v[1]));
        }
        p.maxima[b] = over_block::<false>(reduce16::<false>(&m), size);
        all = join::<false>(all, p.maxima[b]);
    }
    over_batches::<false>(&mut p.maxima[..x.len() / LANES], size);
    old && !any_outside(all, 0, SUM_LIMIT)
}

/// The levels of a group: planes for 2 bits, fields for 4 and 8.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
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
            let words = load_everywhere(words);
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

/// Whether all scales are such as operations make, and small enough for [`SUM_LIMIT`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn scales_of_operations(scales: __m512i) -> bool {
    let zero = _mm512_testn_epi32_mask(scales, scales);
    let s = _mm512_mask_mov_epi32(scales, zero, _mm512_set1_epi32(SCALE_MIN as i32));
    !any_outside(s, SCALE_MIN, SCALE_LIMIT)
}

/// `weight x`, with a subnormal `x` as zero. A subnormal product needs no care: it is lost in any sum but with zero,
/// and then it is lost to the scale.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn weigh(x: __m512, weight: __m512) -> __m512 {
    let normal = _mm512_cmpgt_epi32_mask(abs_bits(x), _mm512_set1_epi32(MIN_NORMAL as i32 - 1));
    _mm512_maskz_mul_ps(normal, x, weight)
}

/// New scales from the maxima: [`crate::numerics::scale::level_scale`] in sixteen lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn grid<const BITS: usize, const BATCHES: usize>(p: &mut Parts<BATCHES>, batches: usize) {
    let l_max = level_max(BITS as u32) as f32;
    let (l_max, inverse) = (_mm512_set1_ps(l_max), _mm512_set1_ps((1.0 - 1.0 / 1_048_576.0) / l_max));
    let (low, step) = (_mm512_set1_epi32(0xffff), _mm512_set1_epi32(0x1_0000));
    for b in 0..batches {
        let max = _mm512_castsi512_ps(p.maxima[b]);
        // A bf16 at or below the quotient, then one step up, or two, until it covers: the products are exact.
        let mut s = _mm512_andnot_si512(low, _mm512_castps_si512(_mm512_mul_ps(max, inverse)));
        for _ in 0..2 {
            let short = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_mul_ps(_mm512_castsi512_ps(s), l_max), max);
            s = _mm512_mask_add_epi32(s, short, s, step);
        }
        let zero = _mm512_cmplt_epi32_mask(p.maxima[b], _mm512_set1_epi32(ZERO_LIMIT as i32));
        store_words(&mut p.lanes[b], _mm512_maskz_mov_epi32(!zero, s));
        // Under a scale of zero all sums lie below 2^-90 and every level is zero, as it is under a huge scale.
        let s = _mm512_mask_mov_ps(_mm512_castsi512_ps(s), zero, _mm512_set1_ps(NOTHING_KEPT));
        store_floats(&mut p.scales[b], s);
        store_floats(&mut p.reciprocals[b], _mm512_div_ps(_mm512_set1_ps(one(BITS)), s));
    }
}

/// Bits after the point of the fixed-point numbers in [`round`].
const fn after_point(bits: usize) -> u32 {
    if bits == 8 { 20 } else { 13 }
}

/// What stands for one level in them.
const fn one(bits: usize) -> f32 {
    (1 << after_point(bits)) as f32
}

/// In the units of [`one`]: roundings of 2^-24 of up to 129 levels, three of them, come to less in the first case; of
/// up to 9 levels to a hundredth of it in the second.
const fn margin(bits: usize) -> i32 {
    if bits == 8 { 64 } else { 1 }
}

/// Rounds the sums of a part and stores their levels.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn store<const BITS: usize, const BATCHES: usize>(p: &Parts<BATCHES>, fields: &mut [[u32; BITS]]) {
    for (b, (fields, sums)) in fields.chunks_exact_mut(LANES).zip(&p.sums[p.skip..]).enumerate() {
        let (draws, scales, reciprocals) = (&p.draws[b], &p.scales[b], &p.reciprocals[b]);
        for g in 0..LANES {
            match round::<BITS>(draws, g, &sums[g], reciprocals[g]) {
                Some(levels) => store_levels(&mut fields[g], levels),
                None => round_exactly(draws, g, &sums[g], scales[g], &mut fields[g]),
            }
        }
    }
}

/// Levels of a group: `sign(v) ceil(|v| / s - u)`, which is `floor(|v| / s)` and one more if `u s` lies below the
/// remainder.
///
/// `|v| / s - u + 1` is computed in fixed point, with the pattern of the draw in place of `u`; where it comes so near
/// to an integer that rounding might have crossed it, the answer is `None`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn round<const BITS: usize>(
    draws: &Draws,
    g: usize,
    sums: &[[f32; LANES]; 2],
    reciprocal: f32,
) -> Option<[__m512i; 2]> {
    let r = _mm512_set1_ps(reciprocal);
    let two = _mm512_set1_ps(2.0 * one(BITS) + margin(BITS) as f32);
    // Within twice the margin above an integer all these bits are clear.
    let far = _mm512_set1_epi32((1 << after_point(BITS)) - 2 * margin(BITS));
    let f = patterns(draws, g);
    let (mut levels, mut near) = ([_mm512_setzero_si512(); 2], 0);
    for q in 0..2 {
        let v = load_floats(&sums[q]);
        let t = _mm512_cvttps_epi32(_mm512_sub_ps(_mm512_fmadd_ps(abs(v), r, two), f[q]));
        near |= _mm512_testn_epi32_mask(t, far);
        let l = if BITS == 8 { _mm512_srli_epi32::<20>(t) } else { _mm512_srli_epi32::<13>(t) };
        levels[q] = with_sign(l, v);
    }
    (near == 0).then_some(levels)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn with_sign(l: __m512i, of: __m512) -> __m512i {
    _mm512_mask_sub_epi32(l, _mm512_movepi32_mask(_mm512_castps_si512(of)), _mm512_setzero_si512(), l)
}

/// Levels of a group by an exact remainder.
///
/// A product with a reciprocal that is a little too small lies below `|v| / s` by less than 2^-13, so its floor is
/// the quotient's or one less; the remainder, exact in 24 bits, tells which.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[cold]
#[inline(never)]
fn round_exactly<const BITS: usize>(
    draws: &Draws,
    g: usize,
    sums: &[[f32; LANES]; 2],
    scale: f32,
    fields: &mut [u32; BITS],
) {
    let (s, f) = (_mm512_set1_ps(scale), patterns(draws, g));
    let below = _mm512_set1_ps(1.0 - 1.0 / 4_194_304.0);
    let r = _mm512_mul_ps(_mm512_div_ps(_mm512_set1_ps(1.0), s), below);
    let (unit, offset, more) = (_mm512_set1_ps(1.0 / one(BITS)), _mm512_set1_ps(OFFSET), _mm512_set1_epi32(1));
    let mut levels = [_mm512_setzero_si512(); 2];
    for q in 0..2 {
        let v = load_floats(&sums[q]);
        let (m, u) = (abs(v), _mm512_fmsub_ps(f[q], unit, offset));
        let c = _mm512_cvttps_epi32(_mm512_mul_ps(m, r));
        let rest = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(c), s, m);
        let less = _mm512_sub_ps(rest, s); // negative unless the quotient is one more
        let next = !_mm512_movepi32_mask(_mm512_castps_si512(less));
        let c = _mm512_mask_add_epi32(c, next, c, more);
        let rest = _mm512_mask_mov_ps(rest, next, less);
        let up = _mm512_movepi32_mask(_mm512_castps_si512(_mm512_fmsub_ps(u, s, rest))); // negative for up
        levels[q] = with_sign(_mm512_mask_add_epi32(c, up, c, more), v);
    }
    store_levels(fields, levels);
}

/// Stores levels: planes for 2 bits, fields for 4 and 8.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
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
        let low = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
        let pairs = _mm256_maddubs_epi16(low, _mm256_set1_epi16(0x1001)); // first + 16 second
        let pairs = _mm256_cvtepi16_epi8(pairs);
        // SAFETY: `words` is 16 bytes.
        unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), pairs) }
    }
}
