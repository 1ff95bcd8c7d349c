//! The contract of each operation, a family a file: its parameters, what one tensor brings (its item), and its check.
//! Nothing runs here.
//!
//! | file | operations |
//! |---|---|
//! | [`quantize`] | [`quantize::Quantize`]: gradient to planes and scales |
//! | [`dequantize`] | [`dequantize::Dequantize`]: planes and scales to floats |
//! | [`accumulate`] | [`accumulate::Adaptive`], [`accumulate::Exact`], [`accumulate::F32`]: a gradient added to a sum |
//! | [`window`] | [`window::Look`], [`window::WindowScales`], [`window::CompareScales`], [`window::Merge`]: windows of exact counts |
//! | [`read_out`] | [`read_out::ReadOut`]: levels or counts to floats |
//! | [`mod@check`] | [`check::Check`]: finds elements out of range |
//! | [`pack`] | i8 trits, separate planes and 2-bit fields, from and to planes |
//! | [`reduce`] | [`reduce::Dot`], [`reduce::SquaredNorm`], [`reduce::SquaredNormF32`], [`reduce::CountNonzero`] |
//! | [`update`] | [`update::Sgd`], [`update::AdamW`]: weights straight from levels and scales |
//! | [`update_adamw_8bit`] | [`update_adamw_8bit::AdamW8`]: the same with moments in 8 bits |
//! | [`state`] | [`state::AdvanceMicroBatch`], [`state::Decide`], [`state::AdvanceStep`]: a training's state on the device |
//!
//! # The way of a call
//!
//! A user calls a method of [`Backend`] with parameters, a list of items and reports. [`check()`] looks at all of it once and
//! gives a [`Checked`] list; a backend's [`Launch`] takes nothing else, so that no backend can forget a check and its
//! unsafe code can rely on the type. An error leaves outputs, state and reports as they were.

pub mod accumulate;
mod backend;
pub mod check;
mod checked;
pub mod dequantize;
pub mod item;
pub mod pack;
pub mod quantize;
pub mod read_out;
pub mod reduce;
pub mod side;
pub mod state;
pub mod update;
pub mod update_adamw_8bit;
pub mod window;

pub use crate::types::{BlockSize, Draw, Element, ElementType, Grouping, Report};
pub(crate) use crate::types::{finite, length, span, within};
pub use backend::{Backend, OPERATIONS};
pub use checked::{Checked, Launch, Operation, Parts, check, run};

/// Makes a struct of parameters an [`Operation`]: its name, its item (with `<T>` where it has floats), and what stands
/// beside the list.
macro_rules! operation {
    ($op:ty, $name:literal, $item:ident<T>, $side:ident) => {
        $crate::op::operation!(@ $op, $name, $item<'a, M, T>, $side);
    };
    ($op:ty, $name:literal, $item:ident, $side:ident) => {
        $crate::op::operation!(@ $op, $name, $item<'a, M>, $side);
    };
    (@ $op:ty, $name:literal, $item:ty, $side:ident) => {
        impl $crate::op::Operation for $op {
            const NAME: &'static str = $name;
            type Item<'a, M: $crate::memory::Memory + ?Sized, T: $crate::types::Element> = $item;
            type Side = $crate::op::side::$side;

            fn validate(&self) -> $crate::error::Result<()> {
                <$op>::validate(self)
            }

            fn validate_item<M: $crate::memory::Memory + ?Sized, T: $crate::types::Element>(
                &self,
                item: &Self::Item<'_, M, T>,
            ) -> $crate::error::Result<()> {
                item.validate(self)
            }

            fn accepted<M: $crate::memory::Memory + ?Sized, T: $crate::types::Element>(
                item: &Self::Item<'_, M, T>,
                memory: &M,
            ) -> $crate::error::Result<()> {
                item.accepted(memory)
            }

            fn slots<M: $crate::memory::Memory + ?Sized, T: $crate::types::Element>(
                item: &Self::Item<'_, M, T>,
            ) -> $crate::op::item::Slots {
                item.slots()
            }

            fn rewrap<'s, M, N, T>(
                item: &'s mut Self::Item<'_, M, T>,
                by: &impl $crate::op::item::Rewrap<M, N>,
            ) -> $crate::error::Result<Self::Item<'s, N, T>>
            where
                M: $crate::memory::Memory + ?Sized,
                N: $crate::memory::Memory + ?Sized,
                T: $crate::types::Element,
            {
                item.rewrap(by)
            }
        }
    };
}
pub(crate) use operation;
