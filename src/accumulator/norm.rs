//! Norms of the window, as exact sums: no order of tensors, blocks or threads can change them.

use super::{Accumulator, Held, NonFinite};
use crate::error::Result;
use crate::numerics::reduce::SUM_WORDS;
use crate::op::reduce::{SquaredNorm, SquaredNormF32, SquaredNormF32Item, SquaredNormItem, read_sums};
use crate::op::state::{Decide, DecideItem};
use crate::op::{Backend, Grouping};

impl<B: Backend> Accumulator<B> {
    /// The squared norm of the weighted sum of all tensors: one exact sum, rounded once to f64. For the norm of the mean,
    /// take the root and divide by [`weights`](Self::weights).
    ///
    /// # Errors
    ///
    /// [`crate::Error::NonFinite`] as for [`read_out`](Self::read_out); [`crate::Error::Refused`]; what the device
    /// reports.
    pub fn squared_norm(&self) -> Result<f64> {
        let sums = self.queued_norms(|_| 0, 1)?;
        self.checked()?;
        Ok(self.read_norms(&sums)?.first().copied().unwrap_or_default())
    }

    /// The squared norm of the weighted sum of each tensor, in order, each exact and rounded once to f64.
    ///
    /// # Errors
    ///
    /// As for [`squared_norm`](Self::squared_norm).
    pub fn squared_norms(&self) -> Result<Vec<f64>> {
        let sums = self.queued_norms(|i| i, self.tensors.len())?;
        self.checked()?;
        self.read_norms(&sums)
    }

    /// Adds the squared norm of all tensors to slot 0 of exact sums ([`SUM_WORDS`] words a slot) and leaves it on the
    /// device: nothing waits. Several accumulators may add to one slot. The norm is of what is held, whatever the window
    /// found: [`reports`](Self::reports) says whether anything is missing in it.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Refused`]; [`crate::Error::Length`] for sums of no whole slots and [`crate::Error::Index`] for
    /// sums of none; [`crate::Error::WrongDevice`]; what the device reports.
    ///
    /// # Examples
    ///
    /// ```
    /// use trigrad::accumulator::{Accumulator, Config, Spec};
    /// use trigrad::memory::Memory;
    /// use trigrad::{cpu::Cpu, numerics::reduce::SUM_WORDS, op::reduce::read_sums};
    ///
    /// let mut sum = Accumulator::new(Cpu::default(), &[Spec::new("w", [2])], Config::default())?;
    /// sum.accumulate(&[("w", [3f32, 4.0][..].into())], 1.0)?;
    /// let mut sums = sum.backend().zeros::<u32>(SUM_WORDS)?;
    /// sum.queue_squared_norm(&mut sums[..])?;
    /// assert_eq!(read_sums(sum.backend(), &sums[..])?[0].to_f64(), sum.squared_norm()?);
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn queue_squared_norm(&self, sums: B::ViewMut<'_, u32>) -> Result<()> {
        self.queue_norms(|_| 0, sums)
    }

    /// Decides in a state whether this window is a step: its norm goes to `sum`, which is cleared first. Nothing waits.
    pub(crate) fn queue_decision(
        &self,
        op: &Decide,
        mut state: B::ViewMut<'_, u32>,
        sum: &mut B::Buffer<u32>,
        corrections: B::View<'_, f32>,
    ) -> Result<()> {
        self.backend.clear(B::view_mut(sum))?;
        self.queue_squared_norm(B::view_mut(sum))?;
        let found = (self.config.non_finite != NonFinite::Zero).then_some(&self.reports);
        let (state, corrections) = (B::reborrow(&mut state), B::shorten(corrections));
        self.backend.decide(op, &mut [DecideItem { state, sum: B::view(sum), corrections }], found)
    }

    pub(super) fn queued_norms(&self, slot: impl Fn(usize) -> usize, slots: usize) -> Result<B::Buffer<u32>> {
        self.usable()?;
        let mut sums = self.backend.zeros::<u32>(SUM_WORDS * slots)?;
        self.queue_norms(slot, B::view_mut(&mut sums))?;
        Ok(sums)
    }

    pub(super) fn read_norms(&self, sums: &B::Buffer<u32>) -> Result<Vec<f64>> {
        Ok(read_sums(&self.backend, B::view(sums))?.iter().map(crate::numerics::reduce::ExactSum::to_f64).collect())
    }

    fn queue_norms(&self, slot: impl Fn(usize) -> usize, mut sums: B::ViewMut<'_, u32>) -> Result<()> {
        self.usable()?;
        let grouping = Grouping::Block(self.config.block);
        let mut widths: Vec<u32> = Vec::new();
        let mut floats: Vec<SquaredNormF32Item<'_, B>> = Vec::new();
        for (i, t) in self.tensors.iter().enumerate() {
            match t.held() {
                Held::Levels { bits, .. } if !widths.contains(&bits) => widths.push(bits),
                Held::Levels { .. } => {}
                Held::F32(x) => floats.push(SquaredNormF32Item { x, sum: slot(i) }),
            }
        }
        for width in widths {
            let mut items = Vec::new();
            for (i, t) in self.tensors.iter().enumerate() {
                if let Held::Levels { bits, levels, scales } = t.held()
                    && bits == width
                {
                    items.push(SquaredNormItem { n: t.len, levels, scales, sum: slot(i) });
                }
            }
            self.backend.squared_norm(&SquaredNorm { bits: width, grouping }, &mut items, B::reborrow(&mut sums))?;
        }
        if floats.is_empty() {
            return Ok(());
        }
        self.backend.squared_norm_f32(&SquaredNormF32, &mut floats, B::reborrow(&mut sums))
    }
}
