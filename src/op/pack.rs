//! Pack and convert: i8 trits, separate planes and 2-bit fields, from and to planes.

use super::item::item;
use super::{length, operation};
use crate::error::Result;
use crate::memory::Memory;
use crate::numerics::pack::words;

/// Interleaved planes against two separate ones, in words.
fn planes(interleaved: usize, plus: usize, minus: usize) -> Result<()> {
    length("plus plane", interleaved / 2, plus)?;
    length("minus plane", interleaved / 2, minus)?;
    length("words", 2 * plus, interleaved)
}

/// Planes against 2-bit fields, in words: as many, and even.
fn fields_of(planes: usize, fields: usize) -> Result<()> {
    length("words", planes.next_multiple_of(2), planes)?;
    length("2-bit fields", planes, fields)
}

/// i8 trits to planes; an i8 outside -1..=1 becomes 0 and is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pack;

impl Pack {
    /// Checks the parameters: there are none.
    ///
    /// # Errors
    ///
    /// None.
    pub const fn validate(&self) -> Result<()> {
        Ok(())
    }
}

item! {
    /// One tensor to convert.
    pub struct PackItem {
        /// `n` trits.
        trits: read(i8),
        /// Planes: `2 ceil(n / 32)` words.
        words: write(u32),
        /// The slot of the reports that takes what is found.
        report: report,
    }
}

impl<M: Memory + ?Sized> PackItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`].
    pub fn validate(&self, _: &Pack) -> Result<()> {
        length("words", words(M::len(&self.trits), 2), M::len_mut(&self.words))
    }
}

operation!(Pack, "pack", PackItem, Found);

/// Planes to i8 trits; an invalid pair becomes 0 and is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpack;

impl Unpack {
    /// Checks the parameters: there are none.
    ///
    /// # Errors
    ///
    /// None.
    pub const fn validate(&self) -> Result<()> {
        Ok(())
    }
}

item! {
    /// One tensor to convert.
    pub struct UnpackItem {
        /// Planes: `2 ceil(n / 32)` words.
        words: read(u32),
        /// `n` trits.
        trits: write(i8),
        /// The slot of the reports that takes what is found.
        report: report,
    }
}

impl<M: Memory + ?Sized> UnpackItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`].
    pub fn validate(&self, _: &Unpack) -> Result<()> {
        length("words", words(M::len_mut(&self.trits), 2), M::len(&self.words))
    }
}

operation!(Unpack, "unpack", UnpackItem, Found);

/// Interleaved planes to two separate ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitPlanes;

impl SplitPlanes {
    /// Checks the parameters: there are none.
    ///
    /// # Errors
    ///
    /// None.
    pub const fn validate(&self) -> Result<()> {
        Ok(())
    }
}

item! {
    /// One tensor to convert.
    pub struct SplitPlanesItem {
        /// Planes: an even number of words.
        words: read(u32),
        /// The plus plane: half as many.
        plus: write(u32),
        /// The minus plane: half as many.
        minus: write(u32),
    }
}

impl<M: Memory + ?Sized> SplitPlanesItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`].
    pub fn validate(&self, _: &SplitPlanes) -> Result<()> {
        planes(M::len(&self.words), M::len_mut(&self.plus), M::len_mut(&self.minus))
    }
}

operation!(SplitPlanes, "split_planes", SplitPlanesItem, Nothing);

/// Two separate planes to interleaved ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JoinPlanes;

impl JoinPlanes {
    /// Checks the parameters: there are none.
    ///
    /// # Errors
    ///
    /// None.
    pub const fn validate(&self) -> Result<()> {
        Ok(())
    }
}

item! {
    /// One tensor to convert.
    pub struct JoinPlanesItem {
        /// The plus plane.
        plus: read(u32),
        /// The minus plane: as many words.
        minus: read(u32),
        /// Planes: twice as many.
        words: write(u32),
    }
}

impl<M: Memory + ?Sized> JoinPlanesItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`].
    pub fn validate(&self, _: &JoinPlanes) -> Result<()> {
        planes(M::len_mut(&self.words), M::len(&self.plus), M::len(&self.minus))
    }
}

operation!(JoinPlanes, "join_planes", JoinPlanesItem, Nothing);

/// Planes to 2-bit fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanesToFields;

impl PlanesToFields {
    /// Checks the parameters: there are none.
    ///
    /// # Errors
    ///
    /// None.
    pub const fn validate(&self) -> Result<()> {
        Ok(())
    }
}

item! {
    /// One tensor to convert.
    pub struct PlanesToFieldsItem {
        /// Planes: an even number of words.
        words: read(u32),
        /// 2-bit fields: as many.
        fields: write(u32),
    }
}

impl<M: Memory + ?Sized> PlanesToFieldsItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`].
    pub fn validate(&self, _: &PlanesToFields) -> Result<()> {
        fields_of(M::len(&self.words), M::len_mut(&self.fields))
    }
}

operation!(PlanesToFields, "planes_to_fields", PlanesToFieldsItem, Nothing);

/// 2-bit fields to planes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldsToPlanes;

impl FieldsToPlanes {
    /// Checks the parameters: there are none.
    ///
    /// # Errors
    ///
    /// None.
    pub const fn validate(&self) -> Result<()> {
        Ok(())
    }
}

item! {
    /// One tensor to convert.
    pub struct FieldsToPlanesItem {
        /// 2-bit fields: an even number of words.
        fields: read(u32),
        /// Planes: as many.
        words: write(u32),
    }
}

impl<M: Memory + ?Sized> FieldsToPlanesItem<'_, M> {
    /// Checks lengths.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Length`].
    pub fn validate(&self, _: &FieldsToPlanes) -> Result<()> {
        fields_of(M::len_mut(&self.words), M::len(&self.fields))
    }
}

operation!(FieldsToPlanes, "fields_to_planes", FieldsToPlanesItem, Nothing);
