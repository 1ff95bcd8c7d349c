//! Read out: levels or counts become floats.

use super::accumulate::bits_among;
use super::item::item;
use super::{BlockSize, Element, finite, length, operation};
use crate::error::Result;
use crate::memory::Memory;
use crate::numerics::pack::words;

/// Widths that can be read out: levels of 2 (planes), 4 and 8 bits, counts of 4, 8, 16 and 32.
pub const BITS: &[u32] = &[2, 4, 8, 16, 32];

/// Parameters of read out: `out[i] = l[i] s[block of i] factor`, the real product rounded once to f32
/// ([`crate::numerics::level::read_out`]), then to the output type (nearest even). What lies above the largest finite
/// number of the output type becomes that number.
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

item! {
    /// One tensor to read out. `n` is the length of `out`.
    pub struct Item<T> {
        /// Levels or counts: `bits ceil(n / 32)` words.
        levels: read(u32),
        /// bf16 scales, one a block.
        scales: read(u16),
        /// The result.
        out: write(T),
        /// Where this is the slot of a report that counts non-finite elements, the whole output is written as NaN
        /// (f32 `0x7fffffff`, f16 and bf16 `0x7fff`) instead: an unchecked asynchronous read-out is loud, not wrong.
        guard: guard,
    }
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

operation!(ReadOut, "read_out", Item<T>, Guards);

/// Parameters of read out for sums held in f32: `out[i] = sum[i] factor`, rounded as for [`ReadOut`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadOutF32 {
    /// 1 for the sum; `1 / (sum of weights)` for the mean.
    pub factor: f32,
}

impl ReadOutF32 {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Parameter`] for a factor that is not finite.
    pub fn validate(&self) -> Result<()> {
        finite("factor", self.factor)
    }
}

item! {
    /// One tensor to read out. `n` is the length of `out`.
    pub struct F32Item<T> {
        /// The sum: `n` floats.
        sum: read(f32),
        /// The result.
        out: write(T),
        /// As for [`Item::guard`].
        guard: guard,
    }
}

impl<M: Memory + ?Sized, T: Element> F32Item<'_, M, T> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`].
    pub fn validate(&self, _: &ReadOutF32) -> Result<()> {
        length("sum", M::len_mut(&self.out), M::len(&self.sum))
    }
}

operation!(ReadOutF32, "read_out_f32", F32Item<T>, Guards);
