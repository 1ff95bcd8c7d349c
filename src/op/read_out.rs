//! Read out: levels or counts become floats.

use super::accumulate::bits_among;
use super::{BlockSize, Element, finite, length};
use crate::backend::Memory;
use crate::error::Result;
use crate::numerics::pack::words;

/// Widths that can be read out: levels of 2 (planes), 4 and 8 bits, counts of 4, 8 and 16.
pub const BITS: &[u32] = &[2, 4, 8, 16];

/// Parameters of read out: `out[i] = (l[i] s[block of i]) factor`, the first product exact, the second rounded to f32
/// ([`crate::numerics::level::read_out`]), then to the output type (nearest even).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadOut {
    /// Bits a level or count.
    pub bits: u32,
    /// Elements a block.
    pub block: BlockSize,
    /// 1 for the sum; `1 / (sum of weights)` for the mean.
    pub factor: f32,
}

impl ReadOut {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`crate::Error::BitWidth`], [`crate::Error::Parameter`] for a factor that is not finite.
    pub fn validate(&self) -> Result<()> {
        bits_among(self.bits, BITS)?;
        finite("factor", self.factor)
    }
}

/// One tensor to read out. `n` is the length of `out`.
pub struct Item<'a, M: Memory + ?Sized, T: Element> {
    /// Levels or counts: `bits ceil(n / 32)` words.
    pub levels: M::View<'a, u32>,
    /// bf16 scales, one a block.
    pub scales: M::View<'a, u16>,
    /// The result.
    pub out: M::ViewMut<'a, T>,
    /// Where this is the slot of a report that counts non-finite elements, the whole output is written as NaN
    /// (f32 `0x7fffffff`, f16 and bf16 `0x7fff`) instead: an unchecked asynchronous read-out is loud, not wrong.
    pub guard: Option<usize>,
}

impl<M: Memory + ?Sized, T: Element> Item<'_, M, T> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`].
    pub fn validate(&self, op: &ReadOut) -> Result<()> {
        let n = M::len_mut(&self.out);
        length("levels", words(n, op.bits), M::len(&self.levels))?;
        length("scales", op.block.blocks(n), M::len(&self.scales))
    }
}
