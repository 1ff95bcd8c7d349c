//! A backend that is wrong on purpose: any operation of a correct one, with one fault planted.

use super::memory::{Found, Part, Written};
use std::any::TypeId;
use std::cell::{Cell, RefCell};
use trigrad::op::item::Rewrap;
use trigrad::op::side::Side;
use trigrad::op::{Checked, Element, Launch, Operation, Report, check};
use trigrad::{Memory, Result};

/// What a [`Faulty`] backend does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
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
    /// Two outputs of an item change places.
    SwappedOutputs,
    /// What was found goes to the slot of another item.
    SwappedSlots,
    /// The last item of a list is not done.
    SkippedItem,
    /// The position of the first element is taken for 0.
    IgnoredPosition,
    /// Sums are written where they are to be added to.
    ForgottenSums,
    /// Guards are not looked at.
    IgnoredGuards,
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
}

pub(crate) const FAULTS: [Fault; 19] = [
    Fault::FlippedBit,
    Fault::SometimesFlippedBit,
    Fault::PlantedNan,
    Fault::SkippedTail,
    Fault::WrittenPastEnd,
    Fault::WrittenBeforeStart,
    Fault::StaleOutput,
    Fault::RoundedOffset,
    Fault::SwappedOutputs,
    Fault::SwappedSlots,
    Fault::SkippedItem,
    Fault::IgnoredPosition,
    Fault::ForgottenSums,
    Fault::IgnoredGuards,
    Fault::ChangedInput,
    Fault::MissingReport,
    Fault::DoubleReport,
    Fault::MissingClipped,
    Fault::LateFirst,
];

/// A correct backend with a fault. Views know the whole buffer, so that they can be overrun.
#[derive(Debug)]
pub(crate) struct Faulty<B> {
    pub(crate) inner: B,
    pub(crate) fault: Fault,
    calls: Cell<u32>,
    /// How often each fault could have been made.
    chances: [Cell<u64>; FAULTS.len() + 1],
}

impl<B> Faulty<B> {
    /// A backend with a fault.
    pub(crate) fn new(inner: B, fault: Fault) -> Self {
        Faulty { inner, fault, calls: Cell::new(0), chances: Default::default() }
    }

    /// How often a fault was made, or could have been: 0 where the operations that ran cannot have it.
    pub(crate) fn chances(&self, fault: Fault) -> u64 {
        self.chances[fault as usize].get()
    }

    /// Whether to make a fault, where it would tell.
    fn makes(&self, fault: Fault, tells: bool) -> bool {
        let chances = &self.chances[fault as usize];
        chances.set(chances.get() + u64::from(tells));
        tells && self.fault == fault
    }
}

impl<B: Memory<Reports = Vec<Report>> + 'static> Faulty<B> {
    /// Writes an output, faults and all.
    pub(crate) fn store<T: bytemuck::Pod + Send + Sync>(&self, to: Part<'_, B, T>, data: &[T]) {
        let (mut data, before) = (data.to_vec(), to.read());
        let n = data.len();
        let differ = |a: &[T], b: &[T]| bytemuck::cast_slice::<T, u8>(a) != bytemuck::cast_slice::<T, u8>(b);
        let (mut at, mut count) = (0, n);
        let mut ones = data.get(n / 2).copied();
        ones.iter_mut().for_each(|x| bytemuck::bytes_of_mut(x).fill(0xff));
        let tells = ones.is_some_and(|ones| differ(&[ones], &data[n / 2..=n / 2]));
        if self.makes(Fault::FlippedBit, n > 0)
            || self.makes(Fault::SometimesFlippedBit, n > 0 && self.calls.get() % 7 == 6)
        {
            bytemuck::bytes_of_mut(&mut data[n / 2])[0] ^= 1;
        }
        if let (true, Some(ones)) = (self.makes(Fault::PlantedNan, tells), ones) {
            data[n / 2] = ones;
        }
        if self.makes(Fault::SkippedTail, n > 0 && differ(&data[n - 1..], &before[n - 1..])) {
            count = n - 1;
        }
        if self.makes(Fault::StaleOutput, differ(&data, &before)) {
            count = 0;
        }
        if self.makes(Fault::RoundedOffset, n > 0 && to.is_odd()) {
            at = -1;
        }
        if self.makes(Fault::WrittenPastEnd, true) {
            to.write(n as isize, &[T::zeroed()]);
        }
        if self.makes(Fault::WrittenBeforeStart, true) {
            to.write(-1, &[T::zeroed()]);
        }
        to.write(at, &data[..count]);
    }

    /// Adds what was found in a call.
    fn add(&self, found: &mut Found) {
        let slots = found.call.len();
        if slots > 3 && self.makes(Fault::SwappedSlots, found.call[1] != found.call[3]) {
            found.call.swap(1, 3);
        }
        for (total, found) in found.total.iter_mut().zip(&mut found.call) {
            if self.makes(Fault::MissingReport, *found != Report::default()) {
                *found = Report::default();
            }
            if self.makes(Fault::DoubleReport, *found != Report::default()) {
                found.merge(*found);
            }
            if self.makes(Fault::MissingClipped, found.clipped > 0) {
                found.clipped = 0;
            }
            if self.makes(Fault::LateFirst, found.first.is_some()) {
                found.first = found.first.map(|f| f + 1);
            }
            total.merge(*found);
        }
    }
}

