//! Read out and dequantize: 32 levels or trits become floats.

use super::levels::load_levels;
use super::*;
use crate::cpu::plain::dequantize::run as plain_run;
use crate::cpu::plain::read_out::block as plain_block;
use crate::cpu::tile::ReadOutTile;
use crate::numerics::float::bf16_to_f32;

#[target_feature(enable = "avx2,fma,f16c,popcnt")]
pub(super) fn read_out<T: Element>(w: ReadOutTile<'_, T>) {
    match w.how.bits {
        2 => run::<T, 2>(w),
        4 => run::<T, 4>(w),
        8 => run::<T, 8>(w),
        _ => run::<T, 16>(w),
    }
}

#[target_feature(enable = "avx2,fma,f16c,popcnt")]
fn run<T: Element, const BITS: usize>(w: ReadOutTile<'_, T>) {
    let ReadOutTile { levels, scales, out, how } = w;
    let size = how.block;
    let factor = _mm256_set1_ps(how.factor);
    let blocks = out.chunks_mut(size).zip(levels.chunks(size / GROUP * BITS)).zip(scales);
    for ((out, levels), &scale) in blocks {
        let (groups, rest) = out.as_chunks_mut::<GROUP>();
        let (fields, rest_levels) = levels.split_at(groups.len() * BITS);
        let s = _mm256_set1_ps(f32::from_bits(bf16_to_f32(scale)));
        for (out, fields) in groups.iter_mut().zip(fields.as_chunks::<BITS>().0) {
            for (out, l) in out.as_chunks_mut::<8>().0.iter_mut().zip(load_levels(fields)) {
                store8(out, _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(l), s), factor));
            }
        }
        if !rest.is_empty() {
            plain_block(&how, rest_levels, scale, rest);
        }
    }
}

/// Eight f32 to the output type, nearest even.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn store8<T: Element>(out: &mut [T; 8], v: __m256) {
    match T::TYPE {
        // SAFETY: `out` is eight f32, 32 bytes.
        ElementType::F32 => unsafe { _mm256_storeu_ps(out.as_mut_ptr().cast(), v) },
        ElementType::F16 => {
            let h = _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v);
            // SAFETY: `out` is eight f16, 16 bytes.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), h) }
        }
        ElementType::Bf16 => {
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let near = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v);
            let r = _mm256_blendv_ps(_mm256_castsi256_ps(near), _mm256_castsi256_ps(quiet), nan);
            let r = _mm256_srli_epi32::<16>(_mm256_castps_si256(r));
            let packed = _mm256_permute4x64_epi64::<0b10_00>(_mm256_packus_epi32(r, r));
            let h = _mm256_castsi256_si128(packed);
            // SAFETY: `out` is eight bf16, 16 bytes.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), h) }
        }
    }
}

/// See [`plain_run`]: whole groups here, what lies before and after them there.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
pub(super) fn dequantize_run<T: Element>(words: &[u32], start: usize, scale: u32, out: &mut [T]) {
    let head = (start.next_multiple_of(GROUP) - start).min(out.len());
    let (before, rest) = out.split_at_mut(head);
    if !before.is_empty() {
        plain_run(words, start, scale, before);
    }
    let (groups, after) = rest.as_chunks_mut::<GROUP>();
    let at = (start + head) / GROUP;
    let value = T::from_f32_bits(scale);
    for (out, w) in groups.iter_mut().zip(words.as_chunks::<2>().0.iter().skip(at)) {
        let (nonzero, minus) = (w[0] ^ w[1], w[1] & !w[0]);
        match T::TYPE {
            ElementType::F32 => dequantize_32(out, nonzero, minus, scale),
            _ => dequantize_16(out, nonzero, minus, value),
        }
    }
    if !after.is_empty() {
        plain_run(words, (at + groups.len()) * GROUP, scale, after);
    }
}

#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn dequantize_32<T: Element>(out: &mut [T; GROUP], nonzero: u32, minus: u32, scale: u32) {
    let (s, top) = (_mm256_set1_epi32(scale as i32), _mm256_set1_epi32(i32::MIN));
    let (nonzero, minus) = (_mm256_set1_epi32(nonzero as i32), _mm256_set1_epi32(minus as i32));
    let mut bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    let mut shift = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
    for out in out.as_chunks_mut::<8>().0 {
        let kept = _mm256_cmpeq_epi32(_mm256_and_si256(nonzero, bit), bit);
        let sign = _mm256_and_si256(_mm256_sllv_epi32(minus, shift), top);
        let v = _mm256_xor_si256(_mm256_and_si256(kept, s), sign);
        // SAFETY: `out` is eight elements of 32 bits here, 32 bytes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) };
        bit = _mm256_slli_epi32::<8>(bit);
        shift = _mm256_sub_epi32(shift, _mm256_set1_epi32(8));
    }
}

#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn dequantize_16<T: Element>(out: &mut [T; GROUP], nonzero: u32, minus: u32, value: T) {
    let pattern: &[u16] = bytemuck::cast_slice(std::slice::from_ref(&value));
    let s = _mm256_set1_epi16(pattern.first().map_or(0, |&p| p as i16));
    let bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, i16::MIN);
    for (h, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (n, m) = (nonzero >> (16 * h), minus >> (16 * h));
        let kept = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(n as i16), bit), bit);
        let sign = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(m as i16), bit), bit);
        let sign = _mm256_and_si256(sign, _mm256_set1_epi16(i16::MIN));
        let v = _mm256_xor_si256(_mm256_and_si256(kept, s), sign);
        // SAFETY: `out` is sixteen elements of 16 bits here, 32 bytes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
    }
}
