//! The words that every room uses: element types, blocks, groupings, draws, reports, and the checks of lengths.

use crate::error::{Error, Result};
use crate::numerics::constants::{BLOCK_DEFAULT, BLOCK_MAX, BLOCK_MIN, ELEMENTS_MAX, GROUP, MICRO_BATCHES_MAX};
use crate::numerics::draw::Position;
use crate::numerics::float;

/// A float type that gradients come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// f32, f16 or bf16.
pub trait Element: bytemuck::Pod + Send + Sync + std::fmt::Debug + PartialEq + sealed::Sealed + 'static {
    /// Which of the three.
    const TYPE: ElementType;
    /// The value as f32 bits; exact.
    fn to_f32_bits(self) -> u32;
    /// The f32 with these bits, rounded to nearest even.
    fn from_f32_bits(bits: u32) -> Self;
    /// The same, but what would become infinite becomes the largest finite number: how operations write floats.
    #[inline]
    fn from_f32_bits_saturating(bits: u32) -> Self {
        let most = match Self::TYPE {
            ElementType::F32 => 0x7f7f_ffff,
            ElementType::F16 => 0x477f_e000, // 65504
            ElementType::Bf16 => 0x7f7f_0000,
        };
        // A NaN, whose magnitude lies above that of infinity, stays one.
        let magnitude = bits & 0x7fff_ffff;
        let over = magnitude > most && magnitude <= 0x7f80_0000;
        Self::from_f32_bits(if over { bits & 0x8000_0000 | most } else { bits })
    }
}

impl Element for f32 {
    const TYPE: ElementType = ElementType::F32;
    #[inline]
    fn to_f32_bits(self) -> u32 {
        self.to_bits()
    }
    #[inline]
    fn from_f32_bits(bits: u32) -> Self {
        f32::from_bits(bits)
    }
}

impl Element for half::f16 {
    const TYPE: ElementType = ElementType::F16;
    #[inline]
    fn to_f32_bits(self) -> u32 {
        float::f16_to_f32(self.to_bits())
    }
    #[inline]
    fn from_f32_bits(bits: u32) -> Self {
        half::f16::from_bits(float::f32_to_f16(bits))
    }
}

impl Element for half::bf16 {
    const TYPE: ElementType = ElementType::Bf16;
    #[inline]
    fn to_f32_bits(self) -> u32 {
        float::bf16_to_f32(self.to_bits())
    }
    #[inline]
    fn from_f32_bits(bits: u32) -> Self {
        half::bf16::from_bits(float::f32_to_bf16(bits))
    }
}

/// Elements that share one scale in a block: a power of two from 32 to 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockSize(u32);

impl BlockSize {
    /// A block size.
    ///
    /// # Errors
    ///
    /// [`Error::BlockSize`] unless `elements` is a power of two from 32 to 4096.
    pub const fn new(elements: u32) -> Result<Self> {
        if elements.is_power_of_two() && elements >= BLOCK_MIN && elements <= BLOCK_MAX {
            Ok(BlockSize(elements))
        } else {
            Err(Error::BlockSize { got: elements, min: BLOCK_MIN, max: BLOCK_MAX })
        }
    }

    /// The number of elements.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Scales that a tensor of `n` elements has: one for each started block.
    #[must_use]
    pub const fn blocks(self, n: usize) -> usize {
        n.div_ceil(self.0 as usize)
    }
}

impl Default for BlockSize {
    /// 64 elements.
    fn default() -> Self {
        BlockSize(BLOCK_DEFAULT)
    }
}

/// Which elements share a scale; always consecutive ones, so a packed tensor keeps one flat layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grouping {
    /// Blocks of a power of two from the first element on; the last may be shorter.
    Block(BlockSize),
    /// Rows of this many elements; the length must be a multiple of it.
    Row(u64),
    /// The whole tensor.
    Tensor,
}

impl Default for Grouping {
    fn default() -> Self {
        Grouping::Block(BlockSize::default())
    }
}

impl Grouping {
    /// Elements in a (full) group of a tensor of `n` elements; at least 1.
    #[must_use]
    pub const fn size(self, n: usize) -> usize {
        match self {
            Grouping::Block(b) => b.get() as usize,
            Grouping::Row(cols) => {
                if cols == 0 {
                    1
                } else if cols > usize::MAX as u64 {
                    usize::MAX
                } else {
                    cols as usize
                }
            }
            Grouping::Tensor => {
                if n == 0 {
                    1
                } else {
                    n
                }
            }
        }
    }

    /// Scales that a tensor of `n` elements has.
    #[must_use]
    pub const fn groups(self, n: usize) -> usize {
        n.div_ceil(self.size(n))
    }

