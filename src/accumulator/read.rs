//! The window read out: sums, means, norms.

use super::{Accumulator, Id, NonFinite, Reduce};
use crate::op::Backend;
use crate::error::{Error, Result};
use crate::op::read_out::{Item, ReadOut};
use crate::op::reduce::SquaredNorm;
use crate::op::{Element, Grouping, Report};
use half::bf16;

impl<B: Backend> Accumulator<B> {
    /// Writes the sum or mean of tensors, all or some of them, into f32, f16 or bf16 buffers.
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

    /// The same, whatever the window found.
    #[cfg(feature = "candle")]
    pub(crate) fn read_out_marked<'i, I: Into<Id<'i>> + Copy, T: Element>(
        &self,
        reduce: Reduce,
        outputs: &mut [(I, B::ViewMut<'_, T>)],
    ) -> Result<()> {
        self.usable()?;
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

    /// The squared norm of the weighted sum of all tensors, from levels and scales: each tensor's exact sum rounded
    /// once to f64, added in order. For the norm of the mean, take the root and divide by [`weights`](Self::weights).
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] as for [`read_out`](Self::read_out); [`Error::Refused`]; what the device reports.
    pub fn squared_norm(&self) -> Result<f64> {
        self.checked()?;
        self.squared_norm_marked()
    }

    /// The same, whatever the window found.
    pub(crate) fn squared_norm_marked(&self) -> Result<f64> {
        self.usable()?;
        let (bits, grouping) = (self.config.bits(), Grouping::Block(self.config.block));
        self.tensors.iter().try_fold(0.0, |sum, t| {
            let op = SquaredNorm { bits, grouping, n: t.len };
            Ok(sum + self.backend.squared_norm(&op, B::view(&t.levels), B::view(&t.scales))?)
        })
    }

    /// The block scales of a tensor, on the host: what other workers give to [`set_scales`](Self::set_scales).
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`], [`Error::Refused`] or what the device reports.
    pub fn scales<'i>(&self, id: impl Into<Id<'i>>) -> Result<Vec<bf16>> {
        let scales = self.backend.download(self.held(id)?.scales)?;
        Ok(scales.into_iter().map(bf16::from_bits).collect())
    }

    /// What the weighted sum is multiplied by.
    ///
    /// # Errors
    ///
    /// [`Error::NothingAccumulated`] for a mean over weights of 0; [`Error::Parameter`] for a factor that is not
    /// finite.
    pub fn factor(&self, reduce: Reduce) -> Result<f32> {
        let factor = match reduce {
            Reduce::Sum => 1.0,
            Reduce::Times(factor) => factor,
            Reduce::Mean => {
                let weights = self.window.weights;
                if weights == 0.0 {
                    return Err(Error::NothingAccumulated { weights });
                }
                (1.0 / weights) as f32
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
        let op = ReadOut { bits: self.config.bits(), block: self.config.block, factor: self.factor(reduce)? };
        let mut items = Vec::with_capacity(outputs.len());
        for (id, out) in outputs {
            let i = self.index(*id)?;
            let tensor = &self.tensors[i];
            let item: Item<'_, B, T> = Item {
                levels: B::view(&tensor.levels),
                scales: B::view(&tensor.scales),
                out: B::reborrow(out),
                guard: guarded.then_some(i),
            };
            crate::op::length("output", tensor.len, B::len_mut(&item.out))
                .map_err(|e| e.in_tensor(&*self.specs[i].name))?;
            items.push(item);
        }
        self.backend.read_out(&op, &mut items, guarded.then_some(&self.reports))
    }
}
