//! AVX-512 as a [`Vector`]: sixteen lanes, two vectors a group. Mask registers are plane bits.

use super::*;
use crate::cpu::simd::vector::{Job, Vector, compiled_for};

impl Vector for Avx512 {
    const LANES: usize = 16;
    type Ints = __m512i;
    type Floats = __m512;
    type Doubles = __m512d;
    type Mask = __mmask16;
    type Group<E: Copy> = [E; 2];
    type Batch<E: Copy> = [E; 16];

    #[inline(always)]
    fn enter<J: Job<Self>>(self, job: J) -> J::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
        fn compiled<J: Job<Avx512>>(cpu: Avx512, job: J) -> J::Output {
            job.run(cpu)
        }
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { compiled(self, job) }
    }

    #[inline(always)]
    fn rarely<J: Job<Self>>(self, job: J) -> J::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
        #[cold]
        #[inline(never)]
        fn compiled<J: Job<Avx512>>(cpu: Avx512, job: J) -> J::Output {
            job.run(cpu)
        }
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { compiled(self, job) }
    }

    #[inline(always)]
    fn batches<E: Copy>(x: &[E]) -> &[[E; 16]] {
        x.as_chunks().0
    }

    #[inline(always)]
    fn batches_mut<E: Copy>(x: &mut [E]) -> &mut [[E; 16]] {
        x.as_chunks_mut().0
    }

    #[inline(always)]
    fn elements<T: Element>(self, x: &[T; GROUP]) -> [__m512; 2] {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { load32(x) }
    }

    #[inline(always)]
    fn across<const ADD: bool>(self, x: &[__m512i; 16]) -> __m512i {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { reduce16::<ADD>(x) }
    }

    /// Of each eight groups the even ones come first.
    #[inline(always)]
    fn place(g: usize) -> usize {
        g / 8 * 8 + g % 2 * 4 + g % 8 / 2
    }

    compiled_for! {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
        fn words(x: &[u32; GROUP]) -> [__m512i; 2] {
            let (x, _) = x.as_chunks();
            [load_words(&x[0]), load_words(&x[1])]
        }
        fn load(x: &[u32; 16]) -> __m512i {
            load_words(x)
        }
        fn store(to: &mut [u32; 16], x: __m512i) -> () {
            // SAFETY: `to` is 64 bytes.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
        }
        fn store_floats(to: &mut [f32; 16], x: __m512) -> () {
            // SAFETY: `to` is 64 bytes.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
        }
        fn store_group(to: &mut [f32; GROUP], x: [__m512; 2]) -> () {
            for (to, x) in to.as_chunks_mut::<16>().0.iter_mut().zip(x) {
                // SAFETY: `to` is 64 bytes.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
            }
        }
        fn first_words(x: &[u32; 16]) -> __m512i {
            load_words(x)
        }
        fn repeat(x: &[u32; 4]) -> __m512i {
            // SAFETY: `x` is 16 bytes.
            _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(x.as_ptr().cast()) })
        }
        fn store_quads(halves: &mut [[u32; 4]; 16], second: bool, ab: __m512i, cd: __m512i) -> () {
            let [even, odd]: &mut [[[u32; 4]; 4]; 2] =
                &mut halves.as_chunks_mut().0.as_chunks_mut().0[usize::from(second)];
            store_four(even, _mm512_unpacklo_epi64(ab, cd));
            store_four(odd, _mm512_unpackhi_epi64(ab, cd));
        }
        fn store_half(to: &mut [u64; 16], second: bool, x: __m512i) -> () {
            let to: &mut [u64; 8] = &mut to.as_chunks_mut().0[usize::from(second)];
            // SAFETY: `to` is 64 bytes.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
        }
        fn fetch(at: *const i8) -> () {
            _mm_prefetch::<_MM_HINT_T0>(at);
        }
        fn splat(x: u32) -> __m512i {
            _mm512_set1_epi32(x as i32)
        }
        fn splat64(x: u64) -> __m512i {
            _mm512_set1_epi64(x as i64)
        }
        fn add(a: __m512i, b: __m512i) -> __m512i {
            _mm512_add_epi32(a, b)
        }
        fn add64(a: __m512i, b: __m512i) -> __m512i {
            _mm512_add_epi64(a, b)
        }
        fn sub(a: __m512i, b: __m512i) -> __m512i {
            _mm512_sub_epi32(a, b)
        }
        fn mul_low(a: __m512i, b: __m512i) -> __m512i {
            _mm512_mul_epu32(a, b)
        }
        fn and(a: __m512i, b: __m512i) -> __m512i {
            _mm512_and_si512(a, b)
        }
        fn or(a: __m512i, b: __m512i) -> __m512i {
            _mm512_or_si512(a, b)
        }
        fn xor(a: __m512i, b: __m512i) -> __m512i {
            _mm512_xor_si512(a, b)
        }
        fn without(x: __m512i, bits: __m512i) -> __m512i {
            _mm512_andnot_si512(bits, x)
        }
        fn max(a: __m512i, b: __m512i) -> __m512i {
            _mm512_max_epu32(a, b)
        }
        fn shl(x: __m512i, by: u32) -> __m512i {
            _mm512_sllv_epi32(x, _mm512_set1_epi32(by as i32))
        }
        fn shr(x: __m512i, by: u32) -> __m512i {
            _mm512_srlv_epi32(x, _mm512_set1_epi32(by as i32))
        }
        fn shl64(x: __m512i, by: u64) -> __m512i {
            _mm512_sllv_epi64(x, _mm512_set1_epi64(by as i64))
        }
        fn shr64(x: __m512i, by: u64) -> __m512i {
            _mm512_srlv_epi64(x, _mm512_set1_epi64(by as i64))
        }
        fn shr_each(x: __m512i, by: __m512i) -> __m512i {
            _mm512_srlv_epi32(x, by)
        }
        fn in_turn(even: __m512i, odd: __m512i) -> __m512i {
            _mm512_mask_blend_epi32(0xaaaa, even, odd)
        }
        fn bytes(x: __m512i, which: __m512i) -> __m512i {
            _mm512_shuffle_epi8(x, which)
        }
        fn exchanged(x: __m512i, distance: usize) -> __m512i {
            match distance {
                1 => _mm512_shuffle_epi32::<0b10_11_00_01>(x),
                2 => _mm512_shuffle_epi32::<0b01_00_11_10>(x),
                4 => _mm512_shuffle_i32x4::<0b10_11_00_01>(x, x),
                _ => _mm512_shuffle_i32x4::<0b01_00_11_10>(x, x),
            }
        }
        fn above(a: __m512i, b: __m512i) -> __mmask16 {
            _mm512_cmpgt_epi32_mask(a, b)
        }
        fn is_zero(x: __m512i) -> __mmask16 {
            _mm512_testn_epi32_mask(x, x)
        }
        fn less(a: __m512, b: __m512) -> __mmask16 {
            _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b)
        }
        fn either(a: __mmask16, b: __mmask16) -> __mmask16 {
            a | b
        }
        fn any(mask: __mmask16) -> bool {
            mask != 0
        }
        fn keep(mask: __mmask16, x: __m512i) -> __m512i {
            _mm512_maskz_mov_epi32(mask, x)
        }
        fn drop(mask: __mmask16, x: __m512i) -> __m512i {
            _mm512_maskz_mov_epi32(!mask, x)
        }
        fn select(mask: __mmask16, yes: __m512i, no: __m512i) -> __m512i {
            _mm512_mask_mov_epi32(no, mask, yes)
        }
        fn bits_of(masks: [__mmask16; 2]) -> u32 {
            both(masks[0], masks[1])
        }
        fn signs(x: [__m512; 2]) -> u32 {
            let [a, b] = x;
            both(_mm512_movepi32_mask(_mm512_castps_si512(a)), _mm512_movepi32_mask(_mm512_castps_si512(b)))
        }
        fn splat_f32(x: f32) -> __m512 {
            _mm512_set1_ps(x)
        }
        fn pattern(x: __m512) -> __m512i {
            _mm512_castps_si512(x)
        }
        fn float_of(x: __m512i) -> __m512 {
            _mm512_castsi512_ps(x)
        }
        fn abs(x: __m512) -> __m512 {
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fff_ffff)))
        }
        fn mul(a: __m512, b: __m512) -> __m512 {
            _mm512_mul_ps(a, b)
        }
        fn div(a: __m512, b: __m512) -> __m512 {
            _mm512_div_ps(a, b)
        }
        fn minus(a: __m512, b: __m512) -> __m512 {
            _mm512_sub_ps(a, b)
        }
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fmadd_ps(a, b, c)
        }
        fn mul_sub(a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fmsub_ps(a, b, c)
        }
        fn sub_mul(c: __m512, a: __m512, b: __m512) -> __m512 {
            _mm512_fnmadd_ps(a, b, c)
        }
        fn least(a: __m512, b: __m512) -> __m512 {
            _mm512_min_ps(a, b)
        }
        fn truncated(x: __m512) -> __m512i {
            _mm512_cvttps_epi32(x)
        }
        fn to_floats(x: __m512i) -> __m512 {
            _mm512_cvtepi32_ps(x)
        }
        fn to_doubles(x: __m512i) -> [__m512d; 2] {
            [_mm512_cvtepu32_pd(_mm512_castsi512_si256(x)), _mm512_cvtepu32_pd(_mm512_extracti64x4_epi64::<1>(x))]
        }
        fn splat_f64(x: f64) -> __m512d {
            _mm512_set1_pd(x)
        }
        fn mul64(a: __m512d, b: __m512d) -> __m512d {
            _mm512_mul_pd(a, b)
        }
        fn div64(a: __m512d, b: __m512d) -> __m512d {
            _mm512_div_pd(a, b)
        }
        fn pattern64(x: __m512d) -> __m512i {
            _mm512_castpd_si512(x)
        }
        fn double_of(x: __m512i) -> __m512d {
            _mm512_castsi512_pd(x)
        }
        fn low_words(x: [__m512i; 2]) -> __m512i {
            let low = _mm512_castsi256_si512(_mm512_cvtepi64_epi32(x[0]));
            _mm512_inserti64x4::<1>(low, _mm512_cvtepi64_epi32(x[1]))
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
#[inline]
fn store_four(to: &mut [[u32; 4]; 4], x: __m512i) {
    // SAFETY: `to` is 64 bytes.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}
