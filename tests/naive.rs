//! A slow version written from NUMERICS.md: real numbers as integers times powers of two, searches in place of bit tricks.
//! Section numbers are that page's. It is compared with `numerics` function by function, and with the CPU backend
//! operation by operation.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use common::{State, block};
use std::cmp::Ordering;
use trigrad::numerics::{draw, float, level, philox, reduce, scale, threshold, trit};
use trigrad::op::accumulate::{Adaptive, Exact};
use trigrad::op::quantize::{Quantize, Rule, Threshold};
use trigrad::op::{Draw, Element, Grouping, Report};
use trigrad::testing::values::{Pattern, Rng};

/// The page by itself: nothing of the library is used in here.
mod naive {
    use std::cmp::Ordering;

    /// A non-negative real: `mantissa 2^exponent`.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Real {
        pub(super) mantissa: u128,
        pub(super) exponent: i32,
    }

    impl Real {
        pub(super) fn new(mantissa: u128, exponent: i32) -> Real {
            Real { mantissa, exponent }
        }

        fn top(self) -> i32 {
            128 - self.mantissa.leading_zeros() as i32 + self.exponent
        }

        pub(super) fn times(self, by: Real) -> Real {
            Real::new(self.mantissa.checked_mul(by.mantissa).unwrap(), self.exponent + by.exponent)
        }

        /// The difference, where it is not negative and the two lie within 64 binary digits of each other.
        fn minus(self, less: Real) -> Real {
            let exponent = self.exponent.min(less.exponent);
            let at = |r: Real| r.mantissa << (r.exponent - exponent);
            Real::new(at(self).checked_sub(at(less)).unwrap(), exponent)
        }

        pub(super) fn compare(self, to: Real) -> Ordering {
            match (self.mantissa, to.mantissa) {
                (0, 0) => Ordering::Equal,
                (0, _) => Ordering::Less,
                (_, 0) => Ordering::Greater,
                _ if self.top() != to.top() => self.top().cmp(&to.top()),
                _ => {
                    let (a, b) = (self.mantissa.trailing_zeros(), to.mantissa.trailing_zeros());
                    let (a, b) = (
                        Real::new(self.mantissa >> a, self.exponent + a as i32),
                        Real::new(to.mantissa >> b, to.exponent + b as i32),
                    );
                    let exponent = a.exponent.min(b.exponent);
                    // The tops agree, so neither shift leaves the 128 bits.
                    (a.mantissa << (a.exponent - exponent)).cmp(&(b.mantissa << (b.exponent - exponent)))
                }
            }
        }

        pub(super) fn below(self, other: Real) -> bool {
            self.compare(other) == Ordering::Less
        }
    }

    /// The value of magnitude bits ("Conventions").
    pub(super) fn value(m: u32) -> Real {
        let e = m >> 23;
        if e == 0 { Real::new(0, 0) } else { Real::new(u128::from(m % (1 << 23) + (1 << 23)), e as i32 - 150) }
    }

    /// The largest pattern from `low` to `high` (steps of `step`) for which `holds`, which holds for `low` at least.
    fn largest(low: u32, high: u32, step: u32, holds: impl Fn(u32) -> bool) -> u32 {
        let (mut low, mut high) = (low / step, high / step + 1);
        while high - low > 1 {
            let mid = low.midpoint(high);
            if holds(mid * step) { low = mid } else { high = mid }
        }
        low * step
    }

    /// The largest f32 not above a real; below 2^-126 it is 0 ("truncated to 24 bits").
    pub(super) fn truncated(x: Real) -> u32 {
        if x.below(Real::new(1, -126)) {
            return 0;
        }
        largest(0x0080_0000, 0x7f7f_ffff, 1, |m| !x.below(value(m)))
    }

    // 1. Values
    pub(super) fn magnitude(bits: u32) -> u32 {
        let m = bits % (1 << 31);
        if m < 0x0080_0000 { 0 } else { m }
    }

    pub(super) fn out_of_range(m: u32) -> bool {
        m >= 0x7e80_0000
    }

    // 3. Draws. The page names Philox and its source; the constants and the round are the paper's.
    pub(super) fn philox(mut c: [u32; 4], mut k: [u32; 2], rounds: u32) -> [u32; 4] {
        for _ in 0..rounds {
            let (a, b) = (u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57);
            c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
            k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
        }
        c
    }

    pub(super) struct Place {
        pub(super) seed: u64,
        pub(super) step: u32,
        pub(super) micro_batch: u32,
        pub(super) tensor: u32,
        pub(super) domain: u32,
    }

    pub(super) fn draw(at: &Place, i: u64) -> u32 {
        let key = [(at.seed % (1 << 32)) as u32, (at.seed / (1 << 32)) as u32];
        let counter = [(i / 32) as u32, at.tensor, at.step, at.domain * (1 << 24) + at.micro_batch];
        let w = philox(counter, key, 10);
        let h: Vec<u32> = w.iter().flat_map(|w| [w % 65_536, w / 65_536]).collect();
        let e = (i % 32) as usize;
        let (q, j) = (e / 8, e % 8);
        let x = if q == 0 { h[j] } else { h[j] ^ h[(j + q) % 8] };
        let bit = |w: u32, b: u32| w / (1 << b) % 2;
        let v: u32 = (0..4).map(|j| (bit(w[j as usize], 31) << (7 - j)) + (bit(w[j as usize], 15) << (3 - j))).sum();
        x % (1 << 15) * 256 + v
    }

    /// `u s`, with `u = (2 k + 1) / 2^24`.
    fn drawn(s: u32, k: u32) -> Real {
        Real::new(u128::from(2 * k + 1), -24).times(value(s))
    }

    // 4. The stochastic decision
    pub(super) fn keep(m: u32, s: u32, k: u32) -> bool {
        s != 0 && m != 0 && drawn(s, k).below(value(m))
    }

    // 5. Scales
    pub(super) fn stochastic_scale(max: u32) -> u32 {
        if value(max).below(Real::new(1, -90)) {
            return 0;
        }
        // Rounded up: the smallest bf16 not below.
        let below = largest(0, 0x7f7f_0000, 0x1_0000, |s| value(s).below(value(max)));
        below + 0x1_0000
    }

    pub(super) fn level_scale(max: u32, levels: u32) -> u32 {
        if value(max).below(Real::new(1, -90)) {
            return 0;
        }
        let covers = |s: u32| !Real::new(levels.into(), 0).times(value(s)).below(value(max));
        largest(0, 0x7f7f_0000, 0x1_0000, |s| !covers(s)) + 0x1_0000
    }

    pub(super) fn window_scale(max: u32, headroom: u32) -> u32 {
        let product = truncated(value(max).times(value(headroom)));
        stochastic_scale(product.min(0x7e80_0000))
    }

    // 6. Threshold rules
    pub(super) struct Sum {
        pub(super) total: u128,
        pub(super) exponent: u32,
        pub(super) count: u128,
    }

    fn counted(m: u32, exponent: u32, drop: u128) -> u128 {
        let (e, mantissa) = (m >> 23, u128::from(m % (1 << 23) + (1 << 23)));
        if m == 0 || exponent - e > 31 { 0 } else { mantissa / drop / (1 << (exponent - e)) }
    }

    fn chunk_exponent(chunk: &[u32]) -> u32 {
        chunk.iter().map(|m| m >> 23).max().unwrap_or(0).max(1)
    }

    pub(super) fn sum(magnitudes: &[u32], above: Option<u32>) -> Sum {
        let exponent = magnitudes.chunks(4096).map(chunk_exponent).max().unwrap_or(0);
        let kept = |m: &&u32| above.is_none_or(|t| **m > t);
        let of_chunk = |chunk: &[u32]| {
            let e = chunk_exponent(chunk);
            let units: u128 = chunk.iter().filter(kept).map(|m| counted(*m, e, 16)).sum();
            if exponent - e >= 64 { 0 } else { units / (1 << (exponent - e)) }
        };
        let total = magnitudes.chunks(4096).map(of_chunk).sum();
        Sum { total, exponent, count: magnitudes.iter().filter(kept).count() as u128 }
    }

    impl Sum {
        /// Compares the mean with a real.
        fn compare(&self, to: Real) -> Ordering {
            Real::new(self.total, self.exponent as i32 - 146).compare(to.times(Real::new(self.count, 0)))
        }

        pub(super) fn mean(&self) -> u32 {
            if self.count == 0 || self.total == 0 || self.compare(Real::new(1, -126)) == Ordering::Less {
                return 0;
            }
            largest(0x0080_0000, 0x7f7f_ffff, 1, |m| self.compare(value(m)) != Ordering::Less)
        }

        /// The mean, to the nearest bf16, ties to even. Below 2^-126 it is 0, as for every mean.
        pub(super) fn mean_bf16(&self) -> u32 {
            if self.count == 0 || self.total == 0 || self.compare(Real::new(1, -126)) == Ordering::Less {
                return 0;
            }
            let down = largest(0x0080_0000, 0x7f7f_0000, 0x1_0000, |m| self.compare(value(m)) != Ordering::Less);
            let v = value(down);
            let half = Real::new(v.mantissa + (1 << 15), v.exponent);
            let even = (down >> 16).is_multiple_of(2);
            match self.compare(half) {
                Ordering::Less => down,
                Ordering::Equal if even => down,
                _ => down + 0x1_0000,
            }
        }
    }

    pub(super) fn product(a: u32, b: u32) -> u32 {
        truncated(value(a).times(value(b)))
    }

    // 7. Clipping
    pub(super) fn clip(bits: &[u32], c: u32) -> Option<u32> {
        let magnitudes: Vec<u32> = bits.iter().map(|b| magnitude(*b)).collect();
        let group = magnitudes.chunks(4096).map(chunk_exponent).max().unwrap_or(0);
        let (mut p, mut q) = (0i128, 0u128);
        for chunk in bits.chunks(4096) {
            let e = chunk_exponent(&chunk.iter().map(|b| magnitude(*b)).collect::<Vec<_>>());
            let d = group - e;
            let units = |b: &u32| counted(magnitude(*b), e, 512);
            let sign = |b: &u32| if *b >= 1 << 31 { -1 } else { 1 };
            let first: i128 = chunk.iter().map(|b| sign(b) * units(b) as i128).sum();
            let second: u128 = chunk.iter().map(|b| units(b) * units(b)).sum();
            p += first.div_euclid(1i128 << d.min(120));
            q += if d > 31 { 0 } else { second / (1 << (2 * d)) };
        }
        let n = bits.len() as u128;
        let mean = p.unsigned_abs() / n;
        let variance = (q / n).saturating_sub(mean * mean);
        let root = (variance << 32).isqrt();
        let sigma = truncated(Real::new(root, group as i32 - 141 - 16));
        match product(c, sigma) {
            0 => None,
            t => Some(t),
        }
    }

    // 8. Adaptive accumulation
    pub(super) fn addend(x: u32, w: u32) -> u32 {
        if magnitude(x) == 0 || magnitude(w) == 0 {
            return 0;
        }
        let p = (f32::from_bits(x) * f32::from_bits(w)).to_bits();
        if magnitude(p) == 0 { 0 } else { p }
    }

    pub(super) fn new_level(v: u32, s: u32, k: u32) -> i32 {
        if s == 0 || magnitude(v) == 0 {
            return 0;
        }
        let v_abs = value(magnitude(v));
        let times = |c: i32| Real::new(c as u128, 0).times(value(s));
        // Levels have eight bits at most; one more than the largest ends the search.
        let c = (0..=128).rev().find(|c| !v_abs.below(times(*c))).unwrap();
        // A remainder far below the scale cannot be held beside it; then compare without subtracting.
        let up = if c == 0 { drawn(s, k).below(v_abs) } else { drawn(s, k).below(v_abs.minus(times(c))) };
        let l = c + i32::from(up);
        if v >= 1 << 31 { -l } else { l }
    }
}

