//! The page by itself: nothing of the library is used in here.

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

/// The smallest power of two of which 2^21 cover the product.
pub(super) fn fine_scale(max: u32, headroom: u32) -> u32 {
    let product = truncated(value(max).times(value(headroom))).min(0x7e80_0000);
    if value(product).below(Real::new(1, -90)) {
        return 0;
    }
    let covers = |e: &u32| !Real::new(1 << 21, 0).times(value(e << 23)).below(value(product));
    (1..255).find(covers).unwrap() << 23
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

/// Sums in f32: `None` where the sum stays and the element is reported.
pub(super) fn sum_in_f32(sum: u32, p: u32) -> Option<u32> {
    let v = (f32::from_bits(sum) + f32::from_bits(p)).to_bits();
    let fits = |b: &u32| !out_of_range(magnitude(*b));
    [p, v].iter().all(fits).then(|| if magnitude(v) == 0 { 0 } else { v })
}

// 9. Exact counts
/// The fine levels that `p` adds, and whether it was cut: the number whose multiple of `q` is nearest, ties to even.
pub(super) fn fine_level(p: u32, q: u32) -> (i32, bool) {
    let (m, limit) = (value(magnitude(p)), 1 << 21);
    if q == 0 {
        return (0, magnitude(p) != 0);
    }
    let times = |halves: u128| Real::new(halves, -1).times(value(q));
    let cut = times(2 * limit).below(m);
    // The smallest count with `m` not above half way to the next.
    let (mut low, mut high) = (0, limit);
    while low < high {
        let mid = low.midpoint(high);
        let up = match m.compare(times(2 * mid + 1)) {
            Ordering::Less => false,
            Ordering::Equal => mid % 2 == 1,
            Ordering::Greater => true,
        };
        if up { low = mid + 1 } else { high = mid }
    }
    let l = low as i32;
    (if p >= 1 << 31 { -l } else { l }, cut)
}

// 10. Read-out and dequantize
/// `l s f` over the reals, rounded once; what no f32 holds becomes the largest.
pub(super) fn read_out(l: i32, s: u32, factor: f32) -> u32 {
    let level = l as f32; // rounded to f32 where it has more than 24 bits
    let sign = (level * factor).to_bits() & 0x8000_0000;
    let part = |x: f32| {
        let (m, e) = (x.to_bits() % (1 << 31) % (1 << 23), (x.to_bits() % (1 << 31)) >> 23);
        if e == 0 { Real::new(m.into(), -149) } else { Real::new((m + (1 << 23)).into(), e as i32 - 150) }
    };
    let product = part(level).times(part(f32::from_bits(s))).times(part(factor));
    if product.mantissa == 0 {
        return sign;
    }
    // The nearest pattern, a subnormal as well; patterns of magnitudes order like the magnitudes.
    let real = |pattern: u32| part(f32::from_bits(pattern));
    let down = largest(0, 0x7f7f_ffff, 1, |pattern| !product.below(real(pattern)));
    if down == 0x7f7f_ffff {
        return sign | down;
    }
    let (a, b) = (real(down), real(down + 1));
    let exponent = a.exponent.min(b.exponent) - 1;
    let at = |r: Real| r.mantissa << (r.exponent - exponent);
    let half = Real::new(at(a).midpoint(at(b)), exponent);
    sign | match product.compare(half) {
        Ordering::Less => down,
        Ordering::Equal => down + down % 2,
        Ordering::Greater => down + 1,
    }
}
