//! Dequantize: planes and scales become floats.

use super::item::item;
use super::{Element, Grouping, length, operation};
use crate::error::Result;
use crate::memory::Memory;
use crate::numerics::pack::words;

/// Parameters of dequantize: `out[i] = t[i] s[group of i]`, rounded to the output type (exact for f32 and bf16;
/// nearest even for f16, where a scale above 65504 becomes 65504). An invalid pair gives 0; a zero is +0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dequantize {
    /// Which elements share a scale.
    pub grouping: Grouping,
}

impl Dequantize {
    /// Checks the parameters: any will do.
    ///
    /// # Errors
    ///
    /// None.
    pub const fn validate(&self) -> Result<()> {
        Ok(())
    }
}

item! {
    /// One tensor to dequantize. `n` is the length of `out`.
    pub struct Item<T> {
        /// Planes: `2 ceil(n / 32)` words.
        words: read(u32),
        /// bf16 scales: `grouping.groups(n)`.
        scales: read(u16),
        /// The result.
        out: write(T),
    }
}

impl<M: Memory + ?Sized, T: Element> Item<'_, M, T> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`] or [`crate::Error::Rows`].
    pub fn validate(&self, op: &Dequantize) -> Result<()> {
        let n = M::len_mut(&self.out);
        op.grouping.validate(n)?;
        length("words", words(n, 2), M::len(&self.words))?;
        length("scales", op.grouping.groups(n), M::len(&self.scales))
    }
}

operation!(Dequantize, "dequantize", Item<T>, Nothing);
