//! Philox for sixteen groups at once, and the 32 uniforms of a group.

use super::{LANES, load_everywhere};
use crate::numerics::constants::PHILOX_ROUNDS;
use crate::numerics::draw::Position;
use crate::numerics::philox::{M0, M1, W0, W1, mul_wide, round};
use std::arch::x86_64::*;

/// Rounds whose two products are both different from group to group.
const FULL_ROUNDS: usize = PHILOX_ROUNDS as usize - 3;

/// What the counters of all groups at a position share. Only the first counter word differs from group to group, so
/// one product of round 1 and one of round 2 are the same for all and are taken here, once.
pub(super) struct Generator {
    first: [__m512i; 5],
    exponent: __m512i,
    keys: [[__m512i; 2]; FULL_ROUNDS],
}

/// The draws of sixteen groups: for each the eight halves of its Philox call without their top bits, and the eight
/// shared low bits under the exponent of a power of two. Of each eight groups the even ones come first: see [`slot`].
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Draws {
    halves: [[u32; 4]; LANES],
    low: [u64; LANES],
}

/// Where the halves of group `g` lie.
#[inline]
const fn slot(g: usize) -> usize {
    g / 8 * 8 + g % 2 * 4 + g % 8 / 2
}

impl Draws {
    pub(super) const fn new() -> Self {
        Draws { halves: [[0; 4]; LANES], low: [0; LANES] }
    }
}

