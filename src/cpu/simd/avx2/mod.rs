//! AVX2, FMA and F16C: 256 elements at a time, eight draw groups of 32.
//!
//! Every function here equals a plain one bit for bit; what is rare (an element out of range, a block shorter than
//! the others, a scale that no operation makes) is left to the plain code. Intrinsics on registers are safe inside
//! functions that enable their feature; what remains unsafe is reading and writing memory (here, in functions whose
//! array types carry the proof) and entering this code at all, which takes an [`Avx2`].
#![expect(unsafe_code, reason = "vector loads and stores, and calls into code for a detected CPU feature")]

mod accumulate;
mod draws;
mod exact;
mod levels;
mod quantize;
mod read_out;
mod sums;
mod threshold;

use crate::cpu::measure::Kernels;
use crate::cpu::tile::{AdaptiveTile, ExactTile, Measure, Method, QuantizeTile, ReadOutTile};
use crate::numerics::constants::{BLOCK_MAX, GROUP};
use crate::numerics::threshold::{Moments, Sum};
use crate::op::{Element, ElementType, Report};
use std::arch::x86_64::*;

/// Elements of a batch: eight groups.
const BATCH: usize = 8 * GROUP;
/// Batches in the largest block.
const BATCHES_MAX: usize = BLOCK_MAX as usize / BATCH;
/// Elements that are measured before any of their output is written, unless a block is larger.
const PART: usize = PART_BATCHES * BATCH;
const PART_BATCHES: usize = 4;
/// How far ahead of the first pass memory is fetched, in bytes: the hardware stops at page ends.
const AHEAD: usize = 4096;

/// Elements of a part: whole blocks and whole batches.
const fn part(size: usize) -> usize {
    if size > PART { size } else { PART }
}

/// Of `n` elements, those that are whole blocks and whole batches.
const fn whole_units(n: usize, size: usize) -> usize {
    let unit = if size > BATCH { size } else { BATCH };
    n / unit * unit
}

/// Proof that this CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) struct Avx2(());

impl Avx2 {
    /// `None` where the CPU lacks one of the features.
    pub(in crate::cpu::simd) fn new() -> Option<Self> {
        let has =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        has.then_some(Avx2(()))
    }

    pub(in crate::cpu::simd) fn quantize_blocks<T: Element>(self, method: &Method, w: QuantizeTile<'_, T>) -> Report {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { quantize::blocks(self, method, w) }
    }

    pub(in crate::cpu::simd) fn dequantize_run<T: Element>(
        self,
        words: &[u32],
        start: usize,
        scale: u32,
        out: &mut [T],
    ) {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { read_out::dequantize_run(words, start, scale, out) }
    }

    pub(in crate::cpu::simd) fn adaptive_blocks<T: Element>(self, w: AdaptiveTile<'_, T>) -> Report {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { accumulate::adaptive(w) }
    }

    pub(in crate::cpu::simd) fn exact_blocks<T: Element>(self, w: ExactTile<'_, T>) -> Report {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { exact::exact(w) }
    }

    pub(in crate::cpu::simd) fn read_out_blocks<T: Element>(self, w: ReadOutTile<'_, T>) {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { read_out::read_out(w) }
    }
}

impl Kernels for Avx2 {
    fn max<T: Element>(&self, x: &[T]) -> u32 {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { sums::max(x) }
    }

    fn moments<T: Element>(&self, x: &[T]) -> Moments {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { sums::moments(x) }
    }

    fn sum<T: Element>(&self, x: &[T], t: Option<u32>) -> Sum {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { sums::sum(x, t) }
    }

    fn encode<T: Element>(
        &self,
        method: &Method,
        measure: &Measure,
        x: &[T],
        words: &mut [u32],
        start: usize,
        first: u64,
        report: &mut Report,
    ) {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { quantize::encode(method, measure, x, words, start, first, report) }
    }
}

/// Eight elements as f32; exact.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load8<T: Element>(x: &[T; 8]) -> __m256 {
    match T::TYPE {
        // SAFETY: `x` is eight f32, 32 bytes.
        ElementType::F32 => unsafe { _mm256_loadu_ps(x.as_ptr().cast()) },
        // SAFETY: `x` is eight f16, 16 bytes.
        ElementType::F16 => _mm256_cvtph_ps(unsafe { _mm_loadu_si128(x.as_ptr().cast()) }),
        ElementType::Bf16 => {
            // SAFETY: `x` is eight bf16, 16 bytes.
            let h = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(h)))
        }
    }
}

/// The four vectors of a group.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load32<T: Element>(x: &[T; GROUP]) -> [__m256; 4] {
    let (x, _) = x.as_chunks::<8>();
    [load8(&x[0]), load8(&x[1]), load8(&x[2]), load8(&x[3])]
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_words(x: &[u32; 8]) -> __m256i {
    // SAFETY: `x` is 32 bytes.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store_words(to: &mut [u32; 8], x: __m256i) {
    // SAFETY: `to` is 32 bytes.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_floats(x: &[f32; 8]) -> __m256 {
    // SAFETY: `x` is 32 bytes.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store_floats(to: &mut [f32; 8], x: __m256) {
    // SAFETY: `to` is 32 bytes.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), x) }
}

/// The same 16 bytes in both lanes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_twice(x: &[u32; 4]) -> __m256i {
    // SAFETY: `x` is 16 bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(x.as_ptr().cast()) })
}

