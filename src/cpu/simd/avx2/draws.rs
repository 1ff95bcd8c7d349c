//! Philox for eight groups at once, and the 32 uniforms of a group.

use super::load_twice;
use crate::numerics::constants::PHILOX_ROUNDS;
use crate::numerics::draw::Position;
use crate::numerics::philox::{M0, M1, W0, W1, mul_wide, round};
use std::arch::x86_64::*;

/// Rounds whose two products are both different from group to group.
const FULL_ROUNDS: usize = PHILOX_ROUNDS as usize - 3;

/// What the counters of all groups at a position share. Only the first counter word differs from group to group, so
/// one product of round 1 and one of round 2 are the same for all and are taken here, once.
pub(super) struct Generator {
    first: [__m256i; 5],
    exponent: __m256i,
    keys: [[__m256i; 2]; FULL_ROUNDS],
}

/// The draws of eight groups: for each the eight halves of its Philox call without their top bits, and the eight
/// shared low bits under the exponent of a power of two.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Draws {
    halves: [[u32; 4]; 8],
    low: [u64; 8],
}

impl Draws {
    pub(super) const fn new() -> Self {
        Draws { halves: [[0; 4]; 8], low: [0; 8] }
    }
}

impl Generator {
    /// `one` is what stands for 1 in the draws' patterns, a power of two.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn new(at: &Position, one: f32) -> Self {
        let key = |r: u32| {
            let [k0, k1] = at.key();
            [k0.wrapping_add(W0.wrapping_mul(r)), k1.wrapping_add(W1.wrapping_mul(r))]
        };
        let c = at.counter(0);
        let (_, low) = mul_wide(M1, c[2]);
        let after = round(c, key(0));
        let (high_2, low_2) = mul_wide(M0, after[0]);
        let first = [c[3] ^ key(0)[1], low ^ key(1)[0], high_2 ^ key(1)[1], key(2)[0], low_2 ^ key(2)[1]];
        let mut keys = [[_mm256_setzero_si256(); 2]; FULL_ROUNDS];
        for (r, k) in (3..).zip(&mut keys) {
            *k = [_mm256_set1_epi32(key(r)[0] as i32), _mm256_set1_epi32(key(r)[1] as i32)];
        }
        let mut broadcast = [_mm256_setzero_si256(); 5];
        for (b, f) in broadcast.iter_mut().zip(first) {
            *b = _mm256_set1_epi32(f as i32);
        }
        Generator { first: broadcast, exponent: _mm256_castps_si256(_mm256_set1_ps(one)), keys }
    }

    /// The draws of groups `group` to `group + 7`.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub(super) fn draw(&self, group: u32, draws: &mut Draws) {
        let low = _mm256_setr_epi32(0, 0, 1, 0, 2, 0, 3, 0);
        let g = _mm256_add_epi32(_mm256_set1_epi32(group as i32), low);
        let mut even = self.start(g);
        let mut odd = self.start(_mm256_add_epi32(g, _mm256_set1_epi32(4)));
        for k in &self.keys {
            even = full_round(even, k);
            odd = full_round(odd, k);
        }
        let (a, b) = draws.halves.split_at_mut(4);
        let (low_a, low_b) = draws.low.split_at_mut(4);
        finish(even, self.exponent, a, low_a);
        finish(odd, self.exponent, b, low_b);
    }

    /// Rounds 1 to 3 of four groups, one in each 64-bit lane; only the low half of a lane counts.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn start(&self, g: __m256i) -> [__m256i; 4] {
        let (m0, m1) = (_mm256_set1_epi32(M0 as i32), _mm256_set1_epi32(M1 as i32));
        let [f0, f1, f2, f3, f4] = self.first;
        let p0 = _mm256_mul_epu32(m0, g);
        let c = _mm256_xor_si256(_mm256_srli_epi64::<32>(p0), f0);
        let p1 = _mm256_mul_epu32(m1, c);
        let a = _mm256_xor_si256(_mm256_srli_epi64::<32>(p1), f1);
        let c = _mm256_xor_si256(p0, f2);
        let (q0, q1) = (_mm256_mul_epu32(m0, a), _mm256_mul_epu32(m1, c));
        let a = _mm256_xor_si256(_mm256_srli_epi64::<32>(q1), _mm256_xor_si256(p1, f3));
        let c = _mm256_xor_si256(_mm256_srli_epi64::<32>(q0), f4);
        [a, q1, c, q0]
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn full_round([a, b, c, d]: [__m256i; 4], k: &[__m256i; 2]) -> [__m256i; 4] {
    let p0 = _mm256_mul_epu32(_mm256_set1_epi32(M0 as i32), a);
    let p1 = _mm256_mul_epu32(_mm256_set1_epi32(M1 as i32), c);
    let a = _mm256_xor_si256(_mm256_srli_epi64::<32>(p1), _mm256_xor_si256(b, k[0]));
    let c = _mm256_xor_si256(_mm256_srli_epi64::<32>(p0), _mm256_xor_si256(d, k[1]));
    [a, p1, c, p0]
}

