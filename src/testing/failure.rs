//! How a backend failed, and what was covered where it did not.

use crate::error::Error;
use crate::op::Report;
use std::collections::BTreeMap;
use std::fmt;

/// A difference between a backend and the reference. `Debug` prints what `Display` prints, so that an unwrapped
/// failure reads well.
#[non_exhaustive]
pub struct Failure {
    /// The backend's name.
    pub backend: String,
    /// The operation, named as in [`crate::op::Backend`].
    pub operation: String,
    /// Element type and parameters.
    pub parameters: String,
    /// The seed of the run: the same options repeat the failure.
    pub seed: u64,
    /// How views lay in their buffers and whether items came in one list.
    pub run: String,
    /// Which call of a sequence, from 0.
    pub step: usize,
    /// What differed.
    pub what: Difference,
}

/// What differed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Difference {
    /// An output has the wrong bits.
    Value {
        /// The output.
        field: &'static str,
        /// Which tensor of the list.
        tensor: usize,
        /// The first differing index in it.
        index: usize,
        /// Its bits.
        got: u64,
        /// The bits it must have.
        expected: u64,
        /// How many indices of this tensor differ, and how many there are.
        differing: (usize, usize),
        /// The element that the index belongs to and the inputs there.
        inputs: String,
    },
    /// Memory outside an output was written, or an input was changed.
    Outside {
        /// The buffer.
        field: &'static str,
        /// Which tensor of the list.
        tensor: usize,
        /// Elements from the tensor's first (negative) or from one past its last (from 0); `None`: inside an input.
        offset: Option<i64>,
    },
    /// A report differs.
    Report {
        /// The slot.
        slot: usize,
        /// What it holds.
        got: Report,
        /// What it must hold.
        expected: Report,
    },
    /// A call failed, or did not fail, or failed otherwise than it must.
    Outcome {
        /// The error, as it prints with all its fields.
        got: Option<String>,
        /// The error it must be.
        expected: Option<String>,
    },
    /// Buffers could not be made, filled or read.
    Memory(Error),
    /// A function of [`crate::memory::Memory`] does not do what it says.
    Contract(String),
    /// A filter names no operation.
    NoSuchOperation,
    /// There are no cases for an operation.
    NoCases,
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} on {}: {}, {}, step {}, seed {}: ",
            self.operation, self.backend, self.parameters, self.run, self.step, self.seed
        )?;
        self.what.fmt(f)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Value { field, tensor, index, got, expected, differing: (some, all), inputs } => write!(
                f,
                "`{field}` of tensor {tensor} first differs at [{index}]: got {got:#x}, expected {expected:#x} \
                 ({some} of {all} differ); {inputs}"
            ),
            Difference::Outside { field, tensor, offset: Some(offset) } if *offset < 0 => {
                write!(f, "`{field}` was written {} before the start of tensor {tensor}", -offset)
            }
            Difference::Outside { field, tensor, offset: Some(offset) } => {
                write!(f, "`{field}` was written {} past the end of tensor {tensor}", offset + 1)
            }
            Difference::Outside { field, tensor, offset: None } => {
                write!(f, "input `{field}` of tensor {tensor} changed")
            }
            Difference::Report { slot, got, expected } => {
                write!(f, "report slot {slot}: got {got:?}, expected {expected:?}")
            }
            Difference::Outcome { got, expected } => write!(f, "outcome: got {got:?}, expected {expected:?}"),
            Difference::Memory(error) => write!(f, "memory: {error}"),
            Difference::Contract(what) => f.write_str(what),
            Difference::NoSuchOperation => f.write_str("there is no such operation"),
            Difference::NoCases => f.write_str("the suite has no cases for it"),
        }
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// A failure outside any case.
    pub(super) fn of_suite(backend: &str, operation: &str, seed: u64, what: Difference) -> Box<Failure> {
        Box::new(Failure {
            backend: backend.to_owned(),
            operation: operation.to_owned(),
            parameters: String::new(),
            seed,
            run: String::new(),
            step: 0,
            what,
        })
    }
}

/// What was covered by operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Per operation.
    pub operations: BTreeMap<String, Covered>,
    /// Operations that the options left out.
    pub left_out: Vec<String>,
}

/// How much of one operation was covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Covered {
    /// Cases: one set of parameters and a list of tensors each.
    pub cases: u64,
    /// Calls of the backend.
    pub calls: u64,
    /// Elements compared.
    pub elements: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (operation, c) in &self.operations {
            writeln!(f, "{operation:<20} {:>6} cases {:>8} calls {:>12} elements", c.cases, c.calls, c.elements)?;
        }
        if !self.left_out.is_empty() {
            writeln!(f, "left out: {}", self.left_out.join(", "))?;
        }
        Ok(())
    }
}

impl From<Error> for Difference {
    fn from(error: Error) -> Self {
        Difference::Memory(error)
    }
}