fn rng(purpose: u64) -> Rng {
    Rng::new(2024, purpose)
}

/// A magnitude: 0 or normal, in range.
fn magnitude(rng: &mut Rng) -> u32 {
    match rng.below(16) {
        0 => 0,
        1 => 0x1280_0000 - 3 + rng.below(6) as u32,
        2 => 0x7e7f_fffd + rng.below(3) as u32,
        3 => 0x0080_0000 + rng.below(4) as u32,
        _ => 0x0080_0000 + rng.below(0x7e00_0000) as u32,
    }
}

/// A number of a random width, below `2^bits`.
fn of_any_width(rng: &mut Rng, bits: u64) -> u64 {
    let bits = rng.below(bits);
    rng.below(1 << bits)
}

/// A magnitude near another, above or below.
fn near(rng: &mut Rng, s: u32) -> u32 {
    let by = of_any_width(rng, 29) as u32;
    let m = if rng.below(4) == 0 { s.saturating_add(by) } else { s.saturating_sub(by) };
    if (0x0080_0000..0x7e80_0000).contains(&m) { m } else { s }
}

#[test]
fn magnitudes() {
    let mut rng = rng(1);
    for _ in 0..100_000 {
        let bits = rng.word();
        assert_eq!(naive::magnitude(bits), float::magnitude(bits));
        assert_eq!(naive::out_of_range(naive::magnitude(bits)), float::out_of_range(float::magnitude(bits)));
    }
}