/// The pattern without its sign.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn abs(x: __m256) -> __m256 {
    _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff)))
}

/// Magnitude patterns without their sign, as integers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn abs_bits(x: __m256) -> __m256i {
    _mm256_castps_si256(abs(x))
}

/// 32 integers of four vectors as bytes, saturated: signs survive. The first and second halves of all vectors come
/// together, four elements at a time: see [`in_order`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn mixed_bytes(v: [__m256i; 4]) -> __m256i {
    _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]))
}

/// The bytes of [`mixed_bytes`] in the order of their elements.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn in_order(bytes: __m256i) -> __m256i {
    _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// The low halves of the bytes of [`mixed_bytes`], in the order of their elements.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibbles(bytes: __m256i) -> __m128i {
    let low = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
    let pairs = _mm256_maddubs_epi16(low, _mm256_set1_epi16(0x1001)); // first + 16 second
    let packed = _mm256_packus_epi16(pairs, pairs);
    _mm_unpacklo_epi16(_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed))
}

/// Bit `i` is the sign of element `i`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn signs(v: [__m256; 4]) -> u32 {
    let [a, b, c, d] = v;
    let ints = [_mm256_castps_si256(a), _mm256_castps_si256(b), _mm256_castps_si256(c), _mm256_castps_si256(d)];
    _mm256_movemask_epi8(in_order(mixed_bytes(ints))) as u32
}

/// Sums (`ADD`) or maxima of unsigned integers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn join<const ADD: bool>(a: __m256i, b: __m256i) -> __m256i {
    if ADD { _mm256_add_epi32(a, b) } else { _mm256_max_epu32(a, b) }
}

/// Lane `i` is the sum or maximum over all lanes of `v[i]`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn reduce8<const ADD: bool>(v: [__m256i; 8]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = v;
    let (ab, cd, ef, gh) = (fold2::<ADD>(a, b), fold2::<ADD>(c, d), fold2::<ADD>(e, f), fold2::<ADD>(g, h));
    let low = join::<ADD>(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    let high = join::<ADD>(_mm256_unpacklo_epi64(ef, gh), _mm256_unpackhi_epi64(ef, gh));
    join::<ADD>(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn fold2<const ADD: bool>(a: __m256i, b: __m256i) -> __m256i {
    join::<ADD>(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b))
}

/// From one value a group to one a block of `size` elements (at most 256), in the lanes of all its groups.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn over_block<const ADD: bool>(mut v: __m256i, size: usize) -> __m256i {
    if size >= 2 * GROUP {
        v = join::<ADD>(v, _mm256_shuffle_epi32::<0b10_11_00_01>(v));
    }
    if size >= 4 * GROUP {
        v = join::<ADD>(v, _mm256_shuffle_epi32::<0b01_00_11_10>(v));
    }
    if size >= 8 * GROUP {
        v = join::<ADD>(v, _mm256_permute2x128_si256::<0x01>(v, v));
    }
    v
}

/// From one value a batch to one a block, for blocks larger than a batch.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn over_batches<const ADD: bool>(v: &mut [__m256i], size: usize) {
    if size > BATCH {
        for block in v.chunks_exact_mut(size / BATCH) {
            let mut all = _mm256_setzero_si256();
            for v in block.iter() {
                all = join::<ADD>(all, *v);
            }
            block.fill(all);
        }
    }
}

/// Fetches what lies [`AHEAD`] of a group.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn prefetch<T: Element>(x: &[T; GROUP]) {
    let at = x.as_ptr().cast::<i8>().wrapping_add(AHEAD);
    // A prefetch is a hint and never faults, wherever it points.
    _mm_prefetch::<_MM_HINT_T0>(at);
    if size_of::<T>() == 4 {
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(64));
    }
}

/// Largest magnitude patterns of up to eight groups, one a lane.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group_maxima<T: Element>(x: &[[T; GROUP]]) -> __m256i {
    let mut m = [_mm256_setzero_si256(); 8];
    for (m, x) in m.iter_mut().zip(x) {
        prefetch(x);
        let [a, b, c, d] = load32(x);
        *m = join::<false>(join::<false>(abs_bits(a), abs_bits(b)), join::<false>(abs_bits(c), abs_bits(d)));
    }
    reduce8::<false>(m)
}

/// The bf16 scale of every group, as f32 bits.
#[inline]
fn spread_scales(scales: &[u16], size: usize, lanes: &mut [[u32; 8]]) {
    let shift = (size / GROUP).trailing_zeros();
    for (g, lane) in lanes.as_flattened_mut().iter_mut().enumerate() {
        *lane = u32::from(scales.get(g >> shift).copied().unwrap_or(0)) << 16;
    }
}

/// Writes one scale a block from lanes, one a group.
#[inline]
fn write_scales(scales: &mut [u16], lanes: &[[u32; 8]], size: usize) {
    for (scale, lane) in scales.iter_mut().zip(lanes.as_flattened().iter().step_by(size / GROUP)) {
        *scale = (lane >> 16) as u16;
    }
}

/// Whether any lane is below `low` or at least `high`, as signed integers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn any_outside(v: __m256i, low: u32, high: u32) -> bool {
    let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(low as i32), v);
    let above = _mm256_cmpgt_epi32(v, _mm256_set1_epi32(high as i32 - 1));
    _mm256_movemask_epi8(_mm256_or_si256(below, above)) != 0
}
