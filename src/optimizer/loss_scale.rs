//! Loss scaling: gradients of half-width activations are kept above their smallest numbers.

use crate::error::{Error, Result};

/// What a loss is multiplied by before the backward pass, and gradients divided by when they are read.
///
/// Powers of two lose nothing.
///
/// # Examples
///
/// ```
/// use trigrad::optimizer::LossScale;
/// assert_eq!(LossScale::dynamic(1024.0).value(), 1024.0);
/// assert_eq!(LossScale::none().value(), 1.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    pub(super) scale: f64,
    pub(super) dynamic: bool,
    /// Steps since the scale last changed.
    pub(super) good: u32,
}

/// Steps without NaN or Inf after which a dynamic scale doubles.
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
        LossScale { scale, dynamic: false, good: 0 }
    }

    /// Starts here; halves with every skipped step, and doubles after 2000 steps in a row without one
    /// (Micikevicius et al., Mixed Precision Training, 2018).
    #[must_use]
    pub const fn dynamic(scale: f64) -> Self {
        LossScale { scale, dynamic: true, good: 0 }
    }

    /// The scale now.
    #[must_use]
    pub const fn value(&self) -> f64 {
        self.scale
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.scale.is_finite() && self.scale > 0.0 && (self.scale as f32).is_finite() {
            Ok(())
        } else {
            Err(Error::Parameter { name: "loss scale", got: self.scale, requirement: "finite and above 0" })
        }
    }

    /// After a step; whether the scale changed.
    pub(super) fn after(&mut self, updated: bool) -> bool {
        if !self.dynamic {
            return false;
        }
        let before = self.scale;
        if updated {
            self.good += 1;
            if self.good >= INTERVAL {
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
        let mut s = LossScale::dynamic(1024.0);
        assert!(s.after(false));
        assert_eq!(s.value(), 512.0);
        for _ in 1..INTERVAL {
            assert!(!s.after(true));
        }
        assert!(s.after(true));
        assert_eq!(s.value(), 1024.0);
        let mut fixed = LossScale::fixed(8.0);
        assert!(!fixed.after(false));
        assert_eq!(fixed.value(), 8.0);
    }
}
