//! Windows of exact counts added to each other.

use super::{Accumulator, Format, Scales, Sum, Tensor};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::op::window::{CompareScales, CompareScalesItem, Merge, MergeItem};
use crate::op::{Backend, Report};
use std::fmt::Display;

impl<B: Backend> Accumulator<B> {
    /// Adds the window of another accumulator of the same tensors, formats and scales. Counts are integers, so any
    /// order of micro-batches, workers and merges gives the same bits. Where one has no scales yet, or a block that it has
    /// not seen, those of the other hold (not in place of scales that were given). Waits for the device.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] where sums are not exact counts; [`Error::Limit`] where the counts could overflow;
    /// [`Error::NotMergeable`] or [`Error::Shape`] where bits, blocks or tensors differ; [`Error::ScalesDiffer`];
    /// [`Error::WrongDevice`]; [`Error::Parameter`] for sums of weights that overflow; [`Error::Refused`] where either is.
    /// The state is then as it was.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.usable()?;
        other.usable()?;
        self.mergeable(other)?;
        let (Some(held), weights) =
            (self.window.held.checked_add(other.window.held), self.window.weights + other.window.weights)
        else {
            return Err(Error::Limit { what: "micro-batches", got: u64::MAX, limit: u64::from(u32::MAX) });
        };
        if !weights.is_finite() {
            return Err(Error::Parameter { name: "sum of weights", got: weights, requirement: "finite" });
        }
        if other.window.held == 0 {
            return Ok(());
        }
        let found = other.reports()?;
        let joined = self.joined_scales(other)?;
        self.write(|this| this.write_merge(other, joined))?;
        self.window.held = held;
        self.window.weights = weights;
        for (merged, report) in self.merged.iter_mut().zip(found) {
            merged.merge(report);
        }
        Ok(())
    }

    /// Whether the two can be merged at all.
    fn mergeable(&self, other: &Self) -> Result<()> {
        same("the block size", &self.config.block.get(), &other.config.block.get())?;
        same("the number of tensors", &self.specs.len(), &other.specs.len())?;
        for ((a, b), (ours, theirs)) in self.specs.iter().zip(&other.specs).zip(self.tensors.iter().zip(&other.tensors))
        {
            same("a tensor's name", &a.name, &b.name)?;
            let alike = || {
                if a.shape != b.shape {
                    return Err(Error::Shape { expected: a.shape.clone(), got: b.shape.clone() });
                }
                let (bits, from) = (exact_bits(ours.format)?, exact_bits(theirs.format)?);
                same("bits a count", &bits, &from)?;
                Merge { bits, held: self.window.held, added: other.window.held }.validate()?;
                let (here, there) = (scales_of(theirs), scales_of(ours));
                here.into_iter().chain(there).try_for_each(|s| self.backend.accepts(&s))
            };
            alike().map_err(|e| e.in_tensor(&*a.name))?;
        }
        Ok(())
    }

    /// Compares the scales, in one wait; what the scales of each tensor are to become where they change.
    fn joined_scales(&mut self, other: &Self) -> Result<Vec<Option<Scaled<B>>>> {
        self.backend.clear_reports(&mut self.scan)?;
        let mut items = Vec::new();
        for (report, (into, from)) in self.tensors.iter().zip(&other.tensors).enumerate() {
            if let (Some(a), Some(b)) = (scales_of(into), scales_of(from))
                && is_scaled(into)
            {
                items.push(CompareScalesItem { a, b: B::shorten(b), report });
            }
        }
        let compares = !items.is_empty();
        if compares {
            self.backend.compare_scales(&CompareScales, &mut items, &mut self.scan)?;
        }
        drop(items);
        let differ = if compares { self.backend.read_reports(&self.scan)? } else { Vec::new() };
        let differ = differ.into_iter().chain(std::iter::repeat(Report::default()));
        let pairs = self.tensors.iter().zip(&other.tensors).zip(&self.specs).zip(differ);
        pairs
            .map(|(((into, from), spec), differ)| {
                if !is_scaled(into) {
                    Ok(Some(Scaled::Theirs))
                } else if differ.first.is_none() {
                    Ok(None)
                } else {
                    self.join(into, from).map(|s| Some(Scaled::Joined(s))).map_err(|e| e.in_tensor(&*spec.name))
                }
            })
            .collect()
    }

    /// The scales of two tensors of which each may not have seen blocks that the other has.
    fn join(&self, into: &Tensor<B>, from: &Tensor<B>) -> Result<B::Buffer<u16>> {
        let (Some(ours), Some(theirs)) = (scales_of(into), scales_of(from)) else {
            return self.backend.zeros(0);
        };
        let (ours, theirs) = (self.backend.download(ours)?, self.backend.download(B::shorten(theirs))?);
        let given = is_given(into.format) || is_given(from.format);
        let differ = |(a, b): (&u16, &u16)| a != b && (given || *a != 0 && *b != 0);
        match ours.iter().zip(&theirs).position(differ) {
            Some(block) => Err(Error::ScalesDiffer { block: block as u64 }),
            None => {
                let joined: Vec<u16> = ours.iter().zip(&theirs).map(|(a, b)| *a.max(b)).collect();
                self.backend.upload(&joined)
            }
        }
    }

    fn write_merge(&mut self, other: &Self, joined: Vec<Option<Scaled<B>>>) -> Result<()> {
        let (held, added) = (self.window.held, other.window.held);
        for format in self.formats.clone() {
            let bits = format.bits();
            let mut items = Vec::new();
            for (into, from) in self.tensors.iter_mut().zip(&other.tensors).filter(|(into, _)| into.format == format) {
                if let (Sum::Exact { counts, seen, .. }, Sum::Exact { counts: from, seen: seen_from, .. }) =
                    (&mut into.sum, &from.sum)
                {
                    items.push(MergeItem {
                        from: B::view(from),
                        into: B::view_mut(counts),
                        seen_from: B::view(seen_from),
                        seen: B::view_mut(seen),
                    });
                }
            }
            self.backend.merge(&Merge { bits, held, added }, &mut items)?;
            self.written = true;
        }
        for ((into, from), joined) in self.tensors.iter_mut().zip(&other.tensors).zip(joined) {
            if let (Some(joined), Sum::Exact { scales, scaled, .. }, Some(theirs)) =
                (joined, &mut into.sum, scales_of(from))
            {
                match joined {
                    Scaled::Theirs => self.backend.copy(B::shorten(theirs), B::view_mut(scales))?,
                    Scaled::Joined(buffer) => *scales = buffer,
                }
                *scaled = true;
            }
        }
        Ok(())
    }
}

