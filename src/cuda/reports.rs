//! Reports on a CUDA device: one cell a slot, which kernels add to.

use super::buffer::Buffer;
use crate::types::Report;
use bytemuck::{Pod, Zeroable};

/// A report as kernels keep it; all-zero memory is the empty one. Mirrors `kernels/include/report.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Cell {
    non_finite: u64,
    /// The complement of the first index.
    not_first: u64,
    clipped: u64,
}

impl From<Cell> for Report {
    fn from(cell: Cell) -> Self {
        let first = (cell.non_finite > 0).then_some(!cell.not_first);
        Report { non_finite: cell.non_finite, first, clipped: cell.clipped }
    }
}

/// Reports on a CUDA device.
#[derive(Debug)]
pub struct Reports(pub(super) Buffer<Cell>);