#[test]
fn draws() {
    let mut rng = rng(2);
    assert_eq!(naive::philox([0; 4], [0; 2], 10), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    for _ in 0..2000 {
        let (c, k) = ([rng.word(), rng.word(), rng.word(), rng.word()], [rng.word(), rng.word()]);
        for rounds in [7, 10] {
            assert_eq!(naive::philox(c, k, rounds), philox::philox4x32(c, k, rounds));
        }
        let (seed, step, micro_batch) = (rng.next(), rng.word(), rng.below(1 << 24) as u32);
        let (tensor, domain) = (rng.word(), rng.below(4) as u32);
        let place = naive::Place { seed, step, micro_batch, tensor, domain };
        let at = draw::Position { seed, step, micro_batch, tensor, domain };
        let group = rng.below(1 << 32);
        let all: Vec<u32> = (0..32).map(|e| naive::draw(&place, 32 * group + e)).collect();
        assert_eq!(all, draw::draws(&at, group as u32));
    }
}

#[test]
fn decisions() {
    let mut rng = rng(3);
    let mut kept = 0;
    for _ in 0..300_000 {
        let s = naive::stochastic_scale(magnitude(&mut rng));
        let m = if rng.below(2) == 0 { near(&mut rng, s.max(0x0080_0000)) } else { magnitude(&mut rng) };
        let k = rng.below(1 << 23) as u32;
        assert_eq!(naive::keep(m, s, k), trit::keep(m, s, k), "m {m:08x} s {s:08x} k {k}");
        kept += u32::from(trit::keep(m, s, k));
    }
    assert!((50_000..250_000).contains(&kept), "{kept}");
}

#[test]
fn scales() {
    let mut rng = rng(4);
    for _ in 0..30_000 {
        let (m, h) = (magnitude(&mut rng), magnitude(&mut rng));
        assert_eq!(naive::stochastic_scale(m), scale::stochastic_scale(m), "{m:08x}");
        for levels in [1, 7, 127] {
            assert_eq!(naive::level_scale(m, levels), scale::level_scale(m, levels), "{m:08x} {levels}");
        }
        // What was seen is a bf16.
        let seen = naive::stochastic_scale(m);
        let near_one = 0x3f80_0000 - (1 << 20) + rng.below(1 << 21) as u32;
        for h in [h, near_one, 0x3f80_0000] {
            assert_eq!(naive::window_scale(seen, h), scale::window_scale(seen, h), "{seen:08x} {h:08x}");
        }
    }
}

#[test]
fn products() {
    let mut rng = rng(5);
    for _ in 0..30_000 {
        let (a, b) = (magnitude(&mut rng), rng.below(0x7f80_0000) as u32);
        let b = if b < 0x0080_0000 { 0 } else { b };
        assert_eq!(naive::product(a, b), threshold::mul_trunc(a, b), "{a:08x} {b:08x}");
    }
}

#[test]
fn sums_and_means() {
    let mut rng = rng(6);
    for round in 0..3000 {
        let n = rng.pick(&[0, 1, 2, 3, 64, 65, 1000, 4096, 4097, 9000]);
        let n = if round % 50 == 0 { n } else { n.min(65) };
        let base = magnitude(&mut rng).max(0x0080_0000);
        let spread = round % 3;
        let values: Vec<u32> = (0..n)
            .map(|_| match spread {
                0 => magnitude(&mut rng),
                1 => near(&mut rng, base),
                _ => base,
            })
            .collect();
        let any = magnitude(&mut rng);
        let t = rng.pick(&[None, Some(0), Some(base), Some(any)]);
        let (got, want) = (threshold::Sum::of_group(&values, t), naive::sum(&values, t));
        assert_eq!(
            (u128::from(got.total), got.exponent, u128::from(got.count)),
            (want.total, want.exponent, want.count)
        );
        assert_eq!(got.mean(), want.mean(), "{got:?}");
        assert_eq!(got.mean_bf16(), want.mean_bf16(), "{got:?}");
    }
}

/// Means that lie on ties and on the edges of the range, which data seldom reach.
#[test]
fn means_of_any_sum() {
    let mut rng = rng(7);
    for _ in 0..100_000 {
        let count = 1 + of_any_width(&mut rng, 35);
        let odd = 2 * (128 + rng.below(128)) + 1;
        let total = match rng.below(3) {
            0 => odd * count,
            1 => of_any_width(&mut rng, 57),
            _ => (odd * count).wrapping_add(rng.below(3)).wrapping_sub(1),
        };
        let exponent = rng.pick(&[1, 2, 20, 21, 127, 200, 253]);
        // No mean is above the largest magnitude.
        let total = total.min(count.saturating_mul(1 << 20) - 1);
        let got = threshold::Sum { total, exponent, count };
        let want = naive::Sum { total: total.into(), exponent, count: count.into() };
        assert_eq!(got.mean(), want.mean(), "{got:?}");
        assert_eq!(got.mean_bf16(), want.mean_bf16(), "{got:?}");
    }
}

#[test]
fn clipping() {
    let mut rng = rng(8);
    let mut clipped = 0;
    for round in 0..2000 {
        let n = if round % 40 == 0 { 9000 } else { 1 + rng.below(200) as usize };
        let pattern =
            rng.pick(&[Pattern::Normal, Pattern::Outlier, Pattern::Grid, Pattern::Equal, Pattern::LogUniform]);
        let values: Vec<f32> = pattern.values(&mut rng, n);
        let bits: Vec<u32> =
            values.iter().map(|x| x.to_bits()).filter(|b| naive::magnitude(*b) < 0x7e80_0000).collect();
        if bits.is_empty() {
            continue;
        }
        let c = rng.pick(&[2.5f32, 1.0, 0.1, 1e-30, 1e30]).to_bits();
        let got = threshold::Moments::of_group(&bits).clip(c);
        assert_eq!(got, naive::clip(&bits, c), "{pattern:?} {n}");
        clipped += u32::from(got.is_some());
    }
    assert!(clipped > 1000, "{clipped}");
}

#[test]
fn levels() {
    let mut rng = rng(9);
    for _ in 0..100_000 {
        let levels = rng.pick(&[1u32, 7, 127]);
        let max = magnitude(&mut rng);
        let s = naive::level_scale(max, levels);
        let m = if max == 0 || rng.below(2) == 0 { max } else { near(&mut rng, max).min(max) };
        let v = m | (rng.word() & 0x8000_0000);
        let k = rng.below(1 << 23) as u32;
        assert_eq!(naive::new_level(v, s, k), level::round_level(v, s, k), "v {v:08x} s {s:08x} k {k}");
        let (x, w) = (rng.word(), rng.pick(&[1.0f32, 0.1, 1e-30, -3.0, 1e-40]).to_bits());
        let (got, want) = (level::weighted(x, w), naive::addend(x, w));
        assert!(got == want || (naive::magnitude(got) > 0x7f80_0000 && naive::magnitude(want) > 0x7f80_0000));
    }
}

/// Exact sums against integers: scales small enough that 128 bits hold everything.
#[test]
fn reductions() {
    let mut rng = rng(10);
    for _ in 0..2000 {
        let mut sum = reduce::ExactSum::default();
        let mut total = 0i128;
        for _ in 0..rng.below(20) {
            let (count, a, b) =
                (rng.below(201) as i64 - 100, 0x3f00 + rng.below(0x800) as u32, 0x3f00 + rng.below(0x800) as u32);
            sum.add_product(count, a << 16, b << 16);
            let part = |s: u32| (i128::from(s % 128 + 128), s / 128);
            let ((ma, ea), (mb, eb)) = (part(a), part(b));
            total += (i128::from(count) * ma * mb) << (ea + eb - 252);
        }
        // To nearest even: an integer as f64 is just that.
        let want = total as f64 * 2f64.powi(252 - 268);
        assert_eq!(sum.to_f64().to_bits(), want.to_bits(), "{total}");
    }
}

/// Whole tensors, straight from the page.
mod whole {
    use super::naive;
    use super::*;

    /// Elements that count, and the report.
    pub(super) fn ranged(bits: &[u32], first: u64) -> (Vec<u32>, Report) {
        let mut report = Report::default();
        let mut kept = Vec::new();
        for (i, b) in bits.iter().enumerate() {
            if naive::out_of_range(naive::magnitude(*b)) {
                report.non_finite += 1;
                report.first = report.first.or(Some(first + i as u64));
                kept.push(0);
            } else {
                kept.push(*b);
            }
        }
        (kept, report)
    }

    fn sign(b: u32) -> i32 {
        if b >= 1 << 31 { -1 } else { 1 }
    }

    pub(super) fn quantize(
        rule: Rule,
        size: usize,
        (tensor, first): (u32, u64),
        bits: &[u32],
    ) -> (Vec<i32>, Vec<u16>, Report) {
        let (bits, mut report) = ranged(bits, first);
        let (mut trits, mut scales) = (Vec::new(), Vec::new());
        for (g, group) in bits.chunks(size).enumerate() {
            let mut m: Vec<u32> = group.iter().map(|b| naive::magnitude(*b)).collect();
            match rule {
                Rule::Stochastic { draw, clip } => {
                    if let Some(t) = clip.and_then(|c| naive::clip(group, c.to_bits())) {
                        for m in m.iter_mut().filter(|m| **m > t) {
                            *m = t;
                            report.clipped += 1;
                        }
                    }
                    let s = naive::stochastic_scale(m.iter().copied().max().unwrap());
                    let Draw { seed, step, micro_batch } = draw;
                    let place = naive::Place { seed, step, micro_batch, tensor, domain: 0 };
                    for (i, (b, m)) in group.iter().zip(&m).enumerate() {
                        let k = naive::draw(&place, first + (g * size + i) as u64);
                        trits.push(if naive::keep(*m, s, k) { sign(*b) } else { 0 });
                    }
                    scales.push((s >> 16) as u16);
                }
                Rule::Threshold(threshold) => {
                    let t = match threshold {
                        Threshold::Given(t) => naive::magnitude(t.to_bits()),
                        Threshold::Mean(f) => {
                            naive::product(naive::magnitude(f.to_bits()), naive::sum(&m, None).mean())
                        }
                    };
                    trits.extend(group.iter().zip(&m).map(|(b, m)| if *m > t { sign(*b) } else { 0 }));
                    scales.push((naive::sum(&m, Some(t)).mean_bf16() >> 16) as u16);
                }
            }
        }
        (trits, scales, report)
    }

    /// Trits to planes (section 2).
    pub(super) fn planes(trits: &[i32]) -> Vec<u32> {
        let mut words = vec![0; trits.len().div_ceil(32) * 2];
        for (i, t) in trits.iter().enumerate() {
            match t {
                1 => words[i / 32 * 2] += 1 << (i % 32),
                -1 => words[i / 32 * 2 + 1] += 1 << (i % 32),
                _ => {}
            }
        }
        words
    }

    /// Fields in two's complement (section 2); planes at 2 bits.
    pub(super) fn fields(levels: &[i32], bits: u32) -> Vec<u32> {
        if bits == 2 {
            return planes(levels);
        }
        let (mut words, per) = (vec![0u32; levels.len().div_ceil(32) * bits as usize], 32 / bits as usize);
        for (i, l) in levels.iter().enumerate() {
            let code = l.rem_euclid(1 << bits) as u32;
            words[i / per] += code << (bits as usize * (i % per));
        }
        words
    }
}

#[test]
fn quantized_tensors() {
    let mut rng = rng(11);
    for round in 0..600 {
        let pattern = Pattern::cycle(round);
        let n = rng.pick(&[0, 1, 31, 33, 64, 100, 257]);
        let x: Vec<f32> = pattern.values(&mut rng, n);
        let bits: Vec<u32> = x.iter().map(|x| x.to_bits()).collect();
        let draw = Draw::new(rng.next(), rng.word()).micro_batch(rng.below(1 << 24) as u32);
        let rule = match round % 6 {
            0 | 1 => Rule::Stochastic { draw, clip: None },
            2 => Rule::Stochastic { draw, clip: Some(2.5) },
            3 => Rule::Threshold(Threshold::TWN),
            4 => Rule::Threshold(Threshold::Mean(rng.unit() as f32 * 2.0)),
            _ => Rule::Threshold(Threshold::Given(rng.unit() as f32 * 1e-3)),
        };
        for (grouping, size) in [(Grouping::Block(block(32)), 32), (Grouping::Tensor, n.max(1))] {
            let first = 32 * rng.below(1 << 32) / 64;
            let first = first / 32 * 32;
            let (packed, report) = common::quantize(&Quantize { grouping, rule }, (9, first), &x);
            let (trits, scales, found) = whole::quantize(rule, size, (9, first), &bits);
            let what = format!("{pattern:?} {n} {rule:?} {grouping:?}");
            assert_eq!(packed.scales, scales, "{what}");
            assert_eq!(packed.words, whole::planes(&trits), "{what}");
            assert_eq!(report, found, "{what}");
        }
    }
}

#[test]
fn accumulated_tensors() {
    let mut rng = rng(12);
    for round in 0..150 {
        let n = rng.pick(&[1, 33, 64, 100, 130]);
        for bits in [2, 4, 8] {
            let (mut l, mut s) = (vec![0i32; n], vec![0u16; n.div_ceil(64)]);
            let mut state = State::zero(n, bits, block(64));
            for micro_batch in 0..3 {
                let x: Vec<f32> = Pattern::cycle(round + micro_batch as usize).values(&mut rng, n);
                let weight = rng.pick(&[1.0f32, 1.0 / 3.0, -2.5, 0.0]);
                let draw = Draw::new(rng.next(), 3).micro_batch(micro_batch);
                let report =
                    common::adaptive(&Adaptive { bits, block: block(64), draw, weight }, (2, 64), &x, &mut state);
                let place = naive::Place { seed: draw.seed, step: 3, micro_batch, tensor: 2, domain: 1 };
                let mut found = Report::default();
                for (b, s) in s.iter_mut().enumerate() {
                    let range = 64 * b..(64 * b + 64).min(n);
                    let old = f32::from_bits(u32::from(*s) << 16);
                    let sums: Vec<u32> = range
                        .clone()
                        .map(|i| {
                            let p = naive::addend(x[i].to_bits(), weight.to_bits());
                            let before = l[i] as f32 * old;
                            let v = (before + f32::from_bits(p)).to_bits();
                            if [p, v].iter().any(|b| naive::out_of_range(naive::magnitude(*b))) {
                                found.non_finite += 1;
                                found.first = found.first.or(Some(64 + i as u64));
                                before.to_bits()
                            } else {
                                v
                            }
                        })
                        .collect();
                    let max = sums.iter().map(|v| naive::magnitude(*v)).max().unwrap();
                    let new = naive::level_scale(max, (1 << (bits - 1)) - 1);
                    for (i, v) in range.zip(sums) {
                        l[i] = naive::new_level(v, new, naive::draw(&place, 64 + i as u64));
                    }
                    *s = (new >> 16) as u16;
                }
                let what = format!("{bits} bits, round {round}, micro-batch {micro_batch}");
                assert_eq!(state.scales, s, "{what}");
                assert_eq!(state.levels, whole::fields(&l, bits), "{what}");
                assert_eq!(report, found, "{what}");
            }
        }
    }
}

#[test]
fn counted_tensors() {
    let mut rng = rng(13);
    for round in 0..200 {
        let n = rng.pick(&[1, 33, 64, 100, 130]);
        let bits = rng.pick(&[4, 8, 16]);
        let mut state = State::zero(n, bits, block(64));
        for s in &mut state.scales {
            *s = rng.pick(&[0, 0x3f80, 0x3a83, 0x0f00, 0x7e80]);
        }
        let (mut counts, mut seen) = (vec![0i32; n], vec![0u32; n.div_ceil(64)]);
        for held in 0..3 {
            let x: Vec<f32> = Pattern::cycle(round + held as usize).values(&mut rng, n);
            let weight = rng.pick(&[1.0f32, 1.0 / 3.0, -2.5, 0.0]);
            let draw = Draw::new(rng.next(), 4).micro_batch(held);
            let op = Exact { bits, block: block(64), draw, weight, held };
            let report = common::exact(&op, (1, 0), &x, &mut state);
            let place = naive::Place { seed: draw.seed, step: 4, micro_batch: held, tensor: 1, domain: 0 };
            let p: Vec<u32> = x.iter().map(|x| naive::addend(x.to_f32_bits(), weight.to_bits())).collect();
            let (p, mut found) = whole::ranged(&p, 0);
            for (i, p) in p.iter().enumerate() {
                let (m, s) = (naive::magnitude(*p), u32::from(state.scales[i / 64]) << 16);
                if naive::keep(m, s, naive::draw(&place, i as u64)) {
                    counts[i] += if *p >= 1 << 31 { -1 } else { 1 };
                }
                found.clipped += u64::from(naive::value(s).compare(naive::value(m)) == Ordering::Less);
                seen[i / 64] = seen[i / 64].max(naive::stochastic_scale(m));
            }
            assert_eq!(report, found);
            assert_eq!(state.levels, whole::fields(&counts, bits));
            assert!(state.seen.iter().zip(&seen).all(|(a, b)| u32::from(*a) << 16 == *b));
        }
    }
}
