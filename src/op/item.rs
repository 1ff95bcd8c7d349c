//! What one tensor brings to an operation, and the macro that declares it.
//!
//! An item's fields are of few kinds: plain values, the index of the first element, views that are read, views that are
//! written, and slots of the reports or sums. The macro writes the struct, and from the kinds what every item needs: are
//! all views usable here, which slots does it name, and the same item with the views of another kind of memory.

use crate::error::Result;
use crate::memory::Memory;
use bytemuck::Pod;

/// Turns the views of one kind of memory into those of another: how [`crate::device::Device`] calls its backends.
pub trait Rewrap<A: Memory + ?Sized, B: Memory + ?Sized> {
    /// A view that is read.
    ///
    /// # Errors
    ///
    /// [`crate::Error::WrongDevice`].
    fn view<'s, 'l: 's, T: Pod + Send + Sync>(&self, view: A::View<'l, T>) -> Result<B::View<'s, T>>;
    /// A view that is written.
    ///
    /// # Errors
    ///
    /// [`crate::Error::WrongDevice`].
    fn view_mut<'s, T: Pod + Send + Sync>(&self, view: &'s mut A::ViewMut<'_, T>) -> Result<B::ViewMut<'s, T>>;
    /// Reports that are read.
    ///
    /// # Errors
    ///
    /// [`crate::Error::WrongDevice`].
    fn reports<'r>(&self, reports: &'r A::Reports) -> Result<&'r B::Reports>;
    /// Reports that are added to.
    ///
    /// # Errors
    ///
    /// [`crate::Error::WrongDevice`].
    fn reports_mut<'r>(&self, reports: &'r mut A::Reports) -> Result<&'r mut B::Reports>;
    /// The index of an item's first element in its tensor: as it is.
    fn first(&self, first: u64) -> u64 {
        first
    }
}

/// The slots that an item names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// The slot of the reports that takes what is found.
    pub report: Option<usize>,
    /// The slot of the guards that is looked at.
    pub guard: Option<usize>,
    /// The slot of the sums that is added to.
    pub sum: Option<usize>,
}

impl Slots {
    /// The same with a slot of the reports.
    pub(crate) const fn with_report(self, slot: usize) -> Self {
        Slots { report: Some(slot), ..self }
    }

    /// The same with a slot of the guards, or none.
    pub(crate) const fn with_guard(self, slot: Option<usize>) -> Self {
        Slots { guard: slot, ..self }
    }

    /// The same with a slot of the sums.
    pub(crate) const fn with_sum(self, slot: usize) -> Self {
        Slots { sum: Some(slot), ..self }
    }
}

/// Declares an item; see the [module](self).
macro_rules! item {
    (
        $(#[$meta:meta])*
        pub struct $name:ident $(<$t:ident>)? { $($(#[$field_meta:meta])* $field:ident: $kind:ident $(($ty:ty))?),* $(,)? }
    ) => {
        $(#[$meta])*
        pub struct $name<'a, M: $crate::memory::Memory + ?Sized $(, $t: $crate::types::Element)?> {
            $($(#[$field_meta])* pub $field: $crate::op::item::field_type!($kind, 'a, M $(, $ty)?),)*
        }

        impl<'a, M: $crate::memory::Memory + ?Sized $(, $t: $crate::types::Element)?> $name<'a, M $(, $t)?> {
            /// Checks that every view can be used here.
            pub(crate) fn accepted(&self, memory: &M) -> $crate::error::Result<()> {
                let _ = memory;
                $($crate::op::item::field_accepted!($kind, memory, self.$field);)*
                Ok(())
            }

            /// The slots named.
            pub(crate) fn slots(&self) -> $crate::op::item::Slots {
                let slots = $crate::op::item::Slots::default();
                $(let slots = $crate::op::item::field_slot!($kind, slots, self.$field);)*
                slots
            }

            /// The same item with the views of another kind of memory.
            pub(crate) fn rewrap<'s, N: $crate::memory::Memory + ?Sized>(
                &'s mut self,
                by: &impl $crate::op::item::Rewrap<M, N>,
            ) -> $crate::error::Result<$name<'s, N $(, $t)?>> {
                Ok($name { $($field: $crate::op::item::field_rewrap!($kind, by, self.$field)),* })
            }
        }
    };
}

macro_rules! field_type {
    (value, $a:lifetime, $m:ident, $ty:ty) => { $ty };
    (first, $a:lifetime, $m:ident) => { u64 };
    (read, $a:lifetime, $m:ident, $ty:ty) => { $m::View<$a, $ty> };
    (write, $a:lifetime, $m:ident, $ty:ty) => { $m::ViewMut<$a, $ty> };
    (maybe_write, $a:lifetime, $m:ident, $ty:ty) => { Option<$m::ViewMut<$a, $ty>> };
    (gradient, $a:lifetime, $m:ident) => { $crate::op::update::Gradient<$a, $m> };
    (report, $a:lifetime, $m:ident) => { usize };
    (guard, $a:lifetime, $m:ident) => { Option<usize> };
    (sum, $a:lifetime, $m:ident) => { usize };
}

macro_rules! field_accepted {
    (read, $memory:ident, $field:expr) => {
        $memory.accepts(&$field)?
    };
    (write, $memory:ident, $field:expr) => {
        $memory.accepts_mut(&$field)?
    };
    (maybe_write, $memory:ident, $field:expr) => {
        if let Some(view) = &$field {
            $memory.accepts_mut(view)?;
        }
    };
    (gradient, $memory:ident, $field:expr) => {
        $field.accepted($memory)?
    };
    ($other:ident, $memory:ident, $field:expr) => {};
}

macro_rules! field_slot {
    (report, $slots:ident, $field:expr) => {
        $slots.with_report($field)
    };
    (guard, $slots:ident, $field:expr) => {
        $slots.with_guard($field)
    };
    (sum, $slots:ident, $field:expr) => {
        $slots.with_sum($field)
    };
    ($other:ident, $slots:ident, $field:expr) => {
        $slots
    };
}

macro_rules! field_rewrap {
    (first, $by:ident, $field:expr) => {
        $by.first($field)
    };
    (read, $by:ident, $field:expr) => {
        $by.view(M::shorten($field))?
    };
    (write, $by:ident, $field:expr) => {
        $by.view_mut(&mut $field)?
    };
    (maybe_write, $by:ident, $field:expr) => {
        $field.as_mut().map(|view| $by.view_mut(view)).transpose()?
    };
    (gradient, $by:ident, $field:expr) => {
        $field.rewrap($by)?
    };
    ($other:ident, $by:ident, $field:expr) => {
        $field.clone()
    };
}

pub(crate) use {field_accepted, field_rewrap, field_slot, field_type, item};