impl<O: Operation, B: Launch<O> + Memory<Reports = Vec<Report>> + 'static> Launch<O> for Faulty<B> {
    /// The operation works on copies; what it leaves is written back with the fault.
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, O, T>) -> Result<()> {
        let (op, items, mut side) = work.into_parts();
        let more = items.len() > 1;
        let done = if self.makes(Fault::SkippedItem, more) { items.len() - 1 } else { items.len() };
        let items = &mut items[..done];
        {
            let rewrap = |item| O::rewrap(item, &Take { from: self, side: false });
            let mut inner = items.iter_mut().map(rewrap).collect::<Result<Vec<_>>>()?;
            let side = O::Side::rewrap(&mut side, &Take { from: self, side: true })?;
            self.inner.launch(check::<B, O, T>(&self.inner, op, &mut inner, side)?)?;
        }
        for item in items {
            let outputs = Outputs { of: self, bytes: RefCell::default() };
            O::rewrap(item, &outputs)?;
            let mut outputs = outputs.bytes.into_inner();
            if let Some((a, b)) = like(&outputs)
                && self.makes(Fault::SwappedOutputs, outputs[a] != outputs[b])
            {
                outputs.swap(a, b);
            }
            outputs.reverse();
            O::rewrap(item, &Give { to: self, bytes: RefCell::new(outputs) })?;
        }
        O::Side::rewrap(&mut side, &Give { to: self, bytes: RefCell::default() })?;
        self.calls.set(self.calls.get() + 1);
        Ok(())
    }
}

/// Two outputs of the same type and length.
fn like(outputs: &[(TypeId, Vec<u8>)]) -> Option<(usize, usize)> {
    let pair = |(a, b): (usize, usize)| outputs[a].0 == outputs[b].0 && outputs[a].1.len() == outputs[b].1.len();
    let pairs = (0..outputs.len()).flat_map(|a| (a + 1..outputs.len()).map(move |b| (a, b)));
    pairs.into_iter().find(|p| pair(*p))
}

/// Copies for the operation to work on.
struct Take<'f, B> {
    from: &'f Faulty<B>,
    /// What stands beside the list.
    side: bool,
}

impl<B: Memory<Reports = Vec<Report>> + 'static> Rewrap<Faulty<B>, B> for Take<'_, B> {
    fn view<'s, 'l: 's, T: bytemuck::Pod + Send + Sync>(&self, view: Part<'l, B, T>) -> Result<B::View<'s, T>> {
        Ok(B::shorten(B::view(view.lend(self.from.inner.upload(&view.read())?))))
    }

    fn view_mut<'s, T: bytemuck::Pod + Send + Sync>(
        &self,
        view: &'s mut Written<'_, B, T>,
    ) -> Result<B::ViewMut<'s, T>> {
        let mut data = view.part.read();
        let something = bytemuck::cast_slice::<T, u8>(&data).iter().any(|b| *b != 0);
        if self.from.makes(Fault::ForgottenSums, self.side && something) {
            data.fill(T::zeroed());
        }
        Ok(B::view_mut(view.copy.insert(self.from.inner.upload(&data)?)))
    }

    fn reports<'r>(&self, reports: &'r Found) -> Result<&'r Vec<Report>> {
        let marked = reports.total.iter().any(|r| r.non_finite > 0);
        Ok(if self.from.makes(Fault::IgnoredGuards, marked) { &reports.blank } else { &reports.total })
    }

    fn reports_mut<'r>(&self, reports: &'r mut Found) -> Result<&'r mut Vec<Report>> {
        reports.call.clone_from(&reports.blank);
        Ok(&mut reports.call)
    }

    fn first(&self, first: u64) -> u64 {
        if self.from.makes(Fault::IgnoredPosition, first > 0) { 0 } else { first }
    }
}

