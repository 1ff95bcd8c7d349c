//! The window read out: sums, means, norms.

use super::{Accumulator, Held, Id, NonFinite, Reduce};
use crate::error::{Error, Result};
use crate::op::read_out::{F32Item, Item, ReadOut, ReadOutF32};
use crate::op::{Backend, Element, Report, length};
use half::bf16;

impl<B: Backend> Accumulator<B> {
    /// Writes the sum or mean of tensors, all or some of them, into f32, f16 or bf16 buffers. What lies above the largest
    /// finite number of the output type becomes that number.
    ///
    /// Except under [`NonFinite::Zero`] this first looks at what the window found, which waits for the device.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] within the first tensor where the window found any (by a gradient, or by a sum of 2^126 and
    /// above); [`Error::NothingAccumulated`] for a mean over weights of 0; [`Error::UnknownTensor`];
    /// [`Error::Length`]; [`Error::Parameter`] for a factor that is not finite; [`Error::Refused`].
    pub fn read_out<'i, I: Into<Id<'i>> + Copy, T: Element>(
        &self,
        reduce: Reduce,
        outputs: &mut [(I, B::ViewMut<'_, T>)],
    ) -> Result<()> {
        self.checked()?;
        self.queue_read_out(reduce, outputs, false)
    }

    /// The same without waiting: the output of a tensor in which the window found non-finite elements is NaN
    /// throughout (except under [`NonFinite::Zero`]), so that it is loud and not wrong.
    ///
    /// # Errors
    ///
    /// As for [`read_out`](Self::read_out), [`Error::NonFinite`] only for what merged windows found.
    pub fn read_out_guarded<'i, I: Into<Id<'i>> + Copy, T: Element>(
        &self,
        reduce: Reduce,
        outputs: &mut [(I, B::ViewMut<'_, T>)],
    ) -> Result<()> {
        self.usable()?;
        if self.guards() {
            self.all_finite(&self.merged)?;
        }
        self.queue_read_out(reduce, outputs, self.guards())
    }

    /// The same, whatever the window found, and while a micro-batch is open.
    pub(crate) fn read_out_marked<'i, I: Into<Id<'i>> + Copy, T: Element>(
        &self,
        reduce: Reduce,
        outputs: &mut [(I, B::ViewMut<'_, T>)],
    ) -> Result<()> {
        self.not_refused()?;
        self.queue_read_out(reduce, outputs, false)
    }

    /// The sum or mean of one tensor, on the host.
    ///
    /// # Errors
    ///
    /// As for [`read_out`](Self::read_out).
    pub fn to_vec<'i, T: Element>(&self, id: impl Into<Id<'i>>, reduce: Reduce) -> Result<Vec<T>> {
        let i = self.index(id)?;
        self.checked()?;
        let mut out = self.backend.zeros::<T>(self.tensors[i].len)?;
        self.read_out(reduce, &mut [(i, B::view_mut(&mut out))])?;
        self.backend.download(B::view(&out))
    }

    /// The block scales of a tensor, on the host: what other workers give to [`set_scales`](Self::set_scales).
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`]; [`Error::Format`] for a tensor held in f32, which has none; [`Error::Refused`] or what
    /// the device reports.
    pub fn scales<'i>(&self, id: impl Into<Id<'i>>) -> Result<Vec<bf16>> {
        let i = self.index(id)?;
        let Held::Levels { scales, .. } = self.held(i)? else {
            let none = Error::Format { operation: "reading scales", format: "f32", advice: "they have no scales" };
            return Err(none.in_tensor(&*self.specs[i].name));
        };
        Ok(self.backend.download(scales)?.into_iter().map(bf16::from_bits).collect())
    }

    /// What the weighted sum is multiplied by.
    ///
    /// # Errors
    ///
    /// [`Error::NothingAccumulated`] for a mean over weights of 0; [`Error::Parameter`] for a factor that is not
    /// finite, or weights whose inverse f32 does not hold.
    pub fn factor(&self, reduce: Reduce) -> Result<f32> {
        let factor = match reduce {
            Reduce::Sum => 1.0,
            Reduce::Times(factor) => factor,
            Reduce::Mean => {
                let weights = self.window.weights;
                if weights == 0.0 {
                    return Err(Error::NothingAccumulated { weights });
                }
                let factor = (1.0 / weights) as f32;
                if factor == 0.0 || !factor.is_finite() {
                    let requirement = "large and small enough for its inverse to be an f32";
                    return Err(Error::Parameter { name: "sum of weights", got: weights, requirement });
                }
                factor
            }
        };
        crate::op::finite("factor", factor).map(|()| factor)
    }

    fn guards(&self) -> bool {
        self.config.non_finite != NonFinite::Zero
    }

    /// Whether the window may be read: not refused, and nothing non-finite found unless that is the policy.
    pub(crate) fn checked(&self) -> Result<()> {
        self.usable()?;
        if self.guards() { self.all_finite(&self.reports()?) } else { Ok(()) }
    }

    /// The sum of all reports of the window; waits for the device.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn found(&self) -> Result<Report> {
        let mut total = Report::default();
        for report in self.reports()? {
            total.merge(Report { first: None, ..report });
        }
        Ok(total)
    }

    fn queue_read_out<'i, I: Into<Id<'i>> + Copy, T: Element>(
        &self,
        reduce: Reduce,
        outputs: &mut [(I, B::ViewMut<'_, T>)],
        guarded: bool,
    ) -> Result<()> {
        let factor = self.factor(reduce)?;
        let mut placed = Vec::with_capacity(outputs.len());
        for (id, out) in outputs.iter_mut() {
            let i = self.index(*id)?;
            length("output", self.tensors[i].len, B::len_mut(out)).map_err(|e| e.in_tensor(&*self.specs[i].name))?;
            self.backend.accepts_mut(out).map_err(|e| e.in_tensor(&*self.specs[i].name))?;
            placed.push((i, out));
        }
        let guards = guarded.then_some(&self.reports);
        let mut widths: Vec<u32> = Vec::new();
        let mut floats: Vec<F32Item<'_, B, T>> = Vec::new();
        for (i, out) in &mut placed {
            match self.tensors[*i].held() {
                Held::Levels { bits, .. } if !widths.contains(&bits) => widths.push(bits),
                Held::Levels { .. } => {}
                Held::F32(sum) => floats.push(F32Item { sum, out: B::reborrow(out), guard: guarded.then_some(*i) }),
            }
        }
        if !floats.is_empty() {
            self.backend.read_out_f32(&ReadOutF32 { factor }, &mut floats, guards)?;
        }
        drop(floats);
        for width in widths {
            let mut items: Vec<Item<'_, B, T>> = Vec::new();
            for (i, out) in &mut placed {
                if let Held::Levels { bits, levels, scales } = self.tensors[*i].held()
                    && bits == width
                {
                    items.push(Item { levels, scales, out: B::reborrow(out), guard: guarded.then_some(*i) });
                }
            }
            let op = ReadOut { bits: width, block: self.config.block, factor };
            self.backend.read_out(&op, &mut items, guards)?;
        }
        Ok(())
    }
}
