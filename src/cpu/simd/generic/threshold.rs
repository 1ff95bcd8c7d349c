//! Threshold quantize: blocks in one pass over memory, sums in integers, means in f64 where they are exact.

use super::*;
use crate::cpu::plain::quantize::blocks as plain_blocks;
use crate::cpu::simd::vector::Job;
use crate::cpu::tile::{Method, QuantizeTile};
use crate::numerics::constants::{MIN_NORMAL, RANGE_LIMIT, SUM_BITS, ZERO_LIMIT};
use crate::numerics::float::magnitude;
use crate::numerics::threshold::mul_trunc;
use crate::op::Report;
use crate::op::quantize::Threshold;

/// Units in the largest power of two of a sum.
const UNIT: f32 = (1 << SUM_BITS) as f32;

/// Whole units of blocks: see [`whole_units`].
#[inline(always)]
pub(in crate::cpu::simd) fn blocks<V: Vector, T: Element>(
    v: V,
    method: &Method,
    rule: Threshold,
    tile: QuantizeTile<'_, T>,
) -> Report {
    if tile.size > PART {
        v.enter(Thresholded::<T, GROUPS_MAX> { method, rule, tile })
    } else {
        v.enter(Thresholded::<T, PART_GROUPS> { method, rule, tile })
    }
}

struct Thresholded<'a, T, const GROUPS: usize> {
    method: &'a Method,
    rule: Threshold,
    tile: QuantizeTile<'a, T>,
}

/// Scratch of a part, one value a group.
#[repr(C, align(64))]
struct Parts<const GROUPS: usize> {
    /// Exponents that the sums refer to, and the powers of two that bring magnitudes to their units.
    exponents: [u32; GROUPS],
    factors: [f32; GROUPS],
    limits: [u32; GROUPS],
    sums: [u32; GROUPS],
    counts: [u32; GROUPS],
}

impl<V: Vector, T: Element, const GROUPS: usize> Job<V> for Thresholded<'_, T, GROUPS> {
    type Output = Report;

    #[inline(always)]
    fn run(self, v: V) -> Report {
        let QuantizeTile { x, words, scales, mut first, size } = self.tile;
        let (x, words) = (x.as_chunks::<GROUP>().0, words.as_chunks_mut::<2>().0);
        let (groups, blocks) = (part(size) / GROUP, part(size) / size);
        let mut p = Parts {
            exponents: [0; GROUPS],
            factors: [0.0; GROUPS],
            limits: [0; GROUPS],
            sums: [0; GROUPS],
            counts: [0; GROUPS],
        };
        let mut report = Report::default();
        for ((x, words), scales) in x.chunks(groups).zip(words.chunks_mut(groups)).zip(scales.chunks_mut(blocks)) {
            let batches = V::batches(x);
            if measure(v, &mut p, batches, size) {
                limits(v, &mut p, self.rule, batches, size);
                keep(v, &mut p, batches, V::batches_mut(words), size);
                means(v, &mut p, batches.len(), size);
                write_scales(scales, &p.limits, size);
            } else {
                let (x, words) = (x.as_flattened(), words.as_flattened_mut());
                report.merge(plain_blocks(self.method, QuantizeTile { x, words, scales, first, size }));
            }
            first += (x.len() * GROUP) as u64;
        }
        report
    }
}

