//! What a step came to, and what is counted over a run.

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a window with NaN or Inf is skipped, and nothing else says so: look at the outcome, or at least count it"]
pub enum Outcome {
    /// The weights were updated.
    Updated {
        /// The global norm of the mean gradient, free of the loss scale, before clipping.
        norm: f64,
        /// What the gradient was multiplied by to clip it: 1 where it was not.
        clip: f64,
        /// Tensors with elements whose new weight or moment would not have been finite, and how many: these kept the
        /// weight and moments they had. Empty in a run that is well.
        kept: Vec<(String, u64)>,
    },
    /// The window had NaN, Inf or magnitudes of 2^126 and above, and was dropped: no weight or moment was touched, and
    /// a dynamic loss scale was lowered.
    Skipped {
        /// The first tensor in which they were found.
        tensor: String,
        /// How many there were in it.
        non_finite: u64,
    },
    /// There was nothing to step with: the window is empty.
    Nothing,
}

impl Outcome {
    /// Whether the weights were updated.
    #[must_use]
    pub const fn updated(&self) -> bool {
        matches!(self, Outcome::Updated { .. })
    }

    /// Whether the window was dropped.
    #[must_use]
    pub const fn skipped(&self) -> bool {
        matches!(self, Outcome::Skipped { .. })
    }

    /// Elements that kept what they had in an update.
    #[must_use]
    pub fn kept(&self) -> u64 {
        match self {
            Outcome::Updated { kept, .. } => kept.iter().map(|(_, n)| n).sum(),
            Outcome::Skipped { .. } | Outcome::Nothing => 0,
        }
    }
}

/// What is counted over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Windows that updated the weights.
    pub updated: u64,
    /// Windows that were skipped.
    pub skipped: u64,
    /// Elements that kept what they had, in all updates.
    pub kept: u64,
}

impl Counts {
    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.updated += u64::from(outcome.updated());
        self.skipped += u64::from(outcome.skipped());
        self.kept = self.kept.saturating_add(outcome.kept());
    }
}

/// What a metrics hook sees after every step ([`Training::on_step`](super::Training::on_step)).
#[derive(Clone, Debug)]
pub struct Metrics<'a> {
    /// The number of the window that ended.
    pub window: u32,
    /// Micro-batches in it.
    pub micro_batches: u32,
    /// The sum of their weights.
    pub weights: f64,
    /// The loss scale that it had.
    pub loss_scale: f64,
    /// What the step came to.
    pub outcome: &'a Outcome,
    /// What was counted so far, this step included.
    pub counts: Counts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_hand() {
        let mut counts = Counts::default();
        counts.add(&Outcome::Updated { norm: 1.0, clip: 1.0, kept: vec![("a".into(), 2), ("b".into(), 3)] });
        counts.add(&Outcome::Skipped { tensor: "a".into(), non_finite: 9 });
        counts.add(&Outcome::Nothing);
        assert_eq!(counts, Counts { updated: 1, skipped: 1, kept: 5 });
    }
}
