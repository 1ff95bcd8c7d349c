//! AVX2, FMA, F16C and POPCNT: 256 elements at a time, eight draw groups of 32.
//!
//! Intrinsics on registers are safe inside functions that enable their feature; what remains unsafe is reading and
//! writing memory (in functions whose array types carry the proof) and entering such a function, which takes an
//! [`Avx2`]: the block kernels of [`generic`] hold one and have nothing unsafe in them.
#![expect(unsafe_code, reason = "vector loads and stores, and calls into code for a detected CPU feature")]

mod fields;
mod levels;
mod read_out;
mod sums;
mod vector;

use super::generic;
use crate::cpu::measure::Kernels;
use crate::cpu::tile::{Measure, Method, ReadOutTile};
use crate::numerics::constants::GROUP;
use crate::numerics::threshold::{Moments, Sum};
use crate::op::{Element, ElementType, Report};
use std::arch::x86_64::*;

/// Proof that this CPU has AVX2, FMA, F16C and POPCNT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) struct Avx2(());

impl Avx2 {
    /// `None` where the CPU lacks one of the features.
    pub(in crate::cpu::simd) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("popcnt");
        has.then_some(Avx2(()))
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
        generic::quantize::encode(*self, method, measure, x, words, start, first, report);
    }
}

/// Eight elements as f32; exact.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
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
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn load32<T: Element>(x: &[T; GROUP]) -> [__m256; 4] {
    let (x, _) = x.as_chunks::<8>();
    [load8(&x[0]), load8(&x[1]), load8(&x[2]), load8(&x[3])]
}

#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn load_words(x: &[u32; 8]) -> __m256i {
    // SAFETY: `x` is 32 bytes.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn store_words(to: &mut [u32; 8], x: __m256i) {
    // SAFETY: `to` is 32 bytes.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) }
}

/// The pattern without its sign.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn abs(x: __m256) -> __m256 {
    _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff)))
}

/// Magnitude patterns without their sign, as integers.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn abs_bits(x: __m256) -> __m256i {
    _mm256_castps_si256(abs(x))
}

/// 32 integers of four vectors as bytes, saturated: signs survive. The first and second halves of all vectors come
/// together, four elements at a time: see [`in_order`].
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn mixed_bytes(v: [__m256i; 4]) -> __m256i {
    _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]))
}

/// The bytes of [`mixed_bytes`] in the order of their elements.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn in_order(bytes: __m256i) -> __m256i {
    _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// The low halves of the bytes of [`mixed_bytes`], in the order of their elements.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn nibbles(bytes: __m256i) -> __m128i {
    let low = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
    let pairs = _mm256_maddubs_epi16(low, _mm256_set1_epi16(0x1001)); // first + 16 second
    let packed = _mm256_packus_epi16(pairs, pairs);
    _mm_unpacklo_epi16(_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed))
}

/// Sums (`ADD`) or maxima of unsigned integers.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn join<const ADD: bool>(a: __m256i, b: __m256i) -> __m256i {
    if ADD { _mm256_add_epi32(a, b) } else { _mm256_max_epu32(a, b) }
}

/// Lane `i` is the sum or maximum over all lanes of `v[i]`.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn reduce8<const ADD: bool>(v: [__m256i; 8]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = v;
    let (ab, cd, ef, gh) = (fold2::<ADD>(a, b), fold2::<ADD>(c, d), fold2::<ADD>(e, f), fold2::<ADD>(g, h));
    let low = join::<ADD>(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    let high = join::<ADD>(_mm256_unpacklo_epi64(ef, gh), _mm256_unpackhi_epi64(ef, gh));
    join::<ADD>(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}

#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn fold2<const ADD: bool>(a: __m256i, b: __m256i) -> __m256i {
    join::<ADD>(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b))
}