/// What the operation left in the outputs of an item, in their order.
struct Outputs<'f, B> {
    of: &'f Faulty<B>,
    bytes: RefCell<Vec<(TypeId, Vec<u8>)>>,
}

/// Writes outputs back, with faults; `bytes` are those of an item, the last first, or empty for what was left as it is.
struct Give<'f, B> {
    to: &'f Faulty<B>,
    bytes: RefCell<Vec<(TypeId, Vec<u8>)>>,
}

/// What a copy holds.
fn left<B: Memory<Reports = Vec<Report>> + 'static, T: bytemuck::Pod + Send + Sync>(
    inner: &B,
    view: &mut Written<'_, B, T>,
) -> Result<Vec<T>> {
    match &view.copy {
        Some(copy) => inner.download(B::view(copy)),
        None => Ok(view.part.read()),
    }
}

/// The copy again: what rewrapping has to return, and nobody uses.
fn again<'s, B: Memory<Reports = Vec<Report>> + 'static, T: bytemuck::Pod + Send + Sync>(
    inner: &B,
    view: &'s mut Written<'_, B, T>,
) -> Result<B::ViewMut<'s, T>> {
    let data = left(inner, view)?;
    Ok(B::view_mut(view.copy.insert(inner.upload(&data)?)))
}

impl<B: Memory<Reports = Vec<Report>> + 'static> Rewrap<Faulty<B>, B> for Outputs<'_, B> {
    fn view<'s, 'l: 's, T: bytemuck::Pod + Send + Sync>(&self, view: Part<'l, B, T>) -> Result<B::View<'s, T>> {
        Take { from: self.of, side: false }.view(view)
    }

    fn view_mut<'s, T: bytemuck::Pod + Send + Sync>(
        &self,
        view: &'s mut Written<'_, B, T>,
    ) -> Result<B::ViewMut<'s, T>> {
        let bytes = bytemuck::cast_slice(&left(&self.of.inner, view)?).to_vec();
        self.bytes.borrow_mut().push((TypeId::of::<T>(), bytes));
        again(&self.of.inner, view)
    }

    fn reports<'r>(&self, reports: &'r Found) -> Result<&'r Vec<Report>> {
        Ok(&reports.total)
    }

    fn reports_mut<'r>(&self, reports: &'r mut Found) -> Result<&'r mut Vec<Report>> {
        Ok(&mut reports.call)
    }
}

impl<B: Memory<Reports = Vec<Report>> + 'static> Rewrap<Faulty<B>, B> for Give<'_, B> {
    fn view<'s, 'l: 's, T: bytemuck::Pod + Send + Sync>(&self, view: Part<'l, B, T>) -> Result<B::View<'s, T>> {
        let mut first = view.read();
        first.truncate(1);
        if self.to.makes(Fault::ChangedInput, !first.is_empty()) {
            first.iter_mut().for_each(|x| bytemuck::bytes_of_mut(x)[0] ^= 0x10);
            view.write(0, &first);
        }
        Take { from: self.to, side: false }.view(view)
    }

    fn view_mut<'s, T: bytemuck::Pod + Send + Sync>(
        &self,
        view: &'s mut Written<'_, B, T>,
    ) -> Result<B::ViewMut<'s, T>> {
        let data = match self.bytes.borrow_mut().pop() {
            Some((_, bytes)) => bytemuck::pod_collect_to_vec(&bytes),
            None => left(&self.to.inner, view)?,
        };
        self.to.store(view.part, &data);
        again(&self.to.inner, view)
    }

    fn reports<'r>(&self, reports: &'r Found) -> Result<&'r Vec<Report>> {
        Ok(&reports.total)
    }

    fn reports_mut<'r>(&self, reports: &'r mut Found) -> Result<&'r mut Vec<Report>> {
        self.to.add(reports);
        Ok(&mut reports.call)
    }
}
