//! What a run of the suite covers.

/// How much is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Budget {
    /// Every operation, type, rule, width and edge at least once: seconds.
    #[default]
    Quick,
    /// All lengths from 0 to twice a block with every pattern of values, all block sizes, long tensors: minutes.
    Full,
}

/// What a run of the suite covers.
///
/// # Examples
///
/// ```
/// use trigrad::testing::Options;
/// let options = Options::only("quantize").full().seed(7);
/// assert!(options.covers("quantize") && !options.covers("merge"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How much.
    pub budget: Budget,
    /// All data, parameters and draws come from it.
    pub seed: u64,
    /// Names of operations to run; empty means all.
    pub only: Vec<String>,
    /// Names of operations to leave out; the summary names them.
    pub except: Vec<String>,
    /// Longest tensor in elements, for slow devices; `None`: no limit.
    pub max_elements: Option<usize>,
    /// Which part of the cases, of how many; `None`: all of them.
    pub part: Option<(u64, u64)>,
}

impl Options {
    /// The quick budget for one operation, named as in [`crate::op::Backend`] (or `memory`).
    #[must_use]
    pub fn only(operation: &str) -> Self {
        Options::default().and(operation)
    }

    /// One more operation.
    #[must_use]
    pub fn and(mut self, operation: &str) -> Self {
        self.only.push(operation.to_owned());
        self
    }

    /// All but this operation: for what a backend declares it cannot promise. The summary names it.
    #[must_use]
    pub fn except(mut self, operation: &str) -> Self {
        self.except.push(operation.to_owned());
        self
    }

    /// The full budget.
    #[must_use]
    pub fn full(mut self) -> Self {
        self.budget = Budget::Full;
        self
    }

    /// Another seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// No tensor longer than this.
    #[must_use]
    pub fn max_elements(mut self, elements: usize) -> Self {
        self.max_elements = Some(elements);
        self
    }

    /// Only case `index`, `index + of`, `index + 2 of` and so on, counted from 0: for tools that slow every call. The parts
    /// from 0 to `of - 1` together are the whole.
    #[must_use]
    pub fn part(mut self, index: u64, of: u64) -> Self {
        self.part = Some((index, of));
        self
    }

    /// Whether a case is run, by its number.
    pub(super) fn takes(&self, number: u64) -> bool {
        self.part.is_none_or(|(index, of)| number % of.max(1) == index)
    }

    /// Whether an operation is run.
    #[must_use]
    pub fn covers(&self, operation: &str) -> bool {
        let named = |names: &[String]| names.iter().any(|o| o == operation);
        (self.only.is_empty() || named(&self.only)) && !named(&self.except)
    }

    pub(super) fn is_full(&self) -> bool {
        self.budget == Budget::Full
    }

    /// Drops lengths above the limit.
    pub(super) fn within(&self, lengths: impl IntoIterator<Item = usize>) -> Vec<usize> {
        lengths.into_iter().filter(|&n| self.max_elements.is_none_or(|max| n <= max)).collect()
    }
}
