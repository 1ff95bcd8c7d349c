//! Optimizers that read levels and scales straight into the weight update: a rule, and the moments it asks for.

use super::groups::Sets;
use super::moments::Moments;
use super::rule::{AdamW, Rule, Sgd, Terms};
use super::{MomentFormat, OptimizerOptions, Training};
use crate::accumulator::Spec;
use crate::error::{Error, Result};
use crate::op::Backend;

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
