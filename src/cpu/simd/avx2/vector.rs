//! AVX2, FMA and F16C as a [`Vector`]: eight lanes, four vectors a group.

use super::*;
use crate::cpu::simd::vector::{Job, Vector, compiled_for};

impl Vector for Avx2 {
    const LANES: usize = 8;
    type Ints = __m256i;
    type Floats = __m256;
    type Doubles = __m256d;
    /// All bits of a lane, or none.
    type Mask = __m256i;
    type Group<E: Copy> = [E; 4];
    type Batch<E: Copy> = [E; 8];

    #[inline(always)]
    fn enter<J: Job<Self>>(self, job: J) -> J::Output {
        #[target_feature(enable = "avx2,fma,f16c,popcnt")]
        fn compiled<J: Job<Avx2>>(cpu: Avx2, job: J) -> J::Output {
            job.run(cpu)
        }
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { compiled(self, job) }
    }

    #[inline(always)]
    fn rarely<J: Job<Self>>(self, job: J) -> J::Output {
        #[target_feature(enable = "avx2,fma,f16c,popcnt")]
        #[cold]
        #[inline(never)]
        fn compiled<J: Job<Avx2>>(cpu: Avx2, job: J) -> J::Output {
            job.run(cpu)
        }
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { compiled(self, job) }
    }

    #[inline(always)]
    fn batches<E: Copy>(x: &[E]) -> &[[E; 8]] {
        x.as_chunks().0
    }

    #[inline(always)]
    fn batches_mut<E: Copy>(x: &mut [E]) -> &mut [[E; 8]] {
        x.as_chunks_mut().0
    }

    #[inline(always)]
    fn elements<T: Element>(self, x: &[T; GROUP]) -> [__m256; 4] {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { load32(x) }
    }

    #[inline(always)]
    fn across<const ADD: bool>(self, x: &[__m256i; 8]) -> __m256i {
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { reduce8::<ADD>(*x) }
    }

    #[inline(always)]
    fn place(g: usize) -> usize {
        g
    }

