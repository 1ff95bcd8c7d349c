//! Adaptive accumulation: sums of a block are kept in a buffer while the scale that covers them is found.

use super::draws::{Draws, Generator, OFFSET, patterns};
use super::levels::load_levels;
use super::quantize::NOTHING_KEPT;
use super::*;
use crate::cpu::plain::accumulate::adaptive as plain_adaptive;
use crate::cpu::split::Tile;
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
    sums: [[[[f32; 8]; 4]; 8]; BATCHES],
    skip: usize,
    maxima: [__m256i; BATCHES],
    /// The scales that decisions use, one a group, and about their reciprocals in fixed point.
    scales: [[f32; 8]; BATCHES],
    reciprocals: [[f32; 8]; BATCHES],
    lanes: [[u32; 8]; BATCHES],
    draws: [Draws; BATCHES],
}

#[target_feature(enable = "avx2,fma,f16c")]
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

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sized<T: Element, const BITS: usize, const WEIGHTED: bool>(w: AdaptiveTile<'_, T>) -> Report {
    if w.how.block > PART {
        run::<T, BITS, WEIGHTED, { BATCHES_MAX + HALF_PAGE }>(w)
    } else {
        run::<T, BITS, WEIGHTED, { PART_BATCHES + HALF_PAGE }>(w)
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run<T: Element, const BITS: usize, const WEIGHTED: bool, const BATCHES: usize>(w: AdaptiveTile<'_, T>) -> Report {
    let how = w.how;
    let size = how.block;
    let whole = whole_units(w.x.len(), size);
    let (body, tail) = w.split(whole);
    let mut report = Report::default();
    let generator = Generator::new(&how.at, one(BITS));
    let weight = _mm256_set1_ps(f32::from_bits(how.weight));
    let mut p = Parts {
        sums: [[[[0.0; 8]; 4]; 8]; BATCHES],
        skip: 0,
        maxima: [_mm256_setzero_si256(); BATCHES],
        scales: [[0.0; 8]; BATCHES],
        reciprocals: [[0.0; 8]; BATCHES],
        lanes: [[0; 8]; BATCHES],
        draws: [Draws::new(); BATCHES],
    };
    // A load whose address equals that of a recent store but for the page waits for it: keep the sums just below the
    // gradient in that sense, not just above.
    if p.sums.as_ptr().addr().wrapping_sub(body.x.as_ptr().addr()) % 4096 < 2048 {
        p.skip = HALF_PAGE;
    }
    let (x, fields) = (body.x.as_chunks::<GROUP>().0, body.levels.as_chunks_mut::<BITS>().0);
    let (groups, blocks) = (part(size) / GROUP, part(size) / size);
    let parts = x.chunks(groups).zip(fields.chunks_mut(groups)).zip(body.scales.chunks_mut(blocks));
    let mut first = body.first;
    for ((x, fields), scales) in parts {
        spread_scales(scales, size, &mut p.lanes[..x.len() / 8]);
        let group = (first / GROUP as u64) as u32;
        if add::<T, BITS, WEIGHTED, BATCHES>(&mut p, &generator, group, x, fields, size, weight) {
            grid::<BITS, BATCHES>(&mut p, x.len() / 8);
            write_scales(scales, &p.lanes, size);
            store::<BITS, BATCHES>(&p, fields);
        } else {
            let (x, levels) = (x.as_flattened(), fields.as_flattened_mut());
            report.merge(plain_adaptive(AdaptiveTile { x, levels, scales, first, how }));
        }
        first += (x.len() * GROUP) as u64;
    }
    report.merge(plain_adaptive(tail));
    report
}

/// `l s + p` of a part, and the largest magnitude patterns of its blocks; `false` where the plain code must look.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add<T: Element, const BITS: usize, const WEIGHTED: bool, const BATCHES: usize>(
    p: &mut Parts<BATCHES>,
    generator: &Generator,
    mut group: u32,
    x: &[[T; GROUP]],
    fields: &[[u32; BITS]],
    size: usize,
    weight: __m256,
) -> bool {
    let (mut all, mut old) = (_mm256_setzero_si256(), true);
    let batches = x.chunks_exact(8).zip(fields.chunks_exact(8)).zip(&mut p.sums[p.skip..]);
    for (b, ((x, fields), sums)) in batches.enumerate() {
        // Arithmetic while memory is waited for.
        generator.draw(group, &mut p.draws[b]);
        group = group.wrapping_add(8);
        let lanes = load_words(&p.lanes[b]);
        old &= scales_of_operations(lanes);
        // A scale of 2^-97 or more is still a normal number in the unit of 4-bit levels.
        let unit = _mm256_set1_ps(if BITS == 4 { NIBBLE } else { 1.0 });
        store_floats(&mut p.scales[b], _mm256_mul_ps(_mm256_castsi256_ps(lanes), unit));
        let mut m = [_mm256_setzero_si256(); 8];
        for g in 0..8 {
            prefetch(&x[g]);
            let s = _mm256_set1_ps(p.scales[b][g]);
            let l = if BITS == 4 { top_nibbles(&fields[g]) } else { load_levels(&fields[g]) };
            let x = load32(&x[g]);
            let mut v = [_mm256_setzero_ps(); 4];
            for q in 0..4 {
                let addend = if WEIGHTED { weigh(x[q], weight) } else { x[q] };
                // `l s` is exact, so the fused sum is the rounded sum of the spec.
                v[q] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(l[q]), s, addend);
                store_floats(&mut sums[g][q], v[q]);
            }
            let low = join::<false>(abs_bits(v[0]), abs_bits(v[1]));
            m[g] = join::<false>(low, join::<false>(abs_bits(v[2]), abs_bits(v[3])));
        }
        p.maxima[b] = over_block::<false>(reduce8::<false>(m), size);
        all = join::<false>(all, p.maxima[b]);
    }
    over_batches::<false>(&mut p.maxima[..x.len() / 8], size);
    old && !any_outside(all, 0, SUM_LIMIT)
}

