//! What is held of each tensor, as a table.

use super::{Counts, Training};
use crate::accumulator::{Format, Spec};
use crate::op::{Backend, BlockSize};
use std::fmt;

/// A tensor of a [`Summary`].
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The name.
    pub name: String,
    /// The shape.
    pub shape: Vec<usize>,
    /// How its sum is held: `4 bits`, `exact 8 bits`, `f32 (small)`, `exact 32 bits (named)`.
    pub format: String,
    /// Bytes held, the residual's included.
    pub bytes: u64,
    /// Bytes in f32.
    pub bytes_f32: u64,
}

/// What is held of each tensor, and what was counted; prints as a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// One a tensor, in order.
    pub rows: Vec<Row>,
    /// Windows updated and skipped, elements kept.
    pub counts: Counts,
}

impl Summary {
    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.rows.iter().map(|r| r.bytes).sum()
    }

    /// Bytes in f32.
    #[must_use]
    pub fn bytes_f32(&self) -> u64 {
        self.rows.iter().map(|r| r.bytes_f32).sum()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = |r: &Row| r.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
        let wide = |least: usize, of: &dyn Fn(&Row) -> usize| self.rows.iter().map(of).max().unwrap_or(0).max(least);
        let (a, b, c) = (wide(6, &|r| r.name.len()), wide(5, &|r| shape(r).len()), wide(6, &|r| r.format.len()));
        let share = |held: u64, dense: u64| 100.0 * held as f64 / dense.max(1) as f64;
        writeln!(
            f,
            "{:a$}  {:>b$}  {:c$}  {:>14}  {:>14}  {:>6}",
            "tensor", "shape", "format", "bytes", "in f32", "share"
        )?;
        for r in &self.rows {
            let share = share(r.bytes, r.bytes_f32);
            let (name, format, bytes, dense) = (&r.name, &r.format, r.bytes, r.bytes_f32);
            writeln!(f, "{name:a$}  {:>b$}  {format:c$}  {bytes:>14}  {dense:>14}  {share:>5.1}%", shape(r))?;
        }
        let (bytes, dense) = (self.bytes(), self.bytes_f32());
        let count = format!("{} tensors", self.rows.len());
        write!(f, "{count:a$}  {:>b$}  {:c$}  {bytes:>14}  {dense:>14}  {:>5.1}%", "", "", share(bytes, dense))?;
        let Counts { updated, skipped, kept } = self.counts;
        if updated + skipped > 0 {
            write!(f, "\nwindows: {updated} updated, {skipped} skipped")?;
        }
        if kept > 0 {
            write!(f, "; {kept} elements kept what they had, for they would not have been finite")?;
        }
        Ok(())
    }
}

impl<B: Backend> Training<B> {
    /// What is held of each tensor, and what was counted.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary { rows: self.specs().iter().map(|spec| self.row(spec)).collect(), counts: self.counts }
    }

    /// Bytes of the buffers that hold the window, from the buffers themselves.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.sums.bytes_held() + self.feedback.as_ref().map_or(0, super::Feedback::bytes)
    }

    fn row(&self, spec: &Spec) -> Row {
        let config = &self.options.config;
        let n = spec.shape.iter().product::<usize>();
        let held = config.format_of(spec);
        let (mut format, mut bytes) = match held {
            Format::Adaptive { bits } => (format!("{bits} bits"), packed_bytes(n, bits, config.block, false)),
            Format::Exact { bits, .. } => (format!("exact {bits} bits"), packed_bytes(n, bits, config.block, true)),
            Format::F32 => ("f32".to_owned(), 4 * n as u64),
        };
        if let (Some(bits), Format::Adaptive { .. }) = (self.options.residual_bits, held) {
            format = format!("{format} + {bits} residual");
            bytes += packed_bytes(n, bits, config.block, false);
        }
        if held != config.format {
            let named = self.options.formats.iter().any(|(part, _)| spec.name.contains(part.as_str()));
            let why = if n < self.options.small && !named { "small" } else { "named" };
            format = format!("{format} ({why})");
        }
        Row { name: spec.name.clone(), shape: spec.shape.clone(), format, bytes, bytes_f32: 4 * n as u64 }
    }
}

/// Bytes of a tensor's levels and scales.
fn packed_bytes(n: usize, bits: u32, block: BlockSize, exact: bool) -> u64 {
    let scales = block.blocks(n) * size_of::<u16>() * (1 + usize::from(exact));
    (crate::numerics::pack::words(n, bits) * size_of::<u32>() + scales) as u64
}