    /// Checks that a tensor of `n` elements divides into rows.
    ///
    /// # Errors
    ///
    /// [`Error::Rows`] where `n` is not a multiple of the row, or the row is 0.
    pub const fn validate(self, n: usize) -> Result<()> {
        match self {
            Grouping::Row(cols) if cols == 0 || !(n as u64).is_multiple_of(cols) => {
                Err(Error::Rows { elements: n as u64, columns: cols })
            }
            _ => Ok(()),
        }
    }
}

/// The seed and the place in the run that all draws of a call share; the tensor's number comes with each item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draw {
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u32,
    /// The global micro-batch within the step, below 2^24; across workers, number them through.
    pub micro_batch: u32,
}

impl Draw {
    /// A draw at a seed and step, micro-batch 0.
    #[must_use]
    pub const fn new(seed: u64, step: u32) -> Self {
        Draw { seed, step, micro_batch: 0 }
    }

    /// The same with another micro-batch.
    #[must_use]
    pub const fn micro_batch(self, micro_batch: u32) -> Self {
        Draw { micro_batch, ..self }
    }

    /// Where the draws of one tensor are made.
    #[must_use]
    pub const fn position(&self, tensor: u32, domain: u32) -> Position {
        Position { seed: self.seed, step: self.step, micro_batch: self.micro_batch, tensor, domain }
    }

    pub(crate) const fn validate(&self) -> Result<()> {
        if self.micro_batch < MICRO_BATCHES_MAX {
            Ok(())
        } else {
            Err(Error::Limit {
                what: "micro-batch index",
                got: self.micro_batch as u64,
                limit: MICRO_BATCHES_MAX as u64 - 1,
            })
        }
    }
}

/// What an operation found on the way: read it with [`crate::memory::Memory::read_reports`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Elements that were NaN, Inf or 2^126 and above, and so counted as zero (for pack and unpack: invalid trits).
    pub non_finite: u64,
    /// Index in the tensor of the first of them.
    pub first: Option<u64>,
    /// Elements whose magnitude was cut: above a window's scale, or above `c` sigma.
    pub clipped: u64,
}

impl Report {
    /// Adds what another part of the same tensor found.
    pub fn merge(&mut self, other: Report) {
        // A count read from a file may be any.
        self.non_finite = self.non_finite.saturating_add(other.non_finite);
        self.clipped = self.clipped.saturating_add(other.clipped);
        self.first = match (self.first, other.first) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    /// Checks what was not found by an operation but given: a first element where there are any, within `n`.
    pub(crate) fn validate(&self, n: usize) -> Result<()> {
        match (self.non_finite, self.first) {
            (0, None) => Ok(()),
            (1.., Some(first)) if first < n as u64 => Ok(()),
            (non_finite, first) => Err(Error::ImpossibleReport { non_finite, first, elements: n as u64 }),
        }
    }

    /// The error for a non-finite input, if there was one.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] with the count and the first index.
    pub fn finite(&self) -> Result<()> {
        match self.first {
            Some(first) => Err(Error::NonFinite { count: self.non_finite, first }),
            None => Ok(()),
        }
    }
}

pub(crate) fn length(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::Length { what, expected: expected as u64, got: got as u64 }) }
}

/// Checks a number that must be finite; a subnormal counts as zero and is allowed.
pub(crate) fn finite(name: &'static str, got: f32) -> Result<()> {
    if got.is_finite() { Ok(()) } else { Err(Error::Parameter { name, got: f64::from(got), requirement: "finite" }) }
}

/// Checks the part of a tensor that an item covers: `first..first + n`, with `first` where a group of 32 and a block or
/// row begin. What shares a scale is then never cut.
pub(crate) fn span(first: u64, n: usize, grouping: Grouping) -> Result<()> {
    let aligned = |multiple| {
        let what = "first element";
        if first.is_multiple_of(multiple) { Ok(()) } else { Err(Error::Alignment { what, got: first, multiple }) }
    };
    match grouping {
        Grouping::Block(b) => aligned(u64::from(b.get()))?,
        Grouping::Row(cols) => {
            aligned(GROUP as u64)?;
            aligned(cols.max(1))?;
        }
        Grouping::Tensor => aligned(GROUP as u64)?,
    }
    within(first, n)
}

