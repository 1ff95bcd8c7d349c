//! Optimizers that read levels and scales straight into the weight update: their rule, and their moments.

use super::Training;
use crate::accumulator::Spec;
use crate::error::{Error, Result};
use crate::numerics::update::{AdamWTerms, SgdTerms};
use crate::op::Backend;

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

fn at_least_zero(name: &'static str, got: f64) -> Result<()> {
    if got >= 0.0 && (got as f32).is_finite() {
        return Ok(());
    }
    Err(Error::Parameter { name, got, requirement: "finite and at least 0" })
}

/// Plain SGD, with momentum, or AdamW, in place on the weights of a model: no dense gradient ever exists. Moments are
/// f32, on the backend of the [`Training`] it was made for, which alone it steps.
pub struct Optimizer<B: Backend> {
    rule: Rule,
    /// Updates made.
    pub(super) updates: u32,
    /// The tensors it was made for.
    specs: Vec<Spec>,
    /// Buffers of each tensor: none, the momentum, or the first and second moment.
    pub(super) moments: Vec<Vec<B::Buffer<f32>>>,
    /// What an update found, one slot a tensor.
    pub(super) found: B::Reports,
}

impl<B: Backend> std::fmt::Debug for Optimizer<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Optimizer")
            .field("rule", &self.rule)
            .field("updates", &self.updates)
            .field("tensors", &self.specs.len())
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Optimizer<B> {
    /// SGD for the tensors of a training.
    ///
    /// # Errors
    ///
    /// As for [`Rule::validate`]; [`Error::OutOfMemory`].
    pub fn sgd(training: &Training<B>, sgd: Sgd) -> Result<Self> {
        Self::new(training, Rule::Sgd(sgd))
    }

    /// AdamW for the tensors of a training.
    ///
    /// # Errors
    ///
    /// As for [`sgd`](Self::sgd).
    pub fn adamw(training: &Training<B>, adamw: AdamW) -> Result<Self> {
        Self::new(training, Rule::AdamW(adamw))
    }

    /// Any rule for the tensors of a training.
    ///
    /// # Errors
    ///
    /// As for [`sgd`](Self::sgd).
    pub fn new(training: &Training<B>, rule: Rule) -> Result<Self> {
        rule.validate()?;
        let backend = training.backend();
        let moments = |spec: &Spec| {
            let make = || (0..rule.buffers()).map(|_| backend.zeros(spec.elements()?)).collect::<Result<Vec<_>>>();
            make().map_err(|e| e.in_tensor(&*spec.name))
        };
        let specs = training.specs().to_vec();
        Ok(Optimizer {
            rule,
            updates: 0,
            moments: specs.iter().map(moments).collect::<Result<_>>()?,
            found: backend.reports(specs.len())?,
            specs,
        })
    }

    /// What is done with a gradient.
    #[must_use]
    pub const fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Sets the numbers of the rule: betas, eps, decay. The moments stay, so it must be of the same kind.
    ///
    /// # Errors
    ///
    /// As for [`Rule::validate`]; [`Error::Conflict`] for another kind, or momentum where there was none or the other way
    /// round. The rule is then as it was.
    pub fn set_rule(&mut self, rule: Rule) -> Result<()> {
        rule.validate()?;
        if rule.name() != self.rule.name() || rule.buffers() != self.rule.buffers() {
            let advice = "its moments are others; make a new optimizer";
            return Err(Error::Conflict { what: "this rule", with: "the optimizer", advice });
        }
        self.rule = rule;
        Ok(())
    }

    /// The learning rate.
    #[must_use]
    pub const fn learning_rate(&self) -> f64 {
        self.rule.learning_rate()
    }

    /// Sets the learning rate: what schedules call.
    ///
    /// # Errors
    ///
    /// As for [`Rule::validate`]; the rate is then as it was.
    pub fn set_learning_rate(&mut self, to: f64) -> Result<()> {
        self.set_rule(self.rule.with_learning_rate(to))
    }

    /// Updates made: skipped windows do not count.
    #[must_use]
    pub const fn updates(&self) -> u32 {
        self.updates
    }

    /// Bytes of the moments, from the buffers themselves.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.moments.iter().flatten().map(|b| (B::len(&B::view(b)) * size_of::<f32>()) as u64).sum()
    }

    /// Checks that it was made for these tensors: same names, shapes and order.
    pub(super) fn made_for(&self, specs: &[Spec]) -> Result<()> {
        let what = "an optimizer";
        super::weights::one_each(what, specs.len(), self.specs.len())?;
        for (own, spec) in self.specs.iter().zip(specs) {
            if own.name != spec.name {
                let known = specs.len();
                return Err(Error::UnknownTensor { name: own.name.clone(), known });
            }
            if own.shape != spec.shape {
                let shape = Error::Shape { expected: spec.shape.clone(), got: own.shape.clone() };
                return Err(shape.in_tensor(&*spec.name));
            }
        }
        Ok(())
    }
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
