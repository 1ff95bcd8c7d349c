//! Quantize: a gradient becomes packed planes and bf16 scales in one pass.

use super::item::item;
use super::{Draw, Element, Grouping, finite, length, operation, span};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::numerics::pack::words;

/// How an element becomes a trit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// `P(t = sign g) = |g| / s`, scale `s` = the group's largest magnitude rounded up to bf16: unbiased.
    Stochastic {
        /// Seed and place in the run.
        draw: Draw,
        /// Clip at this many standard deviations of the group first (TernGrad uses 2.5); biased. `None`: off.
        clip: Option<f32>,
    },
    /// `t = sign g` where `|g| > t`; scale = the mean of what was kept (the least-squares magnitude).
    Threshold(Threshold),
}

/// The threshold above which an element is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// This magnitude, at least 0.
    Given(f32),
    /// This factor, at least 0, times the mean magnitude of the group.
    Mean(f32),
}

impl Threshold {
    /// The mean magnitude itself.
    pub const MEAN_MAGNITUDE: Threshold = Threshold::Mean(1.0);
    /// 0.7 times the mean magnitude: Ternary Weight Networks (Li and Liu, 2016).
    pub const TWN: Threshold = Threshold::Mean(0.7);
    /// Half the mean magnitude: absmean rounding (BitNet b1.58, Ma et al., 2024).
    pub const ABSMEAN: Threshold = Threshold::Mean(0.5);
}

/// Parameters of quantize.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantize {
    /// Which elements share a scale.
    pub grouping: Grouping,
    /// How an element becomes a trit.
    pub rule: Rule,
}

impl Quantize {
    /// Unbiased stochastic rounding in blocks of 64.
    #[must_use]
    pub fn stochastic(draw: Draw) -> Self {
        Quantize { grouping: Grouping::default(), rule: Rule::Stochastic { draw, clip: None } }
    }

    /// A threshold rule in blocks of 64.
    #[must_use]
    pub fn threshold(threshold: Threshold) -> Self {
        Quantize { grouping: Grouping::default(), rule: Rule::Threshold(threshold) }
    }

    /// The same with another grouping.
    #[must_use]
    pub fn grouping(self, grouping: Grouping) -> Self {
        Quantize { grouping, ..self }
    }

    /// The same with clipping at `c` sigma; threshold rules are left as they are.
    #[must_use]
    pub fn clip(self, c: f32) -> Self {
        match self.rule {
            Rule::Stochastic { draw, .. } => Quantize { rule: Rule::Stochastic { draw, clip: Some(c) }, ..self },
            Rule::Threshold(_) => self,
        }
    }

    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for a clip, threshold or factor that is not finite or is negative, [`Error::Limit`] for
    /// a micro-batch index of 2^24 and above.
    pub fn validate(&self) -> Result<()> {
        let at_least_zero = |name, x: f32| {
            finite(name, x)?;
            if x >= 0.0 { Ok(()) } else { Err(Error::Parameter { name, got: f64::from(x), requirement: "at least 0" }) }
        };
        match self.rule {
            Rule::Stochastic { draw, clip } => {
                draw.validate()?;
                match clip {
                    Some(c) if !(c.is_finite() && c > 0.0) => {
                        Err(Error::Parameter { name: "clip", got: f64::from(c), requirement: "finite and above 0" })
                    }
                    _ => Ok(()),
                }
            }
            Rule::Threshold(Threshold::Given(t)) => at_least_zero("threshold", t),
            Rule::Threshold(Threshold::Mean(f)) => at_least_zero("threshold factor", f),
        }
    }
}

/// Elements in a group that clipping can take: the integer second moment must fit 64 bits.
pub const CLIP_GROUP_MAX: u64 = 1 << 34;

item! {
    /// One tensor to quantize. `n` is the length of `x`.
    pub struct Item<T> {
        /// The tensor's number in the model: keys its draws.
        tensor: value(u32),
        /// Index of `x[0]` in the tensor: 0, or where only a part is given a multiple of the block, or of both 32 and the
        /// row. Planes and scales then come out as if the whole tensor had been given. Under [`Grouping::Tensor`] it is a
        /// multiple of 32, and the scale is that of the part.
        first: first,
        /// The gradient.
        x: read(T),
        /// Planes: `2 ceil(n / 32)` words. Every word is written; bits past `n` are zero.
        words: write(u32),
        /// bf16 scales: one a group, `grouping.groups(n)`.
        scales: write(u16),
        /// The slot of the reports that takes what is found.
        report: report,
    }
}

impl<M: Memory + ?Sized, T: Element> Item<'_, M, T> {
    /// Checks lengths and position.
    ///
    /// # Errors
    ///
    /// [`Error::Length`], [`Error::Alignment`] or [`Error::Limit`], wrapped with the tensor's number.
    pub fn validate(&self, op: &Quantize) -> Result<()> {
        let n = M::len(&self.x);
        let check = || {
            op.grouping.validate(n)?;
            span(self.first, n, op.grouping)?;
            length("words", words(n, 2), M::len_mut(&self.words))?;
            length("scales", op.grouping.groups(n), M::len_mut(&self.scales))?;
            if let Rule::Stochastic { clip: Some(_), .. } = op.rule {
                let size = op.grouping.size(n) as u64;
                if size > CLIP_GROUP_MAX {
                    return Err(Error::Limit { what: "elements in a clipped group", got: size, limit: CLIP_GROUP_MAX });
                }
            }
            Ok(())
        };
        check().map_err(|e| e.in_tensor(format!("#{}", self.tensor)))
    }
}

operation!(Quantize, "quantize", Item<T>, StateAndFound);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cpu;

    #[test]
    fn clip_is_a_matter_of_the_stochastic_rule() {
        let draw = Draw::new(7, 1);
        let op = Quantize::stochastic(draw).grouping(Grouping::Tensor);
        assert_eq!(op, Quantize { grouping: Grouping::Tensor, rule: Rule::Stochastic { draw, clip: None } });
        for c in [2.5, 3.0] {
            let clipped = Rule::Stochastic { draw, clip: Some(c) };
            assert_eq!(op.clip(1.0).clip(c), Quantize { grouping: Grouping::Tensor, rule: clipped });
        }
        let op = Quantize::threshold(Threshold::TWN);
        assert_eq!(op.clip(2.5), op);
    }

    /// A row may be longer than the tensor, which then is empty: the one way to a group of that size in a test.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn clipped_groups_end_at_two_to_the_34() {
        let op = Quantize::stochastic(Draw::new(7, 1));
        let refused = |op: Quantize, cols| {
            let (x, words, scales) = (&[0f32; 0][..], &mut [][..], &mut [][..]);
            let item = Item::<Cpu, f32> { tensor: 0, first: 0, x, words, scales, report: 0 };
            match item.validate(&op.grouping(Grouping::Row(cols))) {
                Err(e) => matches!(*e.root(), Error::Limit { got, limit: CLIP_GROUP_MAX, .. } if got == cols),
                Ok(()) => false,
            }
        };
        let sizes = [CLIP_GROUP_MAX - 1, CLIP_GROUP_MAX, CLIP_GROUP_MAX + 1, 1 << 40];
        assert_eq!(sizes.map(|cols| refused(op.clip(2.5), cols)), [false, false, true, true]);
        assert_eq!(sizes.map(|cols| refused(op, cols)), [false; 4]);
    }
}
