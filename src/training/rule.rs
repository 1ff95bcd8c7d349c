//! What an optimizer does with a gradient: SGD or AdamW, and their numbers.

use crate::error::{Error, Result};
use crate::numerics::update::{AdamWTerms, SgdTerms};

/// SGD: `d = g + weight_decay w`, `b = momentum b + d`, `w = w - learning_rate b` (Nesterov: `d + momentum b`). It is
/// PyTorch's with dampening 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// The learning rate.
    pub learning_rate: f64,
    /// Momentum; 0 for none, and then there is no buffer for it.
    pub momentum: f64,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
    /// Nesterov momentum.
    pub nesterov: bool,
}

impl Default for Sgd {
    /// A rate of 0.01 and nothing else.
    fn default() -> Self {
        Sgd { learning_rate: 0.01, momentum: 0.0, weight_decay: 0.0, nesterov: false }
    }
}

/// AdamW (Loshchilov and Hutter, 2019), candle's operation by operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment: a normal f32 above 0.
    pub eps: f64,
    /// Weight decay, times the rate.
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// 0.001, 0.9, 0.999, 1e-8 and a decay of 0.01: candle's and PyTorch's.
    fn default() -> Self {
        AdamW { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// What is done with a gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// SGD.
    Sgd(Sgd),
    /// AdamW.
    AdamW(AdamW),
}

impl Rule {
    /// Buffers a tensor.
    pub(super) fn buffers(&self) -> usize {
        match self {
            Rule::Sgd(sgd) => usize::from(sgd.momentum as f32 != 0.0),
            Rule::AdamW(_) => 2,
        }
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Rule::Sgd(_) => "sgd",
            Rule::AdamW(_) => "adamw",
        }
    }

    /// The learning rate.
    #[must_use]
    pub const fn learning_rate(&self) -> f64 {
        match self {
            Rule::Sgd(sgd) => sgd.learning_rate,
            Rule::AdamW(adamw) => adamw.learning_rate,
        }
    }

    /// The same with another learning rate.
    #[must_use]
    pub const fn with_learning_rate(self, learning_rate: f64) -> Self {
        match self {
            Rule::Sgd(sgd) => Rule::Sgd(Sgd { learning_rate, ..sgd }),
            Rule::AdamW(adamw) => Rule::AdamW(AdamW { learning_rate, ..adamw }),
        }
    }

    /// The weight decay.
    #[must_use]
    pub const fn weight_decay(&self) -> f64 {
        match self {
            Rule::Sgd(sgd) => sgd.weight_decay,
            Rule::AdamW(adamw) => adamw.weight_decay,
        }
    }

    /// The same with another weight decay.
    #[must_use]
    pub const fn with_weight_decay(self, weight_decay: f64) -> Self {
        match self {
            Rule::Sgd(sgd) => Rule::Sgd(Sgd { weight_decay, ..sgd }),
            Rule::AdamW(adamw) => Rule::AdamW(AdamW { weight_decay, ..adamw }),
        }
    }

    /// Checks the numbers, in f32, in which they are used.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`].
    pub fn validate(&self) -> Result<()> {
        match self {
            Rule::Sgd(sgd) => {
                at_least_zero("learning rate", sgd.learning_rate)?;
                at_least_zero("momentum", sgd.momentum)?;
                at_least_zero("weight decay", sgd.weight_decay)?;
                if sgd.nesterov && sgd.momentum as f32 == 0.0 {
                    let requirement = "above 0 with Nesterov";
                    return Err(Error::Parameter { name: "momentum", got: sgd.momentum, requirement });
                }
                Ok(())
            }
            Rule::AdamW(adamw) => {
                at_least_zero("learning rate", adamw.learning_rate)?;
                at_least_zero("weight decay", adamw.weight_decay)?;
                if !((adamw.eps as f32).is_normal() && adamw.eps > 0.0) {
                    let requirement = "above 0, a normal number in f32 (1.2e-38 and above)";
                    return Err(Error::Parameter { name: "eps", got: adamw.eps, requirement });
                }
                for (name, beta) in [("beta 1", adamw.beta1), ("beta 2", adamw.beta2)] {
                    if !((0.0..1.0).contains(&beta) && (beta as f32) < 1.0) {
                        let requirement = "at least 0 and below 1, in f32 too";
                        return Err(Error::Parameter { name, got: beta, requirement });
                    }
                }
                crate::op::finite("1 - learning rate times weight decay", self.adamw_keep())
            }
        }
    }

    fn adamw_keep(&self) -> f32 {
        match self {
            Rule::AdamW(p) => (1.0 - p.learning_rate * p.weight_decay) as f32,
            Rule::Sgd(_) => 1.0,
        }
    }

    /// The terms of the update after `updates` others.
    pub(super) fn terms(&self, updates: u32) -> Terms {
        match self {
            Rule::Sgd(p) => Terms::Sgd(
                SgdTerms {
                    learning_rate: p.learning_rate as f32,
                    momentum: p.momentum as f32,
                    weight_decay: p.weight_decay as f32,
                },
                p.nesterov,
            ),
            Rule::AdamW(p) => {
                let (betas, t) = ((p.beta1, p.beta2), updates.saturating_add(1));
                Terms::AdamW(AdamWTerms::new(p.learning_rate, betas, p.eps, p.weight_decay, t))
            }
        }
    }
}

/// What every element of an update shares.
#[derive(Clone, Copy)]
pub(super) enum Terms {
    Sgd(SgdTerms, bool),
    AdamW(AdamWTerms),
}

pub(super) fn at_least_zero(name: &'static str, got: f64) -> Result<()> {
    if got >= 0.0 && (got as f32).is_finite() {
        return Ok(());
    }
    Err(Error::Parameter { name, got, requirement: "finite and at least 0" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked_in_the_type_they_are_used_in() {
        let adam = |f: fn(&mut AdamW)| {
            let mut p = AdamW::default();
            f(&mut p);
            Rule::AdamW(p).validate()
        };
        assert!(adam(|_| {}).is_ok());
        for bad in [
            (|p| p.eps = 1e-50) as fn(&mut AdamW),
            |p| p.eps = 0.0,
            |p| p.eps = 1e39,
            |p| p.beta1 = 1.0,
            |p| p.beta2 = 1.0 - 1e-12,
            |p| p.beta1 = f64::NAN,
            |p| p.learning_rate = f64::NAN,
            |p| p.learning_rate = -1.0,
            |p| p.learning_rate = 1e39,
            |p| (p.learning_rate, p.weight_decay) = (1e30, 1e30),
        ] {
            assert!(adam(bad).is_err());
        }
        let sgd = |momentum, nesterov| Rule::Sgd(Sgd { momentum, nesterov, ..Sgd::default() });
        assert!(sgd(0.9, true).validate().is_ok() && sgd(0.0, false).validate().is_ok());
        assert!(sgd(0.0, true).validate().is_err() && sgd(1e-50, true).validate().is_err());
        assert_eq!([sgd(0.0, false), sgd(1e-50, false), sgd(0.9, false)].map(|r| r.buffers()), [0, 0, 1]);
    }
}
