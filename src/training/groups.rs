//! Parameter groups: which tensors of a model are stepped with other numbers, or hold other moments.

use super::Rule;
use crate::accumulator::Spec;
use crate::error::{Error, Result};

/// How the moments of a tensor are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MomentFormat {
    /// Four bytes each.
    #[default]
    F32,
    /// Both moments of AdamW in 2.03 bytes an element, rounded stochastically (NUMERICS.md, "Moments in 8 bits"). Tensors
    /// of fewer than [`MomentFormat::LEAST`] elements stay in f32.
    Bits8,
}

impl MomentFormat {
    /// The fewest elements of a tensor whose moments are held in 8 bits: below, they cost next to nothing.
    pub const LEAST: usize = 4096;

    /// Its name in a checkpoint.
    pub(super) const fn name(self) -> &'static str {
        match self {
            MomentFormat::F32 => "f32",
            MomentFormat::Bits8 => "8 bits",
        }
    }
}

/// Which tensors a [`Group`] is of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    /// Those whose name contains this.
    Named(String),
    /// Those of one dimension or fewer: norms and biases.
    Vectors,
}

impl Which {
    fn matches(&self, spec: &Spec) -> bool {
        match self {
            Which::Named(part) => spec.name.contains(part.as_str()),
            Which::Vectors => spec.shape.len() <= 1,
        }
    }
}

/// Tensors that are stepped with numbers of their own, or hold other moments. What a group leaves open is as for all others.
///
/// Tensors may be in several groups: each choice is that of the **first** group in the list that has the tensor and makes
/// the choice.
///
/// # Examples
///
/// ```
/// use trigrad::training::{Group, MomentFormat};
/// let groups = [
///     Group::no_decay(),
///     Group::named("embedding").factor(0.1).moments(MomentFormat::F32),
///     Group::named("head").weight_decay(0.1),
/// ];
/// assert_eq!(groups[0], Group::vectors().weight_decay(0.0));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    which: Which,
    factor: Option<f64>,
    weight_decay: Option<f64>,
    moments: Option<MomentFormat>,
}

impl Group {
    /// Tensors whose name contains this. A part that no name contains is an error where the optimizer is made.
    #[must_use]
    pub fn named(part: impl Into<String>) -> Self {
        Self::of(Which::Named(part.into()))
    }

    /// Tensors of one dimension or fewer: norms and biases.
    #[must_use]
    pub const fn vectors() -> Self {
        Self::of(Which::Vectors)
    }

    /// No weight decay on norms and biases: on tensors of one dimension or fewer.
    #[must_use]
    pub const fn no_decay() -> Self {
        Self::vectors().weight_decay(0.0)
    }

    const fn of(which: Which) -> Self {
        Group { which, factor: None, weight_decay: None, moments: None }
    }

    /// Their learning rate is this times that of the rule, whatever a schedule makes of it.
    #[must_use]
    pub const fn factor(mut self, factor: f64) -> Self {
        self.factor = Some(factor);
        self
    }

    /// Their weight decay, instead of the rule's.
    #[must_use]
    pub const fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = Some(weight_decay);
        self
    }

    /// How their moments are held.
    #[must_use]
    pub const fn moments(mut self, moments: MomentFormat) -> Self {
        self.moments = Some(moments);
        self
    }
}

/// Choices of an [`Optimizer`](super::Optimizer) beside its rule.
///
/// # Examples
///
/// ```
/// use trigrad::accumulator::Spec;
/// use trigrad::cpu::Cpu;
/// use trigrad::training::{AdamW, Group, MomentFormat, Optimizer, OptimizerOptions, Options, Rule, Training};
///
/// let specs = [Spec::new("w", [64, 128]), Spec::new("b", [64])];
/// let training = Training::new(Cpu::new(), &specs, Options::default())?;
/// let options = OptimizerOptions { moments: MomentFormat::Bits8, groups: vec![Group::no_decay()] };
/// let adam = Optimizer::with_options(&training, Rule::AdamW(AdamW::default()), &options)?;
/// // Two bytes an element and two a block of 64 for `w`; eight an element for `b`, which is small.
/// assert_eq!(adam.bytes_held(), 64 * 128 * 2 + 128 * 2 + 64 * 8);
/// assert_eq!(adam.rule_of(1).map(|rule| rule.weight_decay()), Some(0.0));
/// # Ok::<(), trigrad::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerOptions {
    /// How moments are held where no group says otherwise.
    pub moments: MomentFormat,
    /// Tensors with numbers or moments of their own; see [`Group`] for which of several groups decides.
    pub groups: Vec<Group>,
}

/// The numbers of a group that are not those of the rule. Tensors with the same are stepped together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Numbers {
    factor: f64,
    weight_decay: Option<f64>,
}

impl Numbers {
    /// The rule for these tensors.
    pub(super) fn of(self, rule: Rule) -> Rule {
        let rule = rule.with_learning_rate(rule.learning_rate() * self.factor);
        match self.weight_decay {
            Some(weight_decay) => rule.with_weight_decay(weight_decay),
            None => rule,
        }
    }
}

/// What the groups come to: sets of numbers, and for each tensor its set.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sets {
    pub(super) numbers: Vec<Numbers>,
    pub(super) of_tensor: Vec<usize>,
}

impl OptimizerOptions {
    /// The sets of numbers for these tensors.
    pub(super) fn sets(&self, specs: &[Spec]) -> Result<Sets> {
        self.all_match(specs)?;
        let mut sets = Sets::default();
        for spec in specs {
            let numbers = Numbers {
                factor: self.first(spec, |g| g.factor).unwrap_or(1.0),
                weight_decay: self.first(spec, |g| g.weight_decay),
            };
            let known = sets.numbers.iter().position(|n| *n == numbers);
            sets.of_tensor.push(known.unwrap_or(sets.numbers.len()));
            if known.is_none() {
                sets.numbers.push(numbers);
            }
        }
        Ok(sets)
    }

    /// How the moments of a tensor are held.
    pub(super) fn format(&self, spec: &Spec) -> Result<MomentFormat> {
        if spec.elements()? < MomentFormat::LEAST {
            return Ok(MomentFormat::F32);
        }
        Ok(self.first(spec, |g| g.moments).unwrap_or(self.moments))
    }

    /// Whether any tensor could hold moments in 8 bits.
    pub(super) fn any_in_8_bits(&self) -> bool {
        let mut formats = self.groups.iter().filter_map(|g| g.moments);
        self.moments == MomentFormat::Bits8 || formats.any(|m| m == MomentFormat::Bits8)
    }

    fn first<T>(&self, spec: &Spec, choice: impl Fn(&Group) -> Option<T>) -> Option<T> {
        self.groups.iter().filter(|g| g.which.matches(spec)).find_map(choice)
    }

    fn all_match(&self, specs: &[Spec]) -> Result<()> {
        for group in &self.groups {
            if !specs.iter().any(|spec| group.which.matches(spec)) {
                let rule = match &group.which {
                    Which::Named(part) => part.clone(),
                    Which::Vectors => "tensors of one dimension or fewer".to_owned(),
                };
                return Err(Error::NothingMatches { option: "groups", rule, tensors: specs.len() });
            }
            for (name, got) in [("factor of the learning rate", group.factor), ("weight decay", group.weight_decay)] {
                got.map_or(Ok(()), |got| super::rule::at_least_zero(name, got))?;
            }
        }
        Ok(())
    }
}
