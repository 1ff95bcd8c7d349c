//! Gradients that are hard to get right, from a seed.

use crate::op::{Element, ElementType};

/// SplitMix64 (Steele, Lea, Flood, 2014): test data only; it shares nothing with the library's draws.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for a seed and a purpose within it.
    #[must_use]
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut rng = Rng(seed ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        rng.next();
        rng
    }

    /// 64 random bits.
    #[expect(clippy::should_implement_trait, reason = "an endless generator, not an iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 32 random bits.
    pub fn word(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// An integer below `n` (0 for `n = 0`).
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// One of these; the slice is not empty.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Nearly Gaussian, mean 0 and variance 1: twelve uniforms, so the same everywhere, with no library function.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// What a tensor of test values looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pattern {
    /// Nearly Gaussian around 0.
    Normal,
    /// Random sign, exponent and mantissa over the whole range of the type.
    LogUniform,
    /// Any bits at all.
    AnyBits,
    /// Subnormals of the type.
    Subnormal,
    /// +0 and -0, and now and then a small number.
    SignedZeros,
    /// Gaussian with NaN payloads, infinities and out-of-range values strewn in.
    Strewn,
    /// NaN and infinities only.
    NonFinite,
    /// Around 2^126 on both sides.
    RangeEdge,
    /// The largest finite numbers of the type.
    Largest,
    /// The largest numbers in range, which overflow when summed.
    LargestInRange,
    /// One value, both signs.
    Equal,
    /// Gaussian and one value a million times larger.
    Outlier,
    /// All +0.
    Zero,
    /// `a, -a, a, -a`.
    Alternating,
    /// Around 2^-90 and 2^-126 on both sides.
    ZeroEdge,
    /// Small integers times a power of two: sums and quotients fall on grid points and ties.
    Grid,
    /// One nonzero value, the last.
    Last,
}

impl Pattern {
    /// Every pattern.
    pub const ALL: [Pattern; 17] = [
        Pattern::Normal,
        Pattern::LogUniform,
        Pattern::AnyBits,
        Pattern::Subnormal,
        Pattern::SignedZeros,
        Pattern::Strewn,
        Pattern::NonFinite,
        Pattern::RangeEdge,
        Pattern::Largest,
        Pattern::LargestInRange,
        Pattern::Equal,
        Pattern::Outlier,
        Pattern::Zero,
        Pattern::Alternating,
        Pattern::ZeroEdge,
        Pattern::Grid,
        Pattern::Last,
    ];

    /// The pattern after this one, `by` further.
    #[must_use]
    pub fn cycle(number: usize) -> Pattern {
        Pattern::ALL[number % Pattern::ALL.len()]
    }

    /// `n` values.
    #[must_use]
    pub fn values<T: Element>(self, rng: &mut Rng, n: usize) -> Vec<T> {
        let shape = Shape::of(T::TYPE);
        let base = normal(rng, 1.0);
        let place = rng.below(n as u64) as usize;
        (0..n).map(|i| self.value(&shape, rng, (i, n), (base, place))).collect()
    }

    fn value<T: Element>(self, f: &Shape, rng: &mut Rng, (i, n): (usize, usize), (base, place): (f32, usize)) -> T {
        let sign = (rng.word() & 1) << f.sign;
        let from = |x: f32| T::from_f32_bits(x.to_bits());
        match self {
            Pattern::Normal => from(normal(rng, 1e-3)),
            Pattern::LogUniform => raw(sign | rng.below(u64::from(f.infinity)) as u32),
            Pattern::AnyBits => raw(rng.word()),
            Pattern::Subnormal => raw(sign | rng.below(1 << f.mantissa) as u32),
            Pattern::SignedZeros => raw(if rng.below(16) == 0 { sign | f.one } else { sign }),
            Pattern::Strewn => match rng.below(12) {
                0 => raw(sign | f.infinity | rng.word() & f.mantissa_mask()),
                1 => raw(sign | rng.pick(&[f.infinity, f.limit, f.infinity - 1, f.infinity + 1])),
                _ => from(normal(rng, 1e-3)),
            },
            Pattern::NonFinite => {
                raw(sign | f.infinity | if rng.below(2) == 0 { rng.word() & f.mantissa_mask() } else { 0 })
            }
            Pattern::RangeEdge => raw(sign | (f.limit - 3 + rng.below(6) as u32)),
            Pattern::Largest => raw(sign | (f.infinity - 1 - rng.below(3) as u32)),
            Pattern::LargestInRange => raw(sign | (f.limit - 1 - rng.below(3) as u32)),
            Pattern::Equal => from(if sign == 0 { base } else { -base }),
            Pattern::Outlier => from(normal(rng, 1e-3) * if i == place { 1e6 } else { 1.0 }),
            Pattern::Zero => raw(0),
            Pattern::Alternating => from(if i % 2 == 0 { base } else { -base }),
            Pattern::ZeroEdge => match T::TYPE {
                ElementType::F16 => raw(sign | rng.below(4 << f.mantissa) as u32),
                _ => {
                    let edge = rng.pick(&f.zero_edges);
                    raw(sign | (edge - 2 + rng.below(5) as u32))
                }
            },
            Pattern::Grid => from((rng.below(15) as f32 - 7.0) / 64.0),
            Pattern::Last => raw(if i + 1 == n { sign | f.one } else { 0 }),
        }
    }
}

fn normal(rng: &mut Rng, sigma: f64) -> f32 {
    (rng.normal() * sigma) as f32
}

/// A value with these bits in its own format, as many as it has.
#[must_use]
pub fn raw<T: Element>(bits: u32) -> T {
    match T::TYPE {
        ElementType::F32 => bytemuck::pod_read_unaligned(&bits.to_ne_bytes()),
        ElementType::F16 | ElementType::Bf16 => bytemuck::pod_read_unaligned(&(bits as u16).to_ne_bytes()),
    }
}

/// Bits of a format.
struct Shape {
    /// The sign's bit.
    sign: u32,
    /// Bits of the mantissa.
    mantissa: u32,
    /// +Inf.
    infinity: u32,
    /// The smallest magnitude out of range.
    limit: u32,
    /// 1.0.
    one: u32,
    /// 2^-90 and 2^-126.
    zero_edges: [u32; 2],
}

impl Shape {
    fn of(element: ElementType) -> Shape {
        match element {
            ElementType::F32 => Shape {
                sign: 31,
                mantissa: 23,
                infinity: 0x7f80_0000,
                limit: 0x7e80_0000,
                one: 0x3f80_0000,
                zero_edges: [0x1280_0000, 0x0080_0000],
            },
            ElementType::F16 => Shape {
                sign: 15,
                mantissa: 10,
                infinity: 0x7c00,
                limit: 0x7c00,
                one: 0x3c00,
                zero_edges: [0x0400, 0x0400],
            },
            ElementType::Bf16 => Shape {
                sign: 15,
                mantissa: 7,
                infinity: 0x7f80,
                limit: 0x7e80,
                one: 0x3f80,
                zero_edges: [0x1280, 0x0080],
            },
        }
    }

    fn mantissa_mask(&self) -> u32 {
        (1 << self.mantissa) - 1
    }
}
