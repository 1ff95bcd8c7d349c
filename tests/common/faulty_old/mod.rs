//! A backend that is wrong on purpose: the reference, with one fault planted. It shows that the suite can fail.

mod backend;
mod memory;

pub use memory::Part;

use crate::error::Result;
use crate::op::Report;
use bytemuck::Pod;
use std::cell::Cell;

/// What a [`Faulty`] backend does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing: the suite must pass.
    None,
    /// One bit of an output is flipped.
    FlippedBit,
    /// One bit of an output is flipped in every seventh call only.
    SometimesFlippedBit,
    /// The middle of an output holds all ones: a NaN where it is a float.
    PlantedNan,
    /// The last index of an output is not written.
    SkippedTail,
    /// The element after an output is written.
    WrittenPastEnd,
    /// The element before an output is written.
    WrittenBeforeStart,
    /// Outputs are not written at all.
    StaleOutput,
    /// Outputs that start at an odd element are written from the even element before.
    RoundedOffset,
    /// Two arguments change places.
    SwappedArguments,
    /// The last item of a list is not done.
    SkippedItem,
    /// The position of the first element is taken for 0.
    IgnoredPosition,
    /// An input is written.
    ChangedInput,
    /// Nothing is reported.
    MissingReport,
    /// All is reported twice.
    DoubleReport,
    /// Clipped elements are not reported.
    MissingClipped,
    /// The first index is one too high.
    LateFirst,
    /// Wrong arguments are refused after outputs were written.
    LateCheck,
    /// Wrong arguments are taken.
    NoCheck,
    /// A returned number is off by the lowest bit.
    WrongNumber,
}

/// The reference with a fault. Views know the whole buffer, so that they can be overrun.
#[derive(Debug)]
pub struct Faulty {
    fault: Fault,
    calls: Cell<u32>,
}

impl Faulty {
    /// The reference with a fault.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Faulty { fault, calls: Cell::new(0) }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// How many items of a list are done.
    fn done(&self, items: usize) -> usize {
        if self.is(Fault::SkippedItem) && items > 1 { items - 1 } else { items }
    }

    fn first(&self, first: u64) -> u64 {
        if self.is(Fault::IgnoredPosition) { 0 } else { first }
    }

    /// Writes an output, faults and all; `good` is whether the call was accepted.
    fn store<T: Pod>(&self, to: &Part<'_, T>, data: &[T], good: bool) {
        let ones = |value: &mut T| bytemuck::bytes_of_mut(value).fill(0xff);
        let flip = |value: &mut T| bytemuck::bytes_of_mut(value)[0] ^= 1;
        let mut data = data.to_vec();
        let n = data.len();
        if !good {
            if self.is(Fault::LateCheck) {
                data.iter_mut().for_each(flip);
                to.write(0, &data);
            }
            return;
        }
        let (mut at, mut count) = (0, n);
        match self.fault {
            Fault::FlippedBit => data.get_mut(n / 2).map_or((), flip),
            Fault::SometimesFlippedBit if self.calls.get() % 7 == 6 => data.get_mut(n / 2).map_or((), flip),
            Fault::PlantedNan => data.get_mut(n / 2).map_or((), ones),
            Fault::SkippedTail => count = n.saturating_sub(1),
            Fault::StaleOutput => count = 0,
            Fault::RoundedOffset if to.is_odd() => at = -1,
            Fault::WrittenPastEnd => to.write(n as isize, &[T::zeroed()]),
            Fault::WrittenBeforeStart => to.write(-1, &[T::zeroed()]),
            _ => {}
        }
        to.write(at, &data[..count]);
    }

    /// Spoils an input.
    fn spoil<T: Pod>(&self, input: &Part<'_, T>) {
        if self.is(Fault::ChangedInput) {
            let mut first = input.read();
            first.truncate(1);
            first.iter_mut().for_each(|x| bytemuck::bytes_of_mut(x)[0] ^= 0x10);
            input.write(0, &first);
        }
    }

    /// Adds what was found in a call.
    fn report(&self, reports: &mut [Report], found: &[Report]) {
        for (report, found) in reports.iter_mut().zip(found) {
            let mut found = *found;
            match self.fault {
                Fault::MissingReport => found = Report::default(),
                Fault::DoubleReport => found.merge(found),
                Fault::MissingClipped => found.clipped = 0,
                Fault::LateFirst => found.first = found.first.map(|f| f + 1),
                _ => {}
            }
            report.merge(found);
        }
    }

    /// What a call returns.
    fn end<R: Default>(&self, result: Result<R>) -> Result<R> {
        self.calls.set(self.calls.get() + 1);
        if self.is(Fault::NoCheck) { result.or_else(|_| Ok(R::default())) } else { result }
    }
}
