//! AVX-512 (F, BW, DQ, VL): 512 elements at a time, sixteen draw groups of 32. Mask registers are plane bits.
//!
//! Only what gains by it is written again: the block kernels of quantize and of adaptive accumulation. The layout of
//! each is that of its namesake in `avx2/`, and so is what is left to the plain code; everything else runs the AVX2
//! code. Half-precision input needs this width: at the same time an element it has half the memory to wait for.
#![expect(unsafe_code, reason = "vector loads and stores, and calls into code for a detected CPU feature")]

mod accumulate;
mod draws;
mod quantize;
mod threshold;

use super::avx2::Avx2;
use crate::cpu::split::Tile;
use crate::cpu::tile::{AdaptiveTile, Method, QuantizeTile};
use crate::numerics::constants::{BLOCK_MAX, GROUP};
use crate::op::{Element, ElementType, Report};
use std::arch::x86_64::*;

/// Groups of a batch, one a lane.
const LANES: usize = 16;
/// Elements of a batch.
const BATCH: usize = LANES * GROUP;
/// Batches in the largest block.
const BATCHES_MAX: usize = BLOCK_MAX as usize / BATCH;
/// Elements that are measured before any of their output is written, unless a block is larger.
const PART: usize = PART_BATCHES * BATCH;
const PART_BATCHES: usize = 2;
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

    pub(super) fn quantize_blocks<T: Element>(self, method: &Method, w: QuantizeTile<'_, T>) -> Report {
        let whole = whole_units(w.x.len(), w.size);
        let (body, tail) = w.split(whole);
        let mut report = match *method {
            Method::Stochastic { clip: Some(_), .. } => self.avx2.quantize_blocks(method, body),
            // SAFETY: `self` exists, so the CPU has the features.
            Method::Stochastic { .. } => unsafe { quantize::blocks(method, body) },
            // SAFETY: `self` exists, so the CPU has the features.
            Method::Threshold(rule) => unsafe { threshold::blocks(method, rule, body) },
        };
        if !tail.x.is_empty() {
            report.merge(self.avx2.quantize_blocks(method, tail));
        }
        report
    }

    pub(super) fn adaptive_blocks<T: Element>(self, w: AdaptiveTile<'_, T>) -> Report {
        let whole = whole_units(w.x.len(), w.how.block);
        let (body, tail) = w.split(whole);
        // SAFETY: `self` exists, so the CPU has the features.
        let mut report = unsafe { accumulate::adaptive(body) };
        if !tail.x.is_empty() {
            report.merge(self.avx2.adaptive_blocks(tail));
        }
        report
    }
}

/// Sixteen elements as f32; exact.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn load32<T: Element>(x: &[T; GROUP]) -> [__m512; 2] {
    let (x, _) = x.as_chunks::<16>();
    [load16(&x[0]), load16(&x[1])]
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn load_words(x: &[u32; LANES]) -> __m512i {
    // SAFETY: `x` is 64 bytes.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn store_words(to: &mut [u32; LANES], x: __m512i) {
    // SAFETY: `to` is 64 bytes.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn load_floats(x: &[f32; LANES]) -> __m512 {
    // SAFETY: `x` is 64 bytes.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn store_floats(to: &mut [f32; LANES], x: __m512) {
    // SAFETY: `to` is 64 bytes.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
}

/// The same 16 bytes in all lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn load_everywhere(x: &[u32; 4]) -> __m512i {
    // SAFETY: `x` is 16 bytes.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(x.as_ptr().cast()) })
}

/// Magnitude patterns without their sign, as integers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn abs_bits(x: __m512) -> __m512i {
    _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fff_ffff))
}

/// The pattern without its sign.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn abs(x: __m512) -> __m512 {
    _mm512_castsi512_ps(abs_bits(x))
}

/// Bit `i` is the sign of element `i`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn signs([a, b]: [__m512; 2]) -> u32 {
    both(_mm512_movepi32_mask(_mm512_castps_si512(a)), _mm512_movepi32_mask(_mm512_castps_si512(b)))
}