/// The units of the sums of a part; `false` where a maximum is out of range or too small for them, but not zero.
#[inline(always)]
fn measure<V: Vector, T: Element, const GROUPS: usize>(
    v: V,
    p: &mut Parts<GROUPS>,
    x: &[V::Batch<[T; GROUP]>],
    size: usize,
) -> bool {
    for (x, max) in x.iter().zip(V::batches_mut(&mut p.sums)) {
        v.store(max, over_block::<V, false>(v, group_maxima(v, x), size));
    }
    let maxima = &mut V::batches_mut(&mut p.sums)[..x.len()];
    over_batches::<V, false>(v, maxima, size);
    let mut inside = true;
    let to = V::batches_mut(&mut p.exponents).iter_mut().zip(V::batches_mut(&mut p.factors));
    for (max, (exponents, factors)) in maxima.iter().zip(to) {
        // A block of zeros sums to zero under any exponent.
        let max = v.load(max);
        let max = v.select(v.is_zero(max), v.splat(ZERO_LIMIT), max);
        inside &= !any_outside(v, max, ZERO_LIMIT, RANGE_LIMIT);
        let exponent = v.shr(max, 23);
        v.store(exponents, exponent);
        let factor = v.sub(v.splat(SUM_BITS + 253), exponent);
        v.store_floats(factors, v.float_of(v.shl(factor, 23)));
    }
    inside
}

/// The limits of a part.
#[inline(always)]
fn limits<V: Vector, T: Element, const GROUPS: usize>(
    v: V,
    p: &mut Parts<GROUPS>,
    rule: Threshold,
    x: &[V::Batch<[T; GROUP]>],
    size: usize,
) {
    // A subnormal counts as zero, which is above nothing.
    let least = v.splat(MIN_NORMAL - 1);
    let factor = match rule {
        Threshold::Given(t) => {
            let t = v.max(v.splat(magnitude(t.to_bits())), least);
            for limits in &mut V::batches_mut(&mut p.limits)[..x.len()] {
                v.store(limits, t);
            }
            return;
        }
        Threshold::Mean(factor) => factor,
    };
    for ((x, factors), sum) in x.iter().zip(V::batches(&p.factors)).zip(V::batches_mut(&mut p.sums)) {
        v.store(sum, over_block::<V, true>(v, group_sums(v, x, factors), size));
    }
    over_batches::<V, true>(v, &mut V::batches_mut(&mut p.sums)[..x.len()], size);
    // A power of two, so its reciprocal is exact.
    let share = 1.0 / size as f64;
    let sums = V::batches(&p.sums).iter().zip(V::batches(&p.exponents)).zip(V::batches_mut(&mut p.limits));
    for ((sum, exponent), limits) in sums.take(x.len()) {
        let (sum, exponent) = (v.load(sum), v.load(exponent));
        if (1.0 / UNIT..=2.0).contains(&factor) {
            // Means lie between 2^-102 and 2^126: their products with the factor are normal numbers.
            v.store(limits, v.max(truncated_means(v, sum, exponent, share, factor), least));
        } else {
            v.store(limits, truncated_means(v, sum, exponent, share, 1.0));
            for g in 0..V::LANES {
                limits[g] = mul_trunc(factor.to_bits(), limits[g]).max(MIN_NORMAL - 1);
            }
        }
    }
}

/// Sums of the fixed-point magnitudes of the groups of a batch.
#[inline(always)]
fn group_sums<V: Vector, T: Element>(v: V, x: &V::Batch<[T; GROUP]>, factors: &V::Batch<f32>) -> V::Ints {
    let mut sums = V::Batch::filled(v.splat(0));
    for g in 0..V::LANES {
        let (x, f) = (v.elements(&x[g]), v.splat_f32(factors[g]));
        sums[g] = v.truncated(v.mul(v.abs(x[0]), f));
        for q in 1..GROUP / V::LANES {
            sums[g] = v.add(sums[g], v.truncated(v.mul(v.abs(x[q]), f)));
        }
    }
    v.across::<true>(&sums)
}

