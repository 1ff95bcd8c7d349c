//! Philox for a batch of groups at once, and the 32 uniforms of a group.

use crate::cpu::simd::vector::{Array, Vector};
use crate::numerics::constants::{GROUP, PHILOX_ROUNDS};
use crate::numerics::draw::Position;
use crate::numerics::philox::{M0, M1, W0, W1, mul_wide, round};

/// Rounds whose two products are both different from group to group.
const FULL_ROUNDS: usize = PHILOX_ROUNDS as usize - 3;

/// What the counters of all groups at a position share. Only the first counter word differs from group to group, so
/// one product of round 1 and one of round 2 are the same for all and are taken here, once.
pub(in crate::cpu::simd) struct Generator<V: Vector> {
    first: [V::Ints; 5],
    exponent: V::Ints,
    keys: [[V::Ints; 2]; FULL_ROUNDS],
}

/// The draws of groups: for each the eight halves of its Philox call without their top bits, and the eight shared low
/// bits under the exponent of a power of two. Within a batch the halves lie as [`Vector::place`] says.
#[repr(C, align(64))]
pub(in crate::cpu::simd) struct Draws<const GROUPS: usize> {
    halves: [[u32; 4]; GROUPS],
    low: [u64; GROUPS],
}

/// The draws of one batch.
pub(in crate::cpu::simd) struct BatchDraws<'a, V: Vector> {
    halves: &'a V::Batch<[u32; 4]>,
    low: &'a V::Batch<u64>,
}

impl<V: Vector> Clone for BatchDraws<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<V: Vector> Copy for BatchDraws<'_, V> {}

impl<const GROUPS: usize> Draws<GROUPS> {
    pub(in crate::cpu::simd) const fn new() -> Self {
        Draws { halves: [[0; 4]; GROUPS], low: [0; GROUPS] }
    }

    #[inline(always)]
    pub(in crate::cpu::simd) fn batch<V: Vector>(&self, b: usize) -> BatchDraws<'_, V> {
        BatchDraws { halves: &V::batches(&self.halves)[b], low: &V::batches(&self.low)[b] }
    }
}

impl<V: Vector> Generator<V> {
    /// `one` is what stands for 1 in the draws' patterns, a power of two.
    #[inline(always)]
    pub(in crate::cpu::simd) fn new(v: V, at: &Position, one: f32) -> Self {
        let key = |r: u32| {
            let [k0, k1] = at.key();
            [k0.wrapping_add(W0.wrapping_mul(r)), k1.wrapping_add(W1.wrapping_mul(r))]
        };
        let c = at.counter(0);
        let (_, low) = mul_wide(M1, c[2]);
        let after = round(c, key(0));
        let (high_2, low_2) = mul_wide(M0, after[0]);
        let first = [c[3] ^ key(0)[1], low ^ key(1)[0], high_2 ^ key(1)[1], key(2)[0], low_2 ^ key(2)[1]];
        let mut keys = [[v.splat(0); 2]; FULL_ROUNDS];
        for (r, k) in (3..).zip(&mut keys) {
            *k = [v.splat(key(r)[0]), v.splat(key(r)[1])];
        }
        let mut broadcast = [v.splat(0); 5];
        for (to, f) in broadcast.iter_mut().zip(first) {
            *to = v.splat(f);
        }
        Generator { first: broadcast, exponent: v.splat(one.to_bits()), keys }
    }

    /// The draws of a batch, number `b` in `draws`, of which `group` is the first.
    #[inline(always)]
    pub(in crate::cpu::simd) fn draw<const GROUPS: usize>(
        &self,
        v: V,
        group: u32,
        draws: &mut Draws<GROUPS>,
        b: usize,
    ) {
        let numbers = v.first_words(&[0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0]);
        let g = v.add(v.splat(group), numbers);
        let mut words = [self.start(v, g), self.start(v, v.add(g, v.splat(V::LANES as u32 / 2)))];
        // Written out: as a loop it moves its registers around.
        let [k3, k4, k5, k6, k7, k8, k9] = &self.keys;
        words = full_rounds(v, words, k3);
        words = full_rounds(v, words, k4);
        words = full_rounds(v, words, k5);
        words = full_rounds(v, words, k6);
        words = full_rounds(v, words, k7);
        words = full_rounds(v, words, k8);
        words = full_rounds(v, words, k9);
        let [first, second] = words;
        let (halves, low) = (&mut V::batches_mut(&mut draws.halves)[b], &mut V::batches_mut(&mut draws.low)[b]);
        self.finish(v, first, halves, low, false);
        self.finish(v, second, halves, low, true);
    }

