//! What is held of each tensor, as a table.

use super::fused::packed_bytes;
use super::{ModelGradients, Place};
use crate::accumulator::Format;
use std::fmt;

/// A tensor of a [`Summary`].
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The name.
    pub name: String,
    /// The shape.
    pub shape: Vec<usize>,
    /// How its sum is held: `4 bits`, `exact 8 bits`, `f32 (small)`, `f32 (named)`.
    pub format: String,
    /// Bytes held, the residual's included.
    pub bytes: u64,
    /// Bytes in f32.
    pub bytes_f32: u64,
}

/// What is held of each tensor; prints as a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// One a tensor, in order.
    pub rows: Vec<Row>,
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
        write!(f, "{count:a$}  {:>b$}  {:c$}  {bytes:>14}  {dense:>14}  {:>5.1}%", "", "", share(bytes, dense))
    }
}

impl ModelGradients {
    /// What is held of each tensor.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let config = &self.options.config;
        let exact = matches!(config.format, Format::Exact { .. });
        let row = |(place, spec): (&Place, &crate::accumulator::Spec)| {
            let n = spec.shape.iter().product::<usize>();
            let (format, bytes) = match place {
                Place::Packed(_) => {
                    let residual =
                        self.options.residual_bits.map(|bits| (bits, packed_bytes(n, bits, config.block, false)));
                    let kind = if exact { "exact " } else { "" };
                    let plus = residual.map_or(String::new(), |(bits, _)| format!(" + {bits} residual"));
                    let bytes = packed_bytes(n, config.bits(), config.block, exact) + residual.map_or(0, |(_, b)| b);
                    (format!("{kind}{} bits{plus}", config.bits()), bytes)
                }
                Place::Dense(_) => {
                    let why = if n < self.options.small { "small" } else { "named" };
                    (format!("f32 ({why})"), 4 * n as u64)
                }
            };
            Row { name: spec.name.clone(), shape: spec.shape.clone(), format, bytes, bytes_f32: 4 * n as u64 }
        };
        Summary { rows: self.places.iter().zip(&self.specs).map(row).collect() }
    }

    /// Bytes of the buffers and tensors that hold the window, from the buffers themselves.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        let packed = self.packed.iter().chain(&self.residual).map(crate::accumulator::Accumulator::bytes_held);
        let dense = self.dense.iter().map(|t| (t.elem_count() * t.dtype().size_in_bytes()) as u64);
        packed.sum::<u64>() + dense.sum::<u64>()
    }
}