/// Brings the words of each group together and takes the shared bits out of them.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn finish([a, b, c, d]: [__m256i; 4], exponent: __m256i, halves: &mut [[u32; 4]], low: &mut [u64]) {
    let ab = _mm256_blend_epi32::<0xaa>(a, _mm256_slli_epi64::<32>(b));
    let cd = _mm256_blend_epi32::<0xaa>(c, _mm256_slli_epi64::<32>(d));
    // Word i moved right by i brings the top bits of all words to bits 31..28, those of the low halves to 15..12.
    let top = _mm256_set1_epi32(0x8000_8000_u32 as i32);
    let t_ab = _mm256_srlv_epi32(_mm256_and_si256(ab, top), _mm256_setr_epi32(0, 1, 0, 1, 0, 1, 0, 1));
    let t_cd = _mm256_srlv_epi32(_mm256_and_si256(cd, top), _mm256_setr_epi32(2, 3, 2, 3, 2, 3, 2, 3));
    let t = _mm256_or_si256(t_ab, t_cd);
    let t = _mm256_or_si256(t, _mm256_srli_epi64::<32>(t));
    let v = _mm256_or_si256(
        _mm256_and_si256(_mm256_srli_epi32::<24>(t), _mm256_set1_epi32(0xf0)),
        _mm256_and_si256(_mm256_srli_epi32::<12>(t), _mm256_set1_epi32(0x0f)),
    );
    let v = _mm256_or_si256(v, exponent);
    let rest = _mm256_set1_epi32(0x7fff_7fff);
    let (ab, cd) = (_mm256_and_si256(ab, rest), _mm256_and_si256(cd, rest));
    let (g02, g13) = (_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    if let [h0, h1, h2, h3] = halves {
        store(h0, _mm256_castsi256_si128(g02));
        store(h1, _mm256_castsi256_si128(g13));
        store(h2, _mm256_extracti128_si256::<1>(g02));
        store(h3, _mm256_extracti128_si256::<1>(g13));
    }
    if let Some(low) = low.first_chunk_mut::<4>() {
        // SAFETY: `low` is 32 bytes.
        unsafe { _mm256_storeu_si256(low.as_mut_ptr().cast(), v) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store(to: &mut [u32; 4], x: __m128i) {
    // SAFETY: `to` is 16 bytes.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), x) }
}

/// Bytes that bring half `(j + q) % 8` of 16 bytes to bits 8 to 22 of element `j`.
const fn pick(q: usize) -> [i8; 32] {
    let mut bytes = [-1; 32];
    let mut j = 0;
    while j < 8 {
        let half = ((j + q) % 8) as i8;
        bytes[4 * j + 1] = 2 * half;
        bytes[4 * j + 2] = 2 * half + 1;
        j += 1;
    }
    bytes
}

static PICK: [[i8; 32]; 4] = [pick(0), pick(1), pick(2), pick(3)];

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn picked(halves: __m256i, pick: &[i8; 32]) -> __m256i {
    // SAFETY: `pick` is 32 bytes.
    _mm256_shuffle_epi8(halves, unsafe { _mm256_loadu_si256(pick.as_ptr().cast()) })
}

/// `(1 + k 2^-23)` times the power of two of the generator, for the draws of group `g`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn patterns(draws: &Draws, g: usize) -> [__m256; 4] {
    let halves = load_twice(&draws.halves[g]);
    let base = _mm256_or_si256(picked(halves, &PICK[0]), _mm256_set1_epi32(draws.low[g] as i32));
    [
        _mm256_castsi256_ps(base),
        _mm256_castsi256_ps(_mm256_xor_si256(base, picked(halves, &PICK[1]))),
        _mm256_castsi256_ps(_mm256_xor_si256(base, picked(halves, &PICK[2]))),
        _mm256_castsi256_ps(_mm256_xor_si256(base, picked(halves, &PICK[3]))),
    ]
}

/// What lies between a pattern under 1 and its uniform: `1 - 2^-24`.
pub(super) const OFFSET: f32 = f32::from_bits(0x3f7f_ffff);

/// The uniforms `u = (2 k + 1) / 2^24` of group `g`, exact; the generator's power of two is 1.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn uniforms(draws: &Draws, g: usize) -> [__m256; 4] {
    let (f, offset) = (patterns(draws, g), _mm256_set1_ps(OFFSET));
    [_mm256_sub_ps(f[0], offset), _mm256_sub_ps(f[1], offset), _mm256_sub_ps(f[2], offset), _mm256_sub_ps(f[3], offset)]
}
