//! Weight updates: SGD and AdamW on a gradient read out of levels and scales, in f32 operations of a stated order.
//!
//! Every `+ - * /` and square root below is one IEEE f32 operation, rounded to nearest even, subnormals kept; nothing
//! is contracted into a fused multiply-add. WGSL promises neither exact division nor exact roots, so there both are
//! computed in integers, with these bits.
//!
//! Terms that are the same for every element are computed once, on the host, in f64 and rounded to f32: these, and
//! not the parameters, are what a kernel gets.

use super::state::State;

/// What every element of an SGD step shares.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SgdTerms {
    /// The learning rate.
    pub learning_rate: f32,
    /// What the momentum buffer is multiplied by.
    pub momentum: f32,
    /// Weight decay, added to the gradient; not applied where 0.
    pub weight_decay: f32,
}

/// One element of SGD: the new weight and the new momentum.
///
/// With `d = g + (weight_decay w)` (`d = g` without decay) and `b' = (momentum b) + d`: `w' = w - (learning_rate n)`,
/// where `n = b'`, or `d + (momentum b')` with Nesterov. Without momentum `n = d`; `b` is then unused.
/// As in PyTorch's SGD with dampening 0; without momentum as in candle's.
#[inline(always)]
pub fn sgd(terms: &SgdTerms, nesterov: bool, g: f32, w: f32, b: f32) -> (f32, f32) {
    let d = if terms.weight_decay == 0.0 { g } else { g + terms.weight_decay * w };
    if terms.momentum == 0.0 {
        return (w - terms.learning_rate * d, b);
    }
    let b = terms.momentum * b + d;
    let n = if nesterov { d + terms.momentum * b } else { b };
    (w - terms.learning_rate * n, b)
}

/// What every element of an AdamW step shares.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct AdamWTerms {
    /// The learning rate.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// `1 - beta1`.
    pub rest1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// `1 - beta2`.
    pub rest2: f32,
    /// `1 / (1 - beta1^t)`.
    pub correct1: f32,
    /// `1 / (1 - beta2^t)`.
    pub correct2: f32,
    /// Added to the root.
    pub eps: f32,
    /// `1 - learning_rate weight_decay`: what the weight is multiplied by.
    pub keep: f32,
}

impl AdamWTerms {
    /// The terms of step `t`, the first being 1, from f64 parameters, each rounded once to f32.
    #[must_use]
    pub fn new(learning_rate: f64, betas: (f64, f64), eps: f64, weight_decay: f64, t: u32) -> Self {
        let (beta1, beta2) = betas;
        AdamWTerms {
            learning_rate: learning_rate as f32,
            beta1: beta1 as f32,
            rest1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            rest2: (1.0 - beta2) as f32,
            correct1: (1.0 / (1.0 - power(beta1, t))) as f32,
            correct2: (1.0 / (1.0 - power(beta2, t))) as f32,
            eps: eps as f32,
            keep: (1.0 - learning_rate * weight_decay) as f32,
        }
    }
}

impl SgdTerms {
    /// The same under a state: `learning_rate` is a share of the state's rate.
    #[must_use]
    pub fn under(self, state: &State) -> Self {
        SgdTerms { learning_rate: state.rate * self.learning_rate, ..self }
    }
}

impl AdamWTerms {
    /// The same under a state, whose corrections they take. `learning_rate` is a share of the state's rate, and `keep`
    /// that of a rate of 1: `1 - (rate (1 - keep))`.
    ///
    /// # Examples
    ///
    /// ```
    /// use trigrad::numerics::{state::State, update::AdamWTerms};
    /// // Half the state's rate, and a decay of 0.5.
    /// let terms = AdamWTerms::new(0.5, (0.9, 0.999), 1e-8, 0.5, 1);
    /// let under = terms.under(&State { correct1: 2.0, ..State::new(0.25, 1.0) });
    /// assert_eq!((under.learning_rate, under.keep, under.correct1), (0.125, 1.0 - 0.25 * 0.25, 2.0));
    /// ```
    #[must_use]
    pub fn under(self, state: &State) -> Self {
        AdamWTerms {
            learning_rate: state.rate * self.learning_rate,
            keep: 1.0 - state.rate * (1.0 - self.keep),
            correct1: state.correct1,
            correct2: state.correct2,
            ..self
        }
    }
}

/// `x^n` by squaring, each product rounded to f64: written out so that it is the same on every host.
#[must_use]
pub fn power(x: f64, mut n: u32) -> f64 {
    let (mut square, mut product) = (x, 1.0);
    while n > 0 {
        if n & 1 == 1 {
            product *= square;
        }
        square *= square;
        n >>= 1;
    }
    product
}

