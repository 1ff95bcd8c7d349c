//! Pack and convert: i8 trits, separate planes and 2-bit fields, from and to planes.

use super::length;
use crate::error::Result;
use crate::numerics::pack::words;

/// Checks the lengths of trits (`n`) and planes (words).
///
/// # Errors
///
/// [`crate::Error::Length`].
pub fn validate_trits(n: usize, planes: usize) -> Result<()> {
    length("words", words(n, 2), planes)
}

/// Checks the lengths of interleaved planes (words) and two separate planes (words each).
///
/// # Errors
///
/// [`crate::Error::Length`].
pub fn validate_planes(planes: usize, plus: usize, minus: usize) -> Result<()> {
    length("plus plane", planes / 2, plus)?;
    length("minus plane", planes / 2, minus)?;
    length("words", 2 * plus, planes)
}

/// Checks the lengths of planes and of 2-bit fields (words), which are equal and even.
///
/// # Errors
///
/// [`crate::Error::Length`].
pub fn validate_fields(planes: usize, fields: usize) -> Result<()> {
    length("words", planes.next_multiple_of(2), planes)?;
    length("2-bit fields", planes, fields)
}
