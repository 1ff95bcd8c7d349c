//! Windows of exact counts added to each other.

use super::{Accumulator, Format, Tensor};
use crate::op::Backend;
use crate::error::{Error, Result};
use crate::op::accumulate::Merge;
use crate::op::length;

impl<B: Backend> Accumulator<B> {
    /// Adds the window of another accumulator of the same tensors, format and scales. Counts are integers, so any
    /// order of micro-batches, workers and merges gives the same bits. One whose scales are not fixed yet takes the
    /// other's. Waits for the device.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] where the counts could overflow or the format is adaptive; [`Error::Length`],
    /// [`Error::UnknownTensor`] or [`Error::Shape`] where bits, blocks or tensors differ; [`Error::ScalesDiffer`];
    /// [`Error::WrongDevice`]; [`Error::Refused`] where either is. The state is then as it was.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.usable()?;
        other.usable()?;
        let op = self.mergeable(other)?;
        if other.window.held == 0 {
            return Ok(());
        }
        let found = other.reports()?;
        let joined = self.tensors.iter().zip(&other.tensors).zip(&self.specs);
        let joined = joined
            .map(|((into, from), spec)| self.join(into, from).map_err(|e| e.in_tensor(&*spec.name)))
            .collect::<Result<Vec<_>>>()?;
        self.write(|this| this.write_merge(&op, other, joined))?;
        self.window.held += other.window.held;
        self.window.weights += other.window.weights;
        for (merged, report) in self.merged.iter_mut().zip(found) {
            merged.merge(report);
        }
        Ok(())
    }

    /// The operation, if the two can be merged at all.
    fn mergeable(&self, other: &Self) -> Result<Merge> {
        let (Format::Exact { bits, .. }, Format::Exact { bits: from, .. }) = (self.config.format, other.config.format)
        else {
            return Err(Error::Limit { what: "adaptive windows to merge", got: 1, limit: 0 });
        };
        length("bits a count", bits as usize, from as usize)?;
        length("block", self.config.block.get() as usize, other.config.block.get() as usize)?;
        length("tensors", self.specs.len(), other.specs.len())?;
        for (a, b) in self.specs.iter().zip(&other.specs) {
            if a.name != b.name {
                return Err(Error::UnknownTensor { name: b.name.clone(), known: self.specs.len() });
            }
            if a.shape != b.shape {
                let shape = Error::Shape { expected: a.shape.clone(), got: b.shape.clone() };
                return Err(shape.in_tensor(&*a.name));
            }
        }
        let op = Merge { bits, held: self.window.held, added: other.window.held };
        op.validate(0, 0)?;
        Ok(op)
    }

    /// The scales of two tensors compared, and their maxima joined; nothing is written yet.
    fn join(&self, into: &Tensor<B>, from: &Tensor<B>) -> Result<Joined<B>> {
        self.backend.accepts(&B::view(&from.levels))?;
        let theirs = self.backend.download(B::view(&from.scales))?;
        let scales = if into.scaled {
            let ours = self.backend.download(B::view(&into.scales))?;
            if let Some(block) = ours.iter().zip(&theirs).position(|(a, b)| a != b) {
                return Err(Error::ScalesDiffer { block: block as u64 });
            }
            None
        } else {
            Some(self.backend.upload(&theirs)?)
        };
        let seen = match (&into.seen, &from.seen) {
            (Some(a), Some(b)) => {
                let (a, b) = (self.backend.download(B::view(a))?, self.backend.download(B::view(b))?);
                // Patterns of magnitudes order like the magnitudes.
                let max: Vec<u16> = a.into_iter().zip(b).map(|(a, b)| a.max(b)).collect();
                Some(self.backend.upload(&max)?)
            }
            _ => None,
        };
        Ok(Joined { scales, seen })
    }

    fn write_merge(&mut self, op: &Merge, other: &Self, joined: Vec<Joined<B>>) -> Result<()> {
        for ((into, from), joined) in self.tensors.iter_mut().zip(&other.tensors).zip(joined) {
            self.backend.merge(op, B::view(&from.levels), B::view_mut(&mut into.levels))?;
            if let Some(scales) = joined.scales {
                into.scales = scales;
                into.scaled = true;
            }
            into.seen = joined.seen;
        }
        Ok(())
    }
}

/// What a merge replaces in a tensor besides its counts.
struct Joined<B: Backend> {
    scales: Option<B::Buffer<u16>>,
    seen: Option<B::Buffer<u16>>,
}