/// The value of the lowest bit of a level at the top of a word.
const NIBBLE: f32 = 1.0 / (1 << 28) as f32;

/// Levels of 4 bits in units of 2^28.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn top_nibbles<const BITS: usize>(words: &[u32; BITS]) -> [__m256i; 4] {
    let (shift, top) = (_mm256_setr_epi32(28, 24, 20, 16, 12, 8, 4, 0), _mm256_set1_epi32(0xf000_0000_u32 as i32));
    let mut levels = [_mm256_setzero_si256(); 4];
    for (l, w) in levels.iter_mut().zip(words) {
        *l = _mm256_and_si256(_mm256_sllv_epi32(_mm256_set1_epi32(*w as i32), shift), top);
    }
    levels
}

/// Whether all scales are such as operations make, and small enough for [`SUM_LIMIT`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales_of_operations(scales: __m256i) -> bool {
    let zero = _mm256_cmpeq_epi32(scales, _mm256_setzero_si256());
    let s = _mm256_or_si256(scales, _mm256_and_si256(zero, _mm256_set1_epi32(SCALE_MIN as i32)));
    !any_outside(s, SCALE_MIN, SCALE_LIMIT)
}

/// `weight x`, with a subnormal `x` as zero. A subnormal product needs no care: it is lost in any sum but with zero,
/// and then it is lost to the scale.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn weigh(x: __m256, weight: __m256) -> __m256 {
    let normal = _mm256_cmpgt_epi32(abs_bits(x), _mm256_set1_epi32(MIN_NORMAL as i32 - 1));
    _mm256_mul_ps(_mm256_and_ps(x, _mm256_castsi256_ps(normal)), weight)
}

