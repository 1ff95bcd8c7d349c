//! Operations as types, and the proof that a call was checked.

use super::item::{Rewrap, Slots};
use super::side::Side;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::types::Element;

/// The parameters of an operation. Made with the crate's own macro, never by a user.
pub trait Operation: Sized {
    /// The name, as in [`super::Backend`].
    const NAME: &'static str;
    /// What one tensor brings.
    type Item<'a, M: Memory + ?Sized, T: Element>;
    /// What stands beside the list.
    type Side: Side;

    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// What the operation says.
    fn validate(&self) -> Result<()>;

    /// Checks lengths and position of an item.
    ///
    /// # Errors
    ///
    /// What the item says.
    fn validate_item<M: Memory + ?Sized, T: Element>(&self, item: &Self::Item<'_, M, T>) -> Result<()>;

    /// Checks that every view of an item can be used here.
    ///
    /// # Errors
    ///
    /// [`Error::WrongDevice`].
    fn accepted<M: Memory + ?Sized, T: Element>(item: &Self::Item<'_, M, T>, memory: &M) -> Result<()>;

    /// The slots that an item names.
    fn slots<M: Memory + ?Sized, T: Element>(item: &Self::Item<'_, M, T>) -> Slots;

    /// An item with the views of another kind of memory.
    ///
    /// # Errors
    ///
    /// [`Error::WrongDevice`].
    fn rewrap<'s, M, N, T>(item: &'s mut Self::Item<'_, M, T>, by: &impl Rewrap<M, N>) -> Result<Self::Item<'s, N, T>>
    where
        M: Memory + ?Sized,
        N: Memory + ?Sized,
        T: Element;
}

/// A call whose parameters, lengths, positions, slots and devices were checked: [`check`] alone makes one. Launch floors
/// take nothing else, and their unsafe code rests on it.
pub struct Checked<'c, 'v, M: Memory + ?Sized + 'c, O: Operation, T: Element> {
    op: &'c O,
    items: &'c mut [O::Item<'v, M, T>],
    side: <O::Side as Side>::On<'c, M>,
}

/// Parameters, items, and what stands beside them.
pub type Parts<'c, 'v, M, O, T> =
    (&'c O, &'c mut [<O as Operation>::Item<'v, M, T>], <<O as Operation>::Side as Side>::On<'c, M>);

impl<'c, 'v, M: Memory + ?Sized, O: Operation, T: Element> Checked<'c, 'v, M, O, T> {
    /// The parameters, the items, and what stands beside them.
    #[must_use]
    pub fn into_parts(self) -> Parts<'c, 'v, M, O, T> {
        (self.op, self.items, self.side)
    }

    /// The same call on another kind of memory, whose views are of the same lengths.
    ///
    /// # Errors
    ///
    /// [`Error::WrongDevice`] from the one who turns views; otherwise what `f` returns.
    pub(crate) fn rewrapped<N: Memory + ?Sized, R>(
        mut self,
        by: &impl Rewrap<M, N>,
        f: impl FnOnce(Checked<'_, '_, N, O, T>) -> Result<R>,
    ) -> Result<R> {
        let mut items = self.items.iter_mut().map(|item| O::rewrap(item, by)).collect::<Result<Vec<_>>>()?;
        let side = O::Side::rewrap(&mut self.side, by)?;
        f(Checked { op: self.op, items: &mut items, side })
    }
}

/// Checks a call: the parameters; lengths, position and device of every item; that every slot exists.
///
/// # Errors
///
/// What the operation and its items say, [`Error::Index`] for a slot that does not exist, [`Error::WrongDevice`].
pub fn check<'c, 'v, M: Memory + ?Sized, O: Operation, T: Element>(
    memory: &M,
    op: &'c O,
    items: &'c mut [O::Item<'v, M, T>],
    side: <O::Side as Side>::On<'c, M>,
) -> Result<Checked<'c, 'v, M, O, T>> {
    op.validate()?;
    O::Side::accepted(memory, &side)?;
    let there = O::Side::slots(&side);
    for item in items.iter() {
        op.validate_item(item)?;
        O::accepted(item, memory)?;
        let named = O::slots(item);
        slot("report slot", named.report, there.reports)?;
        slot("guard slot", named.guard, there.guards)?;
        slot("sum slot", named.sum, there.sums)?;
    }
    Ok(Checked { op, items, side })
}

fn slot(what: &'static str, named: Option<usize>, there: usize) -> Result<()> {
    match named {
        Some(slot) if slot >= there => Err(Error::Index { what, index: slot as u64, count: there as u64 }),
        _ => Ok(()),
    }
}

/// How a backend runs an operation: one `impl` an operation, in the file of its name.
pub trait Launch<O: Operation>: Memory {
    /// Runs, or queues, what was checked. Operations without floats ignore `T`.
    ///
    /// # Errors
    ///
    /// What the device reports.
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, O, T>) -> Result<()>;
}

/// Checks a call and runs it: what every method of [`super::Backend`] does.
///
/// # Errors
///
/// As for [`check`] and [`Launch::launch`].
pub fn run<'c, M: Launch<O> + ?Sized, O: Operation, T: Element>(
    memory: &M,
    op: &'c O,
    items: &'c mut [O::Item<'_, M, T>],
    side: <O::Side as Side>::On<'c, M>,
) -> Result<()> {
    memory.launch::<T>(check(memory, op, items, side)?)
}