    compiled_for! {
        #[target_feature(enable = "avx2,fma,f16c,popcnt")]
        fn words(x: &[u32; GROUP]) -> [__m256i; 4] {
            let mut words = [_mm256_setzero_si256(); 4];
            for (word, x) in words.iter_mut().zip(x.as_chunks::<8>().0) {
                *word = load_words(x);
            }
            words
        }
        fn load(x: &[u32; 8]) -> __m256i {
            load_words(x)
        }
        fn store(to: &mut [u32; 8], x: __m256i) -> () {
            store_words(to, x);
        }
        fn store_floats(to: &mut [f32; 8], x: __m256) -> () {
            // SAFETY: `to` is 32 bytes.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), x) }
        }
        fn store_group(to: &mut [f32; GROUP], x: [__m256; 4]) -> () {
            for (to, x) in to.as_chunks_mut::<8>().0.iter_mut().zip(x) {
                // SAFETY: `to` is 32 bytes.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), x) }
            }
        }
        fn first_words(x: &[u32; 16]) -> __m256i {
            load_words(&x.as_chunks().0[0])
        }
        fn repeat(x: &[u32; 4]) -> __m256i {
            // SAFETY: `x` is 16 bytes.
            _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(x.as_ptr().cast()) })
        }
        fn store_quads(halves: &mut [[u32; 4]; 8], second: bool, ab: __m256i, cd: __m256i) -> () {
            let (g02, g13) = (_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
            let [h0, h1, h2, h3] = &mut halves.as_chunks_mut().0[usize::from(second)];
            store_quad(h0, _mm256_castsi256_si128(g02));
            store_quad(h1, _mm256_castsi256_si128(g13));
            store_quad(h2, _mm256_extracti128_si256::<1>(g02));
            store_quad(h3, _mm256_extracti128_si256::<1>(g13));
        }
        fn store_half(to: &mut [u64; 8], second: bool, x: __m256i) -> () {
            let to: &mut [u64; 4] = &mut to.as_chunks_mut().0[usize::from(second)];
            // SAFETY: `to` is 32 bytes.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) }
        }
        fn fetch(at: *const i8) -> () {
            _mm_prefetch::<_MM_HINT_T0>(at);
        }
        fn splat(x: u32) -> __m256i {
            _mm256_set1_epi32(x as i32)
        }
        fn splat64(x: u64) -> __m256i {
            _mm256_set1_epi64x(x as i64)
        }
        fn add(a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi32(a, b)
        }
        fn add64(a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi64(a, b)
        }
        fn sub(a: __m256i, b: __m256i) -> __m256i {
            _mm256_sub_epi32(a, b)
        }
        fn mul_low(a: __m256i, b: __m256i) -> __m256i {
            _mm256_mul_epu32(a, b)
        }
        fn and(a: __m256i, b: __m256i) -> __m256i {
            _mm256_and_si256(a, b)
        }
        fn or(a: __m256i, b: __m256i) -> __m256i {
            _mm256_or_si256(a, b)
        }
        fn xor(a: __m256i, b: __m256i) -> __m256i {
            _mm256_xor_si256(a, b)
        }
        fn without(x: __m256i, bits: __m256i) -> __m256i {
            _mm256_andnot_si256(bits, x)
        }
        fn max(a: __m256i, b: __m256i) -> __m256i {
            _mm256_max_epu32(a, b)
        }
        fn shl(x: __m256i, by: u32) -> __m256i {
            _mm256_sllv_epi32(x, _mm256_set1_epi32(by as i32))
        }
        fn shr(x: __m256i, by: u32) -> __m256i {
            _mm256_srlv_epi32(x, _mm256_set1_epi32(by as i32))
        }
        fn shl64(x: __m256i, by: u64) -> __m256i {
            _mm256_sllv_epi64(x, _mm256_set1_epi64x(by as i64))
        }
        fn shr64(x: __m256i, by: u64) -> __m256i {
            _mm256_srlv_epi64(x, _mm256_set1_epi64x(by as i64))
        }
        fn shr_each(x: __m256i, by: __m256i) -> __m256i {
            _mm256_srlv_epi32(x, by)
        }
        fn in_turn(even: __m256i, odd: __m256i) -> __m256i {
            _mm256_blend_epi32::<0xaa>(even, odd)
        }
        fn bytes(x: __m256i, which: __m256i) -> __m256i {
            _mm256_shuffle_epi8(x, which)
        }
        fn exchanged(x: __m256i, distance: usize) -> __m256i {
            match distance {
                1 => _mm256_shuffle_epi32::<0b10_11_00_01>(x),
                2 => _mm256_shuffle_epi32::<0b01_00_11_10>(x),
                _ => _mm256_permute2x128_si256::<0x01>(x, x),
            }
        }
        fn above(a: __m256i, b: __m256i) -> __m256i {
            _mm256_cmpgt_epi32(a, b)
        }
        fn is_zero(x: __m256i) -> __m256i {
            _mm256_cmpeq_epi32(x, _mm256_setzero_si256())
        }
        fn less(a: __m256, b: __m256) -> __m256i {
            _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
        }
        fn either(a: __m256i, b: __m256i) -> __m256i {
            _mm256_or_si256(a, b)
        }
        fn any(mask: __m256i) -> bool {
            _mm256_movemask_epi8(mask) != 0
        }
        fn keep(mask: __m256i, x: __m256i) -> __m256i {
            _mm256_and_si256(mask, x)
        }
        fn drop(mask: __m256i, x: __m256i) -> __m256i {
            _mm256_andnot_si256(mask, x)
        }
        fn select(mask: __m256i, yes: __m256i, no: __m256i) -> __m256i {
            _mm256_blendv_epi8(no, yes, mask)
        }
        fn bits_of(masks: [__m256i; 4]) -> u32 {
            _mm256_movemask_epi8(in_order(mixed_bytes(masks))) as u32
        }
        fn signs(x: [__m256; 4]) -> u32 {
            let [a, b, c, d] = x;
            let ints = [_mm256_castps_si256(a), _mm256_castps_si256(b), _mm256_castps_si256(c), _mm256_castps_si256(d)];
            _mm256_movemask_epi8(in_order(mixed_bytes(ints))) as u32
        }
        fn splat_f32(x: f32) -> __m256 {
            _mm256_set1_ps(x)
        }
        fn pattern(x: __m256) -> __m256i {
            _mm256_castps_si256(x)
        }
        fn float_of(x: __m256i) -> __m256 {
            _mm256_castsi256_ps(x)
        }
        fn abs(x: __m256) -> __m256 {
            abs(x)
        }
        fn mul(a: __m256, b: __m256) -> __m256 {
            _mm256_mul_ps(a, b)
        }
        fn div(a: __m256, b: __m256) -> __m256 {
            _mm256_div_ps(a, b)
        }
        fn minus(a: __m256, b: __m256) -> __m256 {
            _mm256_sub_ps(a, b)
        }
        fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            _mm256_fmadd_ps(a, b, c)
        }
        fn mul_sub(a: __m256, b: __m256, c: __m256) -> __m256 {
            _mm256_fmsub_ps(a, b, c)
        }
        fn sub_mul(c: __m256, a: __m256, b: __m256) -> __m256 {
            _mm256_fnmadd_ps(a, b, c)
        }
        fn least(a: __m256, b: __m256) -> __m256 {
            _mm256_min_ps(a, b)
        }
        fn truncated(x: __m256) -> __m256i {
            _mm256_cvttps_epi32(x)
        }
        fn to_floats(x: __m256i) -> __m256 {
            _mm256_cvtepi32_ps(x)
        }
        fn to_doubles(x: __m256i) -> [__m256d; 2] {
            // There are no unsigned conversions: the bits go below those of 2^52, which is taken off again.
            let magic = _mm256_castpd_si256(_mm256_set1_pd(4_503_599_627_370_496.0));
            let [low, high] = [_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x)]
                .map(|half| _mm256_castsi256_pd(_mm256_or_si256(_mm256_cvtepu32_epi64(half), magic)));
            let magic = _mm256_castsi256_pd(magic);
            [_mm256_sub_pd(low, magic), _mm256_sub_pd(high, magic)]
        }
        fn splat_f64(x: f64) -> __m256d {
            _mm256_set1_pd(x)
        }
        fn mul64(a: __m256d, b: __m256d) -> __m256d {
            _mm256_mul_pd(a, b)
        }
        fn div64(a: __m256d, b: __m256d) -> __m256d {
            _mm256_div_pd(a, b)
        }
        fn pattern64(x: __m256d) -> __m256i {
            _mm256_castpd_si256(x)
        }
        fn double_of(x: __m256i) -> __m256d {
            _mm256_castsi256_pd(x)
        }
        fn low_words(x: [__m256i; 2]) -> __m256i {
            let [low, high] = [_mm256_castsi256_ps(x[0]), _mm256_castsi256_ps(x[1])];
            let words = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(low, high));
            _mm256_permute4x64_epi64::<0b11_01_10_00>(words)
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,popcnt")]
#[inline]
fn store_quad(to: &mut [u32; 4], x: __m128i) {
    // SAFETY: `to` is 16 bytes.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), x) }
}