/// New scales from the maxima: [`crate::numerics::scale::level_scale`] in eight lanes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn grid<const BITS: usize, const BATCHES: usize>(p: &mut Parts<BATCHES>, batches: usize) {
    let l_max = level_max(BITS as u32) as f32;
    let (l_max, inverse) = (_mm256_set1_ps(l_max), _mm256_set1_ps((1.0 - 1.0 / 1_048_576.0) / l_max));
    for b in 0..batches {
        let max = _mm256_castsi256_ps(p.maxima[b]);
        // A bf16 at or below the quotient, then one step up, or two, until it covers: the products are exact.
        let below = _mm256_castps_si256(_mm256_mul_ps(max, inverse));
        let mut s = _mm256_andnot_si256(_mm256_set1_epi32(0xffff), below);
        for _ in 0..2 {
            let short = _mm256_cmp_ps::<_CMP_LT_OQ>(_mm256_mul_ps(_mm256_castsi256_ps(s), l_max), max);
            let step = _mm256_and_si256(_mm256_castps_si256(short), _mm256_set1_epi32(0x1_0000));
            s = _mm256_add_epi32(s, step);
        }
        let zero = _mm256_cmpgt_epi32(_mm256_set1_epi32(ZERO_LIMIT as i32), p.maxima[b]);
        store_words(&mut p.lanes[b], _mm256_andnot_si256(zero, s));
        // Under a scale of zero all sums lie below 2^-90 and every level is zero, as it is under a huge scale.
        let (s, nothing) = (_mm256_castsi256_ps(s), _mm256_set1_ps(NOTHING_KEPT));
        let s = _mm256_blendv_ps(s, nothing, _mm256_castsi256_ps(zero));
        store_floats(&mut p.scales[b], s);
        store_floats(&mut p.reciprocals[b], _mm256_div_ps(_mm256_set1_ps(one(BITS)), s));
    }
}

/// What stands for one level in the fixed-point numbers of [`round_words`] and [`round_halves`].
const fn one(bits: usize) -> f32 {
    if bits == 8 { (1 << 20) as f32 } else { (1 << 13) as f32 }
}

/// Rounds the sums of a part and stores their levels.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store<const BITS: usize, const BATCHES: usize>(p: &Parts<BATCHES>, fields: &mut [[u32; BITS]]) {
    for (b, (fields, sums)) in fields.chunks_exact_mut(8).zip(&p.sums[p.skip..]).enumerate() {
        let (draws, scales, reciprocals) = (&p.draws[b], &p.scales[b], &p.reciprocals[b]);
        for g in 0..8 {
            let levels = if BITS == 8 {
                round_words(draws, g, &sums[g], reciprocals[g])
            } else {
                round_halves(draws, g, &sums[g], reciprocals[g])
            };
            match levels {
                Some(levels) => store_levels(&mut fields[g], levels),
                None => round_exactly(draws, g, &sums[g], scales[g], &mut fields[g]),
            }
        }
    }
}

/// Levels of 8 bits of a group, as [`mixed_bytes`]: `sign(v) ceil(|v| / s - u)`, which is `floor(|v| / s)` and one
/// more if `u s` lies below the remainder.
///
/// `|v| / s - u + 1` is computed to 20 bits after the point, with the pattern of the draw in place of `u`; where it
/// comes so near to an integer that rounding might have crossed it, the answer is `None`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn round_words(draws: &Draws, g: usize, sums: &[[f32; 8]; 4], reciprocal: f32) -> Option<__m256i> {
    // In units of 2^-20: roundings of 2^-24 of up to 129 levels, three of them, come to less.
    const MARGIN: u32 = 64;
    let r = _mm256_set1_ps(reciprocal);
    let two = _mm256_set1_ps(2.0 * one(8) + MARGIN as f32);
    let f = patterns(draws, g);
    let (mut levels, mut nearest) = ([_mm256_setzero_si256(); 4], _mm256_set1_epi32(-1));
    for q in 0..4 {
        let v = load_floats(&sums[q]);
        let t = _mm256_cvttps_epi32(_mm256_sub_ps(_mm256_fmadd_ps(abs(v), r, two), f[q]));
        nearest = _mm256_min_epu32(nearest, _mm256_slli_epi32::<12>(t));
        levels[q] = _mm256_sign_epi32(_mm256_srai_epi32::<20>(t), _mm256_castps_si256(v));
    }
    let near = _mm256_set1_epi32(((2 * MARGIN) << 12) as i32);
    let any = _mm256_cmpeq_epi32(_mm256_min_epu32(nearest, near), nearest);
    (_mm256_movemask_epi8(any) == 0).then(|| mixed_bytes(levels))
}

