//! The conformance suite: any backend, bit for bit against the executable specification, in one line.
//!
//! ```
//! use trigrad::testing::{Options, Reference, conformance};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let covered = conformance(&Reference, &Options::only("merge"))?; // put your backend here
//! println!("{covered}");
//! # Ok(())
//! # }
//! ```
//!
//! A [`case::Case`] is one operation with its parameters and a list of tensors; tests and benches share it. Every case
//! runs on the backend and on [`Reference`], which is written element by element from [`crate::numerics`] and shares no
//! code with any backend. All tensors of one role lie in one buffer with guard zones between them, so that a case of a
//! hundred tensors costs a few transfers, and each case runs three times: aligned views in one list, views at odd
//! offsets in one list, and mixed ones one by one. Outputs hold something else before each run; inputs and guard zones
//! must be as before after it. Calls with wrong arguments must fail with the reference's error and change nothing.
//!
//! What is *not* here: speed, other launch shapes (run the suite once for each), and other seeds than the options'.

pub mod arena;
pub mod case;
pub mod cases;
mod failure;
mod memory;
mod options;
mod reference;
mod runner;
pub mod values;

pub use failure::{Covered, Difference, Failure, Summary};
pub use options::{Budget, Options};
pub use reference::Reference;

use crate::op::{Backend, OPERATIONS};

/// Compares a backend with the reference, bit for bit.
///
/// # Errors
///
/// The first [`Failure`]: it names the operation, its parameters, the seed, the first differing index and the inputs
/// there. A filter that names no operation fails too.
pub fn conformance<B: Backend>(backend: &B, options: &Options) -> Result<Summary, Box<Failure>> {
    let failure = |operation: &str, what| Failure::of_suite(&backend.name(), operation, options.seed, what);
    let known = |o: &String| o == "memory" || OPERATIONS.contains(&o.as_str());
    if let Some(unknown) = options.only.iter().chain(&options.except).find(|o| !known(o)) {
        return Err(failure(unknown, Difference::NoSuchOperation));
    }
    if options.covers("memory") {
        memory::hold(backend, options.seed).map_err(|what| failure("memory", what))?;
    }
    let mut runner = runner::Runner::new(backend, options);
    cases::each(options, &mut runner)?;
    runner.summary.left_out.clone_from(&options.except);
    Ok(runner.summary)
}