impl Generator {
    /// `one` is what stands for 1 in the draws' patterns, a power of two.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
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
        let mut keys = [[_mm512_setzero_si512(); 2]; FULL_ROUNDS];
        for (r, k) in (3..).zip(&mut keys) {
            *k = [_mm512_set1_epi32(key(r)[0] as i32), _mm512_set1_epi32(key(r)[1] as i32)];
        }
        let mut broadcast = [_mm512_setzero_si512(); 5];
        for (b, f) in broadcast.iter_mut().zip(first) {
            *b = _mm512_set1_epi32(f as i32);
        }
        Generator { first: broadcast, exponent: _mm512_castps_si512(_mm512_set1_ps(one)), keys }
    }

    /// The draws of groups `group` to `group + 15`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    #[inline]
    pub(super) fn draw(&self, group: u32, draws: &mut Draws) {
        let low = _mm512_setr_epi32(0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0);
        let g = _mm512_add_epi32(_mm512_set1_epi32(group as i32), low);
        let mut first = self.start(g);
        let mut second = self.start(_mm512_add_epi32(g, _mm512_set1_epi32(8)));
        for k in &self.keys {
            first = full_round(first, k);
            second = full_round(second, k);
        }
        let (a, b) = draws.halves.split_at_mut(8);
        let (low_a, low_b) = draws.low.split_at_mut(8);
        finish(first, self.exponent, a, low_a);
        finish(second, self.exponent, b, low_b);
    }

    /// Rounds 1 to 3 of eight groups, one in each 64-bit lane; only the low half of a lane counts.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    #[inline]
    fn start(&self, g: __m512i) -> [__m512i; 4] {
        let (m0, m1) = (_mm512_set1_epi32(M0 as i32), _mm512_set1_epi32(M1 as i32));
        let [f0, f1, f2, f3, f4] = self.first;
        let p0 = _mm512_mul_epu32(m0, g);
        let c = _mm512_xor_si512(_mm512_srli_epi64::<32>(p0), f0);
        let p1 = _mm512_mul_epu32(m1, c);
        let a = _mm512_xor_si512(_mm512_srli_epi64::<32>(p1), f1);
        let c = _mm512_xor_si512(p0, f2);
        let (q0, q1) = (_mm512_mul_epu32(m0, a), _mm512_mul_epu32(m1, c));
        let a = xor3(_mm512_srli_epi64::<32>(q1), p1, f3);
        let c = _mm512_xor_si512(_mm512_srli_epi64::<32>(q0), f4);
        [a, q1, c, q0]
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn full_round([a, b, c, d]: [__m512i; 4], k: &[__m512i; 2]) -> [__m512i; 4] {
    let p0 = _mm512_mul_epu32(_mm512_set1_epi32(M0 as i32), a);
    let p1 = _mm512_mul_epu32(_mm512_set1_epi32(M1 as i32), c);
    [xor3(_mm512_srli_epi64::<32>(p1), b, k[0]), p1, xor3(_mm512_srli_epi64::<32>(p0), d, k[1]), p0]
}

/// Brings the words of each group together and takes the shared bits out of them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn finish([a, b, c, d]: [__m512i; 4], exponent: __m512i, halves: &mut [[u32; 4]], low: &mut [u64]) {
    let ab = _mm512_mask_blend_epi32(0xaaaa, a, _mm512_slli_epi64::<32>(b));
    let cd = _mm512_mask_blend_epi32(0xaaaa, c, _mm512_slli_epi64::<32>(d));
    // Word i moved right by i brings the top bits of all words to bits 31..28, those of the low halves to 15..12.
    let top = _mm512_set1_epi32(0x8000_8000_u32 as i32);
    let (first, second) = (_mm512_set1_epi64(1 << 32), _mm512_set1_epi64(2 | 3 << 32));
    let t_ab = _mm512_srlv_epi32(_mm512_and_si512(ab, top), first);
    let t_cd = _mm512_srlv_epi32(_mm512_and_si512(cd, top), second);
    let t = _mm512_or_si512(t_ab, t_cd);
    let t = _mm512_or_si512(t, _mm512_srli_epi64::<32>(t));
    let high = _mm512_and_si512(_mm512_srli_epi32::<24>(t), _mm512_set1_epi32(0xf0));
    let v = _mm512_and_si512(_mm512_srli_epi32::<12>(t), _mm512_set1_epi32(0x0f));
    let v = _mm512_or_si512(_mm512_or_si512(high, v), exponent);
    let rest = _mm512_set1_epi32(0x7fff_7fff);
    let (ab, cd) = (_mm512_and_si512(ab, rest), _mm512_and_si512(cd, rest));
    if let ([even, odd], _) = halves.as_chunks_mut::<4>() {
        store(even, _mm512_unpacklo_epi64(ab, cd));
        store(odd, _mm512_unpackhi_epi64(ab, cd));
    }
    if let Some(low) = low.first_chunk_mut::<8>() {
        // SAFETY: `low` is 64 bytes.
        unsafe { _mm512_storeu_si512(low.as_mut_ptr().cast(), v) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn store(to: &mut [[u32; 4]; 4], x: __m512i) {
    // SAFETY: `to` is 64 bytes.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}

/// Bytes that bring half `(j + q) % 8` of 16 bytes to bits 8 to 22 of element `j`, for two `q`; -1 takes nothing.
const fn pick(q: [i32; 2]) -> [i8; 64] {
    let mut bytes = [-1; 64];
    let mut j = 0;
    while j < 16 {
        let q = q[j / 8];
        if q >= 0 {
            let half = ((j as i32 + q) % 8) as i8;
            bytes[4 * j + 1] = 2 * half;
            bytes[4 * j + 2] = 2 * half + 1;
        }
        j += 1;
    }
    bytes
}

/// The halves that all elements take, and those that the elements of either vector take besides.
static BASE: [i8; 64] = pick([0, 0]);
static MORE: [[i8; 64]; 2] = [pick([-1, 1]), pick([2, 3])];

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn picked(halves: __m512i, pick: &[i8; 64]) -> __m512i {
    // SAFETY: `pick` is 64 bytes.
    _mm512_shuffle_epi8(halves, unsafe { _mm512_loadu_si512(pick.as_ptr().cast()) })
}

/// `(1 + k 2^-23)` times the power of two of the generator, for the draws of group `g`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
pub(super) fn patterns(draws: &Draws, g: usize) -> [__m512; 2] {
    let halves = load_everywhere(&draws.halves[slot(g)]);
    let base = _mm512_or_si512(picked(halves, &BASE), _mm512_set1_epi32(draws.low[g] as i32));
    [
        _mm512_castsi512_ps(_mm512_xor_si512(base, picked(halves, &MORE[0]))),
        _mm512_castsi512_ps(_mm512_xor_si512(base, picked(halves, &MORE[1]))),
    ]
}

/// What lies between a pattern under 1 and its uniform: `1 - 2^-24`.
pub(super) const OFFSET: f32 = f32::from_bits(0x3f7f_ffff);

/// The uniforms `u = (2 k + 1) / 2^24` of group `g`, exact; the generator's power of two is 1.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
pub(super) fn uniforms(draws: &Draws, g: usize) -> [__m512; 2] {
    let ([a, b], offset) = (patterns(draws, g), _mm512_set1_ps(OFFSET));
    [_mm512_sub_ps(a, offset), _mm512_sub_ps(b, offset)]
}