/// As [`round_words`] for 2 and 4 bits, 13 bits after the point: then two elements share a 32-bit lane.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn round_halves(draws: &Draws, g: usize, sums: &[[f32; 8]; 4], reciprocal: f32) -> Option<__m256i> {
    // In units of 2^-13: roundings of 2^-24 of up to 9 levels come to a hundredth of it.
    const MARGIN: u32 = 1;
    let r = _mm256_set1_ps(reciprocal);
    let two = _mm256_set1_ps(2.0 * one(4) + MARGIN as f32);
    let f = patterns(draws, g);
    let (mut v, mut t) = ([_mm256_setzero_si256(); 4], [_mm256_setzero_si256(); 4]);
    for q in 0..4 {
        let sum = load_floats(&sums[q]);
        v[q] = _mm256_castps_si256(sum);
        t[q] = _mm256_cvttps_epi32(_mm256_sub_ps(_mm256_fmadd_ps(abs(sum), r, two), f[q]));
    }
    // Saturation at 2^16 leaves the level at 7, where it belongs.
    let (a, b) = (_mm256_packus_epi32(t[0], t[1]), _mm256_packus_epi32(t[2], t[3]));
    let nearest = _mm256_min_epu16(_mm256_slli_epi16::<3>(a), _mm256_slli_epi16::<3>(b));
    let near = _mm256_set1_epi16(((2 * MARGIN) << 3) as i16);
    let any = _mm256_cmpeq_epi16(_mm256_min_epu16(nearest, near), nearest);
    let a = _mm256_sign_epi16(_mm256_srli_epi16::<13>(a), _mm256_packs_epi32(v[0], v[1]));
    let b = _mm256_sign_epi16(_mm256_srli_epi16::<13>(b), _mm256_packs_epi32(v[2], v[3]));
    (_mm256_movemask_epi8(any) == 0).then(|| _mm256_packs_epi16(a, b))
}

/// Levels of a group by an exact remainder.
///
/// A product with a reciprocal that is a little too small lies below `|v| / s` by less than 2^-13, so its floor is
/// the quotient's or one less; the remainder, exact in 24 bits, tells which.
#[target_feature(enable = "avx2,fma,f16c")]
#[cold]
#[inline(never)]
fn round_exactly<const BITS: usize>(
    draws: &Draws,
    g: usize,
    sums: &[[f32; 8]; 4],
    scale: f32,
    fields: &mut [u32; BITS],
) {
    let (s, f) = (_mm256_set1_ps(scale), patterns(draws, g));
    let below = _mm256_set1_ps(1.0 - 1.0 / 4_194_304.0);
    let r = _mm256_mul_ps(_mm256_div_ps(_mm256_set1_ps(1.0), s), below);
    let (unit, offset) = (_mm256_set1_ps(1.0 / one(BITS)), _mm256_set1_ps(OFFSET));
    let mut levels = [_mm256_setzero_si256(); 4];
    for q in 0..4 {
        let v = load_floats(&sums[q]);
        let (m, u) = (abs(v), _mm256_fmsub_ps(f[q], unit, offset));
        let c = _mm256_cvttps_epi32(_mm256_mul_ps(m, r));
        let rest = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(c), s, m);
        let less = _mm256_castps_si256(_mm256_sub_ps(rest, s)); // negative unless the quotient is one more
        let rest = _mm256_castsi256_ps(_mm256_min_epu32(_mm256_castps_si256(rest), less));
        let up = _mm256_castps_si256(_mm256_fmsub_ps(u, s, rest)); // negative for up
        // c + 1 - (less < 0) + (up < 0)
        let change = _mm256_sub_epi32(_mm256_srli_epi32::<31>(up), _mm256_srli_epi32::<31>(less));
        let l = _mm256_sub_epi32(_mm256_add_epi32(c, change), _mm256_set1_epi32(-1));
        levels[q] = _mm256_sign_epi32(l, _mm256_castps_si256(v));
    }
    store_levels(fields, mixed_bytes(levels));
}

/// Stores levels from [`mixed_bytes`]: planes for 2 bits, fields for 4 and 8.
#[target_feature(enable = "avx2,fma,f16c")]
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