/// One element of AdamW (Loshchilov and Hutter, 2019), in candle's order of operations: the new weight and moments.
///
/// `m' = (m beta1) + (g rest1)`, `v' = (v beta2) + ((g g) rest2)`,
/// `w' = (w keep) - ((m' correct1) / (sqrt(v' correct2) + eps)) learning_rate`.
#[inline(always)]
pub fn adamw(terms: &AdamWTerms, g: f32, w: f32, m: f32, v: f32) -> (f32, f32, f32) {
    let m = m * terms.beta1 + g * terms.rest1;
    let v = v * terms.beta2 + (g * g) * terms.rest2;
    let adjusted = (m * terms.correct1) / ((v * terms.correct2).sqrt() + terms.eps);
    (w * terms.keep - adjusted * terms.learning_rate, m, v)
}

/// An f32 rounded stochastically to bf16: up in magnitude if `floor(k / 128)`, the upper 16 bits of the draw, is below the 16
/// bits that are dropped; so `P(up) = dropped / 2^16`, exactly. Inf stays, NaN becomes a quiet NaN, and what lies
/// above the largest bf16 may become Inf.
///
/// `k` below 2^23.
///
/// # Examples
///
/// ```
/// use trigrad::numerics::update::to_bf16;
/// assert_eq!(to_bf16(0x3f80_0000, 0), 0x3f80);             // on the grid: no draw can move it
/// assert_eq!(to_bf16(0x3f80_4000, 0x3fff << 7), 0x3f81);   // up for the quarter of draws below 0x4000
/// assert_eq!(to_bf16(0x3f80_4000, 0x4000 << 7), 0x3f80);
/// ```
#[inline(always)]
pub const fn to_bf16(bits: u32, k: u32) -> u16 {
    if bits & 0x7f80_0000 == 0x7f80_0000 {
        let quiet = if bits & 0x007f_ffff != 0 { 0x40 } else { 0 };
        return (bits >> 16) as u16 | quiet;
    }
    let up = (k >> 7) < (bits & 0xffff);
    ((bits >> 16) + up as u32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every factor is another power of two or small number, so that no operation can take another's place.
    #[test]
    fn steps_by_hand() {
        let terms = AdamWTerms {
            learning_rate: 2.0,
            beta1: 0.5,
            rest1: 0.25,
            beta2: 0.5,
            rest2: 0.75,
            correct1: 3.0,
            correct2: 4.0,
            eps: 4.0,
            keep: 0.5,
        };
        // m' = 1 + 1, v' = 4 + 12, 6 / (8 + 4) = 0.5, w' = 5 - 1.
        assert_eq!(adamw(&terms, 4.0, 10.0, 2.0, 8.0), (4.0, 2.0, 16.0));
        let decay = SgdTerms { learning_rate: 0.5, momentum: 0.0, weight_decay: 0.25 };
        assert_eq!(sgd(&decay, false, 1.0, 8.0, 7.0), (6.5, 7.0));
    }

    #[test]
    fn bf16_rounding_has_the_exact_share_of_draws() {
        for bits in [0x3f80_0000u32, 0x3f80_0001, 0xbf80_8000, 0x3fff_ffff, 0x0000_1234, 0x7f7f_0100, 0x8000_ffff] {
            let ups = (0..1u32 << 16).filter(|k| u32::from(to_bf16(bits, k << 7)) != bits >> 16).count();
            assert_eq!(ups as u32, bits & 0xffff, "{bits:08x}");
            assert_eq!(to_bf16(bits, (1 << 23) - 1), to_bf16(bits, 0xffff << 7), "the low 7 bits do not matter");
        }
        assert_eq!(to_bf16(0x7f80_0000, 0), 0x7f80);
        assert_eq!(to_bf16(0x7f80_0001, 0), 0x7fc0);
        assert_eq!([0x7fc0_0000, 0xffc1_ffff].map(|nan| to_bf16(nan, 0)), [0x7fc0, 0xffc1], "a quiet NaN stays one");
    }

    #[test]
    fn powers_by_squaring() {
        assert_eq!(power(0.9, 0), 1.0);
        assert_eq!(power(2.0, 10), 1024.0);
        assert!((power(0.999, 1000) / 0.999f64.powf(1000.0) - 1.0).abs() < 1e-13);
    }

    #[test]
    fn adamw_first_step_moves_by_the_learning_rate() {
        let terms = AdamWTerms::new(1e-3, (0.9, 0.999), 1e-8, 0.0, 1);
        let (w, m, v) = adamw(&terms, -0.25, 1.0, 0.0, 0.0);
        assert!((w - 1.001).abs() < 1e-6 && (m + 0.025).abs() < 1e-8 && (v - 6.25e-5).abs() < 1e-9);
    }

    #[test]
    fn sgd_by_hand() {
        let terms = SgdTerms { learning_rate: 0.5, momentum: 0.0, weight_decay: 0.0 };
        assert_eq!(sgd(&terms, false, 2.0, 1.0, 7.0), (0.0, 7.0));
        let terms = SgdTerms { learning_rate: 0.5, momentum: 0.5, weight_decay: 0.25 };
        // d = 2.25, b' = 4.25
        assert_eq!(sgd(&terms, false, 2.0, 1.0, 4.0), (1.0 - 2.125, 4.25));
        assert_eq!(sgd(&terms, true, 2.0, 1.0, 4.0), (1.0 - 0.5 * (2.25 + 2.125), 4.25));
    }
}