/// Planes of a part, and sums and counts of what is kept.
#[inline(always)]
fn keep<V: Vector, T: Element, const GROUPS: usize>(
    v: V,
    p: &mut Parts<GROUPS>,
    x: &[V::Batch<[T; GROUP]>],
    words: &mut [V::Batch<[u32; 2]>],
    size: usize,
) {
    let (factors, limits) = (V::batches(&p.factors), V::batches(&p.limits));
    let (counts, kept_sums) = (V::batches_mut(&mut p.counts), V::batches_mut(&mut p.sums));
    for (b, (x, words)) in x.iter().zip(words).enumerate() {
        let mut sums = V::Batch::filled(v.splat(0));
        for g in 0..V::LANES {
            let (x, f) = (v.elements(&x[g]), v.splat_f32(factors[b][g]));
            let masks = masks_above(v, x, limits[b][g]);
            sums[g] = v.keep(masks[0], v.truncated(v.mul(v.abs(x[0]), f)));
            for q in 1..GROUP / V::LANES {
                sums[g] = v.add(sums[g], v.keep(masks[q], v.truncated(v.mul(v.abs(x[q]), f))));
            }
            let (kept, minus) = (v.bits_of(masks), v.signs(x));
            words[g] = [kept & !minus, kept & minus];
            counts[b][g] = kept.count_ones();
        }
        v.store(&mut kept_sums[b], over_block::<V, true>(v, v.across::<true>(&sums), size));
    }
}

/// The masks of what lies above a limit.
#[inline(always)]
fn masks_above<V: Vector>(v: V, x: V::Group<V::Floats>, limit: u32) -> V::Group<V::Mask> {
    let t = v.splat(limit);
    let mut masks = V::Group::filled(v.above(magnitudes(v, x[0]), t));
    for q in 1..GROUP / V::LANES {
        masks[q] = v.above(magnitudes(v, x[q]), t);
    }
    masks
}

/// Threshold planes of a group.
#[inline(always)]
pub(in crate::cpu::simd) fn planes<V: Vector, T: Element>(v: V, x: &[T; GROUP], limit: u32) -> [u32; 2] {
    let x = v.elements(x);
    let (kept, minus) = (v.bits_of(masks_above(v, x, limit)), v.signs(x));
    [kept & !minus, kept & minus]
}

/// The means of what was kept, rounded to bf16, into `limits`, which are not needed any more.
#[inline(always)]
fn means<V: Vector, const GROUPS: usize>(v: V, p: &mut Parts<GROUPS>, batches: usize, size: usize) {
    let (sums, counts) = (&mut V::batches_mut(&mut p.sums)[..batches], &mut V::batches_mut(&mut p.counts)[..batches]);
    over_batches::<V, true>(v, sums, size);
    for counts in counts.iter_mut() {
        let all = over_block::<V, true>(v, v.load(counts), size);
        v.store(counts, all);
    }
    over_batches::<V, true>(v, counts, size);
    let of = sums.iter().zip(counts).zip(V::batches(&p.exponents));
    for (((sum, count), exponent), mean) in of.zip(V::batches_mut(&mut p.limits)) {
        v.store(mean, rounded_means(v, v.load(sum), v.load(exponent), v.load(count)));
    }
}

/// [`crate::numerics::threshold::Sum::mean`] times a factor, truncated; `share` is the reciprocal of the count, which
/// is a power of two.
///
/// The quotients are exact; cut to 24 bits, their products with the factor are exact as well, and are cut in turn.
#[inline(always)]
fn truncated_means<V: Vector>(v: V, sum: V::Ints, exponent: V::Ints, share: f64, factor: f32) -> V::Ints {
    let (share, factor) = (v.splat_f64(share), v.splat_f64(f64::from(factor)));
    let cut = v.splat64(!0x1fff_ffff);
    let mut words = [sum; 2];
    for (word, sum) in words.iter_mut().zip(v.to_doubles(sum)) {
        let q = v.and(v.pattern64(v.mul64(sum, share)), cut);
        *word = v.shr64(v.pattern64(v.mul64(v.double_of(q), factor)), 29);
    }
    to_f32(v, sum, exponent, v.low_words(words))
}