    /// Rounds 1 to 3 of half a batch, a group in each 64-bit lane; only the low half of a lane counts.
    #[inline(always)]
    fn start(&self, v: V, g: V::Ints) -> [V::Ints; 4] {
        let (m0, m1) = (v.splat(M0), v.splat(M1));
        let [f0, f1, f2, f3, f4] = self.first;
        let p0 = v.mul_low(m0, g);
        let c = v.xor(v.shr64(p0, 32), f0);
        let p1 = v.mul_low(m1, c);
        let a = v.xor(v.shr64(p1, 32), f1);
        let c = v.xor(p0, f2);
        let (q0, q1) = (v.mul_low(m0, a), v.mul_low(m1, c));
        let a = v.xor(v.shr64(q1, 32), v.xor(p1, f3));
        let c = v.xor(v.shr64(q0, 32), f4);
        [a, q1, c, q0]
    }

    /// Brings the words of each group of half a batch together and takes the shared bits out of them.
    #[inline(always)]
    fn finish(
        &self,
        v: V,
        [a, b, c, d]: [V::Ints; 4],
        halves: &mut V::Batch<[u32; 4]>,
        low: &mut V::Batch<u64>,
        second: bool,
    ) {
        let (ab, cd) = (v.in_turn(a, v.shl64(b, 32)), v.in_turn(c, v.shl64(d, 32)));
        // Word i moved right by i brings the top bits of all words to bits 31..28, those of the low halves to 15..12.
        let top = v.splat(0x8000_8000);
        let t_ab = v.shr_each(v.and(ab, top), v.splat64(1 << 32));
        let t_cd = v.shr_each(v.and(cd, top), v.splat64(2 | 3 << 32));
        let t = v.or(t_ab, t_cd);
        let t = v.or(t, v.shr64(t, 32));
        let shared = v.or(v.and(v.shr(t, 24), v.splat(0xf0)), v.and(v.shr(t, 12), v.splat(0x0f)));
        v.store_half(low, second, v.or(shared, self.exponent));
        let rest = v.splat(0x7fff_7fff);
        v.store_quads(halves, second, v.and(ab, rest), v.and(cd, rest));
    }
}

/// A round of both halves of a batch.
#[inline(always)]
fn full_rounds<V: Vector>(v: V, [first, second]: [[V::Ints; 4]; 2], k: &[V::Ints; 2]) -> [[V::Ints; 4]; 2] {
    [full_round(v, first, k), full_round(v, second, k)]
}

#[inline(always)]
fn full_round<V: Vector>(v: V, [a, b, c, d]: [V::Ints; 4], k: &[V::Ints; 2]) -> [V::Ints; 4] {
    let (p0, p1) = (v.mul_low(v.splat(M0), a), v.mul_low(v.splat(M1), c));
    let a = v.xor(v.shr64(p1, 32), v.xor(b, k[0]));
    let c = v.xor(v.shr64(p0, 32), v.xor(d, k[1]));
    [a, p1, c, p0]
}

/// For each element of a group the bytes that bring half `(j + q) % 8` of 16 bytes to bits 8 to 22, `j` being its place
/// among eight and `q` that of its eight; nothing where all take their half anyway.
const fn picks<const N: usize>(all: bool) -> [u32; N] {
    let mut words = [0xffff_ffff; N];
    let mut e = 0;
    while e < N {
        let (q, j) = if all { (0, e % 8) } else { (e / 8, e % 8) };
        if all || q > 0 {
            let byte = 2 * ((j + q) % 8) as u32;
            words[e] = 0xff00_00ff | byte << 8 | (byte + 1) << 16;
        }
        e += 1;
    }
    words
}

/// The halves that all elements take, and those that they take besides.
static BASE: [u32; 16] = picks(true);
static MORE: [u32; GROUP] = picks(false);

/// `(1 + k 2^-23)` times the power of two of the generator, for the draws of group `g`.
#[inline(always)]
pub(in crate::cpu::simd) fn patterns<V: Vector>(v: V, draws: BatchDraws<'_, V>, g: usize) -> V::Group<V::Floats> {
    let halves = v.repeat(&draws.halves[V::place(g)]);
    let base = v.or(v.bytes(halves, v.first_words(&BASE)), v.splat(draws.low[g] as u32));
    let more = v.words(&MORE);
    let mut patterns = V::Group::filled(v.float_of(base));
    // The first eight elements take nothing besides.
    for q in usize::from(V::LANES <= 8)..GROUP / V::LANES {
        patterns[q] = v.float_of(v.xor(base, v.bytes(halves, more[q])));
    }
    patterns
}

/// What lies between a pattern under 1 and its uniform: `1 - 2^-24`.
pub(in crate::cpu::simd) const OFFSET: f32 = f32::from_bits(0x3f7f_ffff);

/// The uniforms `u = (2 k + 1) / 2^24` of group `g`, exact; the generator's power of two is 1.
#[inline(always)]
pub(in crate::cpu::simd) fn uniforms<V: Vector>(v: V, draws: BatchDraws<'_, V>, g: usize) -> V::Group<V::Floats> {
    let mut u = patterns(v, draws, g);
    for q in 0..GROUP / V::LANES {
        u[q] = v.minus(u[q], v.splat_f32(OFFSET));
    }
    u
}