/// Checks that `first..first + n` lies within what a tensor can have.
pub(crate) fn within(first: u64, n: usize) -> Result<()> {
    match first.checked_add(n as u64) {
        Some(end) if end <= ELEMENTS_MAX => Ok(()),
        end => Err(Error::Limit { what: "elements in a tensor", got: end.unwrap_or(u64::MAX), limit: ELEMENTS_MAX }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micro_batches_end_at_two_to_the_24() {
        let draw = Draw::new(1, 2).micro_batch(MICRO_BATCHES_MAX - 1);
        assert_eq!(draw, Draw { seed: 1, step: 2, micro_batch: 0x00ff_ffff });
        draw.validate().unwrap();
        let e = draw.micro_batch(MICRO_BATCHES_MAX).validate().unwrap_err();
        assert!(matches!(e, Error::Limit { got: 0x0100_0000, limit: 0x00ff_ffff, .. }), "{e}");
    }

    #[test]
    fn groupings_by_hand() {
        let block = Grouping::Block(BlockSize::new(64).unwrap());
        assert_eq!([0, 1, 64, 65].map(|n| block.groups(n)), [0, 1, 1, 2]);
        assert_eq!([0, 1, 65].map(|n| Grouping::Tensor.size(n)), [1, 1, 65]);
        assert_eq!([0, 1, 65].map(|n| Grouping::Tensor.groups(n)), [0, 1, 1]);
        assert_eq!([0, 3, 12].map(|n| Grouping::Row(3).groups(n)), [0, 1, 4]);
        assert_eq!([0, 3, u64::MAX].map(|cols| Grouping::Row(cols).size(12)), [1, 3, usize::MAX]);
        assert_eq!([block, Grouping::Tensor].map(|g| g.validate(7).is_ok()), [true; 2]);
        for (cols, n, valid) in
            [(3, 0, true), (3, 12, true), (3, 13, false), (3, 2, false), (0, 0, false), (0, 3, false)]
        {
            assert_eq!(Grouping::Row(cols).validate(n).is_ok(), valid, "{n} elements in rows of {cols}");
        }
        assert!([31, 32, 48, 4096, 8192].map(|b| BlockSize::new(b).is_ok()) == [false, true, false, true, false]);
    }

    #[test]
    fn items_begin_with_a_group_and_end_within_what_a_tensor_can_have() {
        let block = Grouping::Block(BlockSize::new(64).unwrap());
        let valid = |first, grouping| span(first, 5, grouping).is_ok();
        assert_eq!([0, 64, 32, 65].map(|first| valid(first, block)), [true, true, false, false]);
        assert_eq!([0, 96, 32, 48].map(|first| valid(first, Grouping::Row(48))), [true, true, false, false]);
        assert_eq!([0, 32, 33].map(|first| valid(first, Grouping::Tensor)), [true, true, false]);
        assert!(valid(64, Grouping::Row(0)));
        assert!(within(ELEMENTS_MAX - 5, 5).is_ok() && within(0, 0).is_ok());
        let got = |first, n| match within(first, n) {
            Err(Error::Limit { got, limit: ELEMENTS_MAX, .. }) => got,
            _ => 0,
        };
        assert_eq!([got(ELEMENTS_MAX - 4, 5), got(u64::MAX, 5)], [ELEMENTS_MAX + 1, u64::MAX]);
    }

    /// A first element where there are any, and within the tensor.
    #[test]
    fn a_report_that_is_given_is_one_that_could_be_found() {
        let valid = |non_finite, first, n| Report { non_finite, first, clipped: 3 }.validate(n).is_ok();
        assert!(valid(0, None, 0) && valid(0, None, 5));
        assert!(valid(1, Some(0), 5) && valid(7, Some(4), 5));
        assert!(!valid(1, Some(5), 5) && !valid(1, Some(6), 5) && !valid(1, Some(0), 0));
        assert!(!valid(1, None, 5) && !valid(0, Some(0), 5));
        for (non_finite, first) in [(0, Some(3)), (2, Some(7)), (1, None)] {
            let e = Report { non_finite, first, clipped: 0 }.validate(5).unwrap_err();
            assert!(matches!(e, Error::ImpossibleReport { elements: 5, .. }), "{e}");
        }
    }

    #[test]
    fn reports_merge_to_the_first_and_the_sum() {
        let report = |non_finite, first, clipped| Report { non_finite, first, clipped };
        let merged = |mut a: Report, b| {
            a.merge(b);
            a
        };
        let (a, b, none) = (report(2, Some(7), 1), report(3, Some(5), 4), report(0, None, 9));
        assert_eq!(merged(a, b), report(5, Some(5), 5));
        assert_eq!(merged(b, a), report(5, Some(5), 5));
        assert_eq!([merged(a, none), merged(none, a)], [report(2, Some(7), 10); 2]);
        let full = report(u64::MAX, None, u64::MAX);
        assert_eq!(merged(full, a), report(u64::MAX, Some(7), u64::MAX));
    }
}
