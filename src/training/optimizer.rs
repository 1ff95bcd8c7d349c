//! Optimizers that read levels and scales straight into the weight update: their rule, and their moments.

use super::groups::Sets;
use super::moments::Moments;
use super::{MomentFormat, OptimizerOptions, Training};
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

/// Plain SGD, with momentum, or AdamW, in place on the weights of a model: no dense gradient ever exists. Moments are
/// f32, or in 8 bits where [`OptimizerOptions`] say so, on the backend of the [`Training`] it was made for, which alone it
/// steps.
pub struct Optimizer<B: Backend> {
    rule: Rule,
    /// The learning rate as a function of the updates made.
    schedule: Option<Box<Schedule>>,
    /// Groups of tensors with numbers of their own.
    pub(super) sets: Sets,
    /// Updates made.
    pub(super) updates: u32,
    /// The tensors it was made for.
    specs: Vec<Spec>,
    /// The moments of each tensor.
    pub(super) moments: Vec<Moments<B>>,
    /// What an update found, one slot a tensor.
    pub(super) found: B::Reports,
}

type Schedule = dyn Fn(u32) -> f64 + Send + Sync;

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
        Self::with_options(training, rule, &OptimizerOptions::default())
    }

    /// Any rule, with parameter groups and a format of the moments.
    ///
    /// # Errors
    ///
    /// As for [`sgd`](Self::sgd), for the numbers of every group; [`Error::NothingMatches`] for a group that no tensor is
    /// in; [`Error::Conflict`] for moments in 8 bits beside SGD.
    pub fn with_options(training: &Training<B>, rule: Rule, options: &OptimizerOptions) -> Result<Self> {
        if options.any_in_8_bits() && !matches!(rule, Rule::AdamW(_)) {
            let advice = "they are AdamW's two; leave SGD's in f32, or take AdamW";
            return Err(Error::Conflict { what: "moments in 8 bits", with: "SGD", advice });
        }
        let specs = training.specs().to_vec();
        let sets = options.sets(&specs)?;
        validate(rule, &sets)?;
        let backend = training.backend();
        let moments = |spec: &Spec| {
            let make = || Moments::zeros(backend, &rule, options.format(spec)?, spec.elements()?);
            make().map_err(|e| e.in_tensor(&*spec.name))
        };
        Ok(Optimizer {
            rule,
            schedule: None,
            sets,
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

    /// What is done with the gradient of the tensor at this place: the rule with the numbers of its group. `None` past
    /// the last.
    #[must_use]
    pub fn rule_of(&self, place: usize) -> Option<Rule> {
        let set = *self.sets.of_tensor.get(place)?;
        self.sets.numbers.get(set).map(|numbers| numbers.of(self.rule))
    }

    /// How the moments of the tensor at this place are held. `None` past the last.
    #[must_use]
    pub fn moments_of(&self, place: usize) -> Option<MomentFormat> {
        self.moments.get(place).map(Moments::format)
    }

    /// Sets the numbers of the rule: betas, eps, decay. The moments stay, so it must be of the same kind. Groups keep
    /// their own; under a [schedule](Self::set_schedule) the rate is the schedule's.
    ///
    /// # Errors
    ///
    /// As for [`Rule::validate`]; [`Error::Conflict`] for another kind, or momentum where there was none or the other way
    /// round. The rule is then as it was.
    pub fn set_rule(&mut self, rule: Rule) -> Result<()> {
        validate(rule, &self.sets)?;
        if rule.name() != self.rule.name() || rule.buffers() != self.rule.buffers() {
            let advice = "its moments are others; make a new optimizer";
            return Err(Error::Conflict { what: "this rule", with: "the optimizer", advice });
        }
        self.rule = rule;
        self.follow();
        Ok(())
    }

    /// The learning rate of the next step; groups have theirs as factors of it.
    #[must_use]
    pub const fn learning_rate(&self) -> f64 {
        self.rule.learning_rate()
    }

    /// Sets the learning rate: what schedules of your own call. It ends one that was [set](Self::set_schedule).
    ///
    /// # Errors
    ///
    /// As for [`Rule::validate`]; the rate is then as it was.
    pub fn set_learning_rate(&mut self, to: f64) -> Result<()> {
        let rule = self.rule.with_learning_rate(to);
        validate(rule, &self.sets)?;
        (self.rule, self.schedule) = (rule, None);
        Ok(())
    }

    /// The learning rate is this function of the updates made from now on, which a checkpoint restores. The function is
    /// the caller's, and set again after a program starts again, before or after the load. A rate that can be none is an
    /// error of the step that would take it.
    ///
    /// # Errors
    ///
    /// As for [`set_learning_rate`](Self::set_learning_rate), for the rate of the next step.
    ///
    /// # Examples
    ///
    /// ```
    /// # use trigrad::{accumulator::Spec, cpu::Cpu, training::{AdamW, Optimizer, Options, Training}};
    /// # let training = Training::new(Cpu::new(), &[Spec::new("w", [64])], Options::default())?;
    /// let mut adam = Optimizer::adamw(&training, AdamW::default())?;
    /// let cosine = |x: f64| 0.5 * (1.0 + (x.min(1.0) * std::f64::consts::PI).cos());
    /// adam.set_schedule(move |t| match t {
    ///     0..100 => 1e-3 * f64::from(t + 1) / 100.0,
    ///     _ => 1e-3 * cosine(f64::from(t - 100) / 900.0),
    /// })?;
    /// assert_eq!(adam.learning_rate(), 1e-5);
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn set_schedule(&mut self, schedule: impl Fn(u32) -> f64 + Send + Sync + 'static) -> Result<()> {
        validate(self.rule.with_learning_rate(schedule(self.updates)), &self.sets)?;
        self.schedule = Some(Box::new(schedule));
        self.follow();
        Ok(())
    }

    /// After the rule, the schedule or the number of updates changed.
    pub(super) fn follow(&mut self) {
        if let Some(schedule) = &self.schedule {
            self.rule = self.rule.with_learning_rate(schedule(self.updates));
        }
    }

    pub(super) const fn has_schedule(&self) -> bool {
        self.schedule.is_some()
    }

    /// The terms of a rate of 1, one for each set of numbers, for a state to give them its own.
    pub(super) fn unit_terms(&self) -> Vec<Terms> {
        let rule = self.rule.with_learning_rate(1.0);
        self.sets.numbers.iter().map(|numbers| numbers.of(rule).terms(0)).collect()
    }

    /// The terms of the next update, one for each set of numbers.
    pub(super) fn terms(&self) -> Result<Vec<Terms>> {
        validate(self.rule, &self.sets)?;
        Ok(self.sets.numbers.iter().map(|numbers| numbers.of(self.rule).terms(self.updates)).collect())
    }

    /// Updates made: skipped windows do not count.
    #[must_use]
    pub const fn updates(&self) -> u32 {
        self.updates
    }

    /// Bytes of the moments, from the buffers themselves.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.moments.iter().map(Moments::bytes).sum()
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

/// Checks the numbers of a rule, and of every group's.
fn validate(rule: Rule, sets: &Sets) -> Result<()> {
    rule.validate()?;
    sets.numbers.iter().try_for_each(|numbers| numbers.of(rule).validate())
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