/// The masks of both halves of a group as one word.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn both(low: __mmask16, high: __mmask16) -> u32 {
    _mm512_kunpackw(u32::from(high), u32::from(low))
}

/// Sums (`ADD`) or maxima of unsigned integers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn join<const ADD: bool>(a: __m512i, b: __m512i) -> __m512i {
    if ADD { _mm512_add_epi32(a, b) } else { _mm512_max_epu32(a, b) }
}

/// Lane `i` is the sum or maximum over all lanes of `v[i]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn fold2<const ADD: bool>(a: __m512i, b: __m512i) -> __m512i {
    join::<ADD>(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b))
}

/// From one value a group to one a block of `size` elements (at most 512), in the lanes of all its groups.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn over_block<const ADD: bool>(mut v: __m512i, size: usize) -> __m512i {
    if size >= 2 * GROUP {
        v = join::<ADD>(v, _mm512_shuffle_epi32::<0b10_11_00_01>(v));
    }
    if size >= 4 * GROUP {
        v = join::<ADD>(v, _mm512_shuffle_epi32::<0b01_00_11_10>(v));
    }
    if size >= 8 * GROUP {
        v = join::<ADD>(v, _mm512_shuffle_i32x4::<0b10_11_00_01>(v, v));
    }
    if size >= 16 * GROUP {
        v = join::<ADD>(v, _mm512_shuffle_i32x4::<0b01_00_11_10>(v, v));
    }
    v
}

/// From one value a batch to one a block, for blocks larger than a batch.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn over_batches<const ADD: bool>(v: &mut [__m512i], size: usize) {
    if size > BATCH {
        for block in v.chunks_exact_mut(size / BATCH) {
            let mut all = _mm512_setzero_si512();
            for v in block.iter() {
                all = join::<ADD>(all, *v);
            }
            block.fill(all);
        }
    }
}

/// Fetches what lies [`AHEAD`] of a group.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn prefetch<T: Element>(x: &[T; GROUP]) {
    let at = x.as_ptr().cast::<i8>().wrapping_add(AHEAD);
    // A prefetch is a hint and never faults, wherever it points.
    _mm_prefetch::<_MM_HINT_T0>(at);
    if size_of::<T>() == 4 {
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(64));
    }
}

/// Largest magnitude patterns of sixteen groups, one a lane.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn group_maxima<T: Element>(x: &[[T; GROUP]]) -> __m512i {
    let mut m = [_mm512_setzero_si512(); LANES];
    for (m, x) in m.iter_mut().zip(x) {
        prefetch(x);
        let [a, b] = load32(x);
        *m = join::<false>(abs_bits(a), abs_bits(b));
    }
    reduce16::<false>(&m)
}

/// The bf16 scale of every group, as f32 bits.
#[inline]
fn spread_scales(scales: &[u16], size: usize, lanes: &mut [[u32; LANES]]) {
    let shift = (size / GROUP).trailing_zeros();
    for (g, lane) in lanes.as_flattened_mut().iter_mut().enumerate() {
        *lane = u32::from(scales.get(g >> shift).copied().unwrap_or(0)) << 16;
    }
}

/// Writes one scale a block from lanes, one a group.
#[inline]
fn write_scales(scales: &mut [u16], lanes: &[[u32; LANES]], size: usize) {
    for (scale, lane) in scales.iter_mut().zip(lanes.as_flattened().iter().step_by(size / GROUP)) {
        *scale = (lane >> 16) as u16;
    }
}

/// Whether any lane is below `low` or at least `high`, as signed integers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn any_outside(v: __m512i, low: u32, high: u32) -> bool {
    let below = _mm512_cmplt_epi32_mask(v, _mm512_set1_epi32(low as i32));
    let above = _mm512_cmpge_epi32_mask(v, _mm512_set1_epi32(high as i32));
    below | above != 0
}