/// [`crate::numerics::threshold::Sum::mean_bf16`].
#[inline(always)]
fn rounded_means<V: Vector>(v: V, sum: V::Ints, exponent: V::Ints, count: V::Ints) -> V::Ints {
    let (half, one) = (v.splat64((1 << 44) - 1), v.splat64(1));
    let mut words = [sum; 2];
    for (word, (sum, count)) in words.iter_mut().zip(v.to_doubles(sum).into_iter().zip(v.to_doubles(count))) {
        let q = v.pattern64(v.div64(sum, count));
        let odd = v.and(v.shr64(q, 45), one);
        *word = v.shl64(v.shr64(v.add64(v.add64(q, odd), half), 45), 16);
    }
    to_f32(v, sum, exponent, v.low_words(words))
}

/// From f64 exponents and the units of the sums to f32 patterns; 0 for an empty sum.
#[inline(always)]
fn to_f32<V: Vector>(v: V, sum: V::Ints, exponent: V::Ints, words: V::Ints) -> V::Ints {
    let shift = v.shl(v.sub(exponent, v.splat(1022 + SUM_BITS)), 23);
    v.drop(v.is_zero(sum), v.add(words, shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::Simd;
    use crate::cpu::tests::Bits;
    use crate::numerics::threshold::{Sum, relative};

    /// Sums of chunks whose largest element is counted, near quotients of few bits, where rounding could err.
    fn sums(bits: &mut Bits, size: Option<u64>) -> [Sum; LANES_MAX] {
        std::array::from_fn(|_| {
            let r = bits.next();
            let count = size.unwrap_or(1 + u64::from(r % if r & 4096 == 0 { 64 } else { 4096 }));
            let near = (count * u64::from(bits.next() % (1 << 9) + 128)) << (bits.next() % 12);
            let total = match r >> 30 {
                0 => near.wrapping_sub(1),
                1 => near + 1,
                2 => count * u64::from(bits.next() % (1 << 20)),
                _ => u64::from(bits.next()),
            };
            Sum { total: total.clamp(1 << 19, (count << 20) - 1), exponent: 37 + bits.next() % 216, count }
        })
    }

    /// The means of a batch and what they should be: truncated with a factor, and rounded.
    struct Compare<'a> {
        bits: &'a mut Bits,
        factor: f32,
    }

    impl<V: Vector> Job<V> for Compare<'_> {
        type Output = ();

        fn run(self, v: V) {
            let load = |sums: &[Sum; LANES_MAX]| {
                let total = sums.map(|s| s.total as u32);
                let [total, exponent, count] = [total, sums.map(|s| s.exponent), sums.map(|s| s.count as u32)];
                [v.first_words(&total), v.first_words(&exponent), v.first_words(&count)]
            };
            let size = 32 << (self.bits.next() % 8);
            let exact = sums(self.bits, Some(size));
            let [sum, exponent, _] = load(&exact);
            let mut got = [0; LANES_MAX];
            v.store(
                &mut V::batches_mut(&mut got)[0],
                truncated_means(v, sum, exponent, 1.0 / size as f64, self.factor),
            );
            let want = exact.map(|s| relative(&s, self.factor.to_bits()));
            assert_eq!(got[..V::LANES], want[..V::LANES], "{exact:?}");
            let any = sums(self.bits, None);
            let [sum, exponent, count] = load(&any);
            v.store(&mut V::batches_mut(&mut got)[0], rounded_means(v, sum, exponent, count));
            assert_eq!(got[..V::LANES], any.map(|s| s.mean_bf16())[..V::LANES], "{any:?}");
        }
    }

    #[test]
    fn means_equal_the_spec() {
        for simd in Simd::kinds() {
            let mut bits = Bits::new(8);
            for i in 0..100_000 {
                let factor = [1.0, 0.7, 0.5, 2.0, 1.0 / UNIT, 1.999_999_9][i % 6];
                let compare = Compare { bits: &mut bits, factor };
                match simd {
                    Simd::Plain => {}
                    Simd::Avx2(v) => v.enter(compare),
                    Simd::Avx512(v) => v.enter(compare),
                }
            }
        }
    }
}
