//! AVX-512 (F, BW, DQ, VL): 512 elements at a time, sixteen draw groups of 32. Mask registers are plane bits.
//!
//! Everything that is written over vectors runs in it, but for a tail shorter than a batch, which goes to AVX2 first.
//! Half-precision input needs this width: at the same time an element it has half the memory to wait for.
#![expect(unsafe_code, reason = "vector loads and stores, and calls into code for a detected CPU feature")]

mod fields;
mod vector;

use super::avx2::Avx2;
use super::generic;
use crate::cpu::measure::Kernels;
use crate::cpu::tile::{Measure, Method};
use crate::numerics::constants::GROUP;
use crate::numerics::threshold::{Moments, Sum};
use crate::op::{Element, ElementType, Report};
use std::arch::x86_64::*;

/// Groups of a batch, one a lane.
const LANES: usize = 16;

/// Proof that this CPU has the features, AVX2 and its companions among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) struct Avx512 {
    pub(super) avx2: Avx2,
}

impl Avx512 {
    /// `None` where the CPU lacks one of the features.
    pub(super) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if has { Avx2::new().map(|avx2| Avx512 { avx2 }) } else { None }
    }
}

/// Sums of chunks wait for memory in AVX2 already.
impl Kernels for Avx512 {
    fn max<T: Element>(&self, x: &[T]) -> u32 {
        self.avx2.max(x)
    }

    fn moments<T: Element>(&self, x: &[T]) -> Moments {
        self.avx2.moments(x)
    }

    fn sum<T: Element>(&self, x: &[T], t: Option<u32>) -> Sum {
        self.avx2.sum(x, t)
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

/// Sixteen elements as f32; exact.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
#[inline]
fn load16<T: Element>(x: &[T; 16]) -> __m512 {
    match T::TYPE {
        // SAFETY: `x` is sixteen f32, 64 bytes.
        ElementType::F32 => unsafe { _mm512_loadu_ps(x.as_ptr().cast()) },
        // SAFETY: `x` is sixteen f16, 32 bytes.
        ElementType::F16 => _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }),
        ElementType::Bf16 => {
            // SAFETY: `x` is sixteen bf16, 32 bytes.
            let h = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(h)))
        }
    }
}

/// The two vectors of a group.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
#[inline]
fn load32<T: Element>(x: &[T; GROUP]) -> [__m512; 2] {
    let (x, _) = x.as_chunks::<16>();
    [load16(&x[0]), load16(&x[1])]
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
#[inline]
fn load_words(x: &[u32; LANES]) -> __m512i {
    // SAFETY: `x` is 64 bytes.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// The masks of both halves of a group as one word.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
#[inline]
fn both(low: __mmask16, high: __mmask16) -> u32 {
    _mm512_kunpackw(u32::from(high), u32::from(low))
}

/// Sums (`ADD`) or maxima of unsigned integers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
#[inline]
fn join<const ADD: bool>(a: __m512i, b: __m512i) -> __m512i {
    if ADD { _mm512_add_epi32(a, b) } else { _mm512_max_epu32(a, b) }
}

/// Lane `i` is the sum or maximum over all lanes of `v[i]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
#[inline]
fn reduce16<const ADD: bool>(v: &[__m512i; LANES]) -> __m512i {
    let mut quads = [_mm512_setzero_si512(); 4];
    for (quad, v) in quads.iter_mut().zip(v.as_chunks::<4>().0) {
        let (ab, cd) = (fold2::<ADD>(v[0], v[1]), fold2::<ADD>(v[2], v[3]));
        *quad = join::<ADD>(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    }
    let halves =
        |a, b| join::<ADD>(_mm512_shuffle_i32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b));
    let (a, b) = (halves(quads[0], quads[1]), halves(quads[2], quads[3]));
    join::<ADD>(_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
#[inline]
fn fold2<const ADD: bool>(a: __m512i, b: __m512i) -> __m512i {
    join::<ADD>(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b))
}