/// What the scales of a tensor become in a merge.
enum Scaled<B: Memory> {
    /// The other's: there were none.
    Theirs,
    /// Those of both: each had blocks that the other had not seen.
    Joined(B::Buffer<u16>),
}

fn same<T: Display + PartialEq>(what: &'static str, here: &T, there: &T) -> Result<()> {
    if here == there {
        Ok(())
    } else {
        Err(Error::NotMergeable { what, here: here.to_string(), there: there.to_string() })
    }
}

fn exact_bits(format: Format) -> Result<u32> {
    let (format, advice) = match format {
        Format::Exact { bits, .. } => return Ok(bits),
        Format::Adaptive { .. } => {
            ("adaptive", "their levels depend on the order of addition; use exact counts (Format::Exact)")
        }
        Format::F32 => ("f32", "they depend on the order of addition; use exact counts (Format::Exact)"),
    };
    Err(Error::Format { operation: "merging windows", format, advice })
}

const fn is_given(format: Format) -> bool {
    matches!(format, Format::Exact { scales: Scales::Given, .. })
}

fn scales_of<B: Backend>(tensor: &Tensor<B>) -> Option<B::View<'_, u16>> {
    match &tensor.sum {
        Sum::Exact { scales, .. } => Some(B::view(scales)),
        _ => None,
    }
}

fn is_scaled<B: Backend>(tensor: &Tensor<B>) -> bool {
    matches!(tensor.sum, Sum::Exact { scaled: true, .. })
}
