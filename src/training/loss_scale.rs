//! Loss scaling: gradients of half-width activations are kept above their smallest numbers.

use crate::error::{Error, Result};

/// What a loss is multiplied by before the backward pass, and gradients divided by when they are read.
///
/// Powers of two lose nothing.
///
/// # Examples
///
/// ```
/// use trigrad::training::LossScale;
/// assert_eq!(LossScale::dynamic(1024.0).growth_interval(100).value(), 1024.0);
/// assert_eq!(LossScale::none().value(), 1.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    pub(super) scale: f64,
    pub(super) dynamic: bool,
    /// Steps in a row without a skip after which a dynamic scale doubles.
    pub(super) interval: u32,
    /// Steps since the scale last changed.
    pub(super) good: u32,
}

/// The growth interval unless chosen.
const INTERVAL: u32 = 2000;
/// Limits of a dynamic scale.
const MIN: f64 = 1.0 / 65536.0;
const MAX: f64 = 16_777_216.0;

impl LossScale {
    /// No loss scale.
    #[must_use]
    pub const fn none() -> Self {
        Self::fixed(1.0)
    }

    /// Always this one.
    #[must_use]
    pub const fn fixed(scale: f64) -> Self {
        LossScale { scale, dynamic: false, interval: INTERVAL, good: 0 }
    }

    /// Starts here; halves with every skipped step, and doubles after 2000 steps in a row without one
    /// (Micikevicius et al., Mixed Precision Training, 2018).
    #[must_use]
    pub const fn dynamic(scale: f64) -> Self {
        LossScale { scale, dynamic: true, interval: INTERVAL, good: 0 }
    }

    /// The same with another number of steps before it doubles, at least 1.
    #[must_use]
    pub const fn growth_interval(self, steps: u32) -> Self {
        LossScale { interval: steps, ..self }
    }

    /// The scale now.
    #[must_use]
    pub const fn value(&self) -> f64 {
        self.scale
    }

    /// Whether it moves.
    #[must_use]
    pub const fn is_dynamic(&self) -> bool {
        self.dynamic
    }

    pub(super) fn validate(&self) -> Result<()> {
        if !(self.scale.is_finite() && self.scale > 0.0 && (self.scale as f32).is_normal()) {
            let requirement = "finite and above 0, as an f32 too";
            return Err(Error::Parameter { name: "loss scale", got: self.scale, requirement });
        }
        if self.interval == 0 {
            return Err(Error::Parameter { name: "growth interval", got: 0.0, requirement: "at least 1" });
        }
        Ok(())
    }

    /// After a step; whether the scale changed.
    pub(super) fn after(&mut self, updated: bool) -> bool {
        if !self.dynamic {
            return false;
        }
        let before = self.scale;
        if updated {
            self.good += 1;
            if self.good >= self.interval {
                self.scale = (self.scale * 2.0).min(MAX).max(before);
                self.good = 0;
            }
        } else {
            self.scale = (self.scale / 2.0).max(MIN).min(before);
            self.good = 0;
        }
        self.scale != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_on_overflow_and_doubles_after_a_while() {
        for (mut s, interval) in
            [(LossScale::dynamic(1024.0), INTERVAL), (LossScale::dynamic(1024.0).growth_interval(3), 3)]
        {
            assert!(s.after(false));
            assert_eq!(s.value(), 512.0);
            for _ in 1..interval {
                assert!(!s.after(true));
            }
            assert!(s.after(true));
            assert_eq!(s.value(), 1024.0);
        }
        let mut fixed = LossScale::fixed(8.0);
        assert!(!fixed.after(false));
        assert_eq!(fixed.value(), 8.0);
    }

    #[test]
    fn what_can_be_no_scale_is_refused() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e39, 1e-46] {
            assert!(LossScale::fixed(bad).validate().is_err(), "{bad}");
        }
        assert!(LossScale::dynamic(1.0).growth_interval(0).validate().is_err());
        assert!(LossScale::dynamic(65536.0).validate().is_ok());
    }
}
