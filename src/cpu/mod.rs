//! The CPU backend: plain slices, all cores through rayon, SIMD where the machine has it.
//!
//! | file | what |
//! |---|---|
//! | `memory.rs` | buffers are `Vec<T>`, views are slices |
//! | `quantize.rs`, `dequantize.rs`, `accumulate.rs`, `read_out.rs`, `check.rs`, `pack.rs`, `reduce.rs`, `update.rs`, `update_adamw_8bit.rs` | one file an operation: checks and the split over threads; what is not hot does its work there, straight from [`crate::numerics`] |
//! | `split.rs` | a tile: the unit of work of a task |
//! | `tile.rs` | the tiles of the hot operations, and what their blocks share |
//! | `measure.rs` | scale and limit of groups of any length, over the kernels of either kind of code |
//! | `plain/` | the hot tiles, element by element |
//! | `simd/` | the same tiles in AVX-512, or AVX2 and FMA, chosen at run time and held to the plain code bit for bit; all `unsafe` of this backend |
//!
//! Any split gives the same bits: draws are keyed by the element's place in its tensor, maxima and integer sums have
//! no order, and tasks write to disjoint words.

mod accumulate;
mod check;
mod dequantize;
mod measure;
mod memory;
mod pack;
mod plain;
mod quantize;
mod read_out;
mod reduce;
mod simd;
mod split;
mod state;
#[cfg(test)]
mod tests;
mod tile;
mod update;
mod update_adamw_8bit;
mod window;

use simd::Simd;

/// The CPU backend. Views are slices, buffers are vectors, work runs in the current rayon pool.
///
/// # Examples
///
/// ```
/// use trigrad::{Backend, Memory, cpu::Cpu};
/// use trigrad::op::{Draw, quantize::{Item, Quantize}};
///
/// let cpu = Cpu::new();
/// let gradient = [0.5f32, -1.0, 0.25, 3.0];
/// let (mut words, mut scales) = ([0u32; 2], [0u16; 1]);
/// let mut reports = cpu.reports(1)?;
/// let op = Quantize::stochastic(Draw::new(7, 1));
/// let item = Item { tensor: 0, first: 0, x: &gradient[..], words: &mut words[..], scales: &mut scales[..], report: 0 };
/// cpu.quantize(&op, &mut [item], &mut reports)?;
/// assert_eq!(words[0] >> 3 & 1, 1); // the block maximum is always kept
/// assert_eq!(half::bf16::from_bits(scales[0]).to_f32(), 3.0);
/// # Ok::<(), trigrad::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    simd: Simd,
}

impl Cpu {
    /// The fastest code this machine can run.
    #[must_use]
    pub fn new() -> Self {
        Cpu { simd: Simd::detect() }
    }

    /// One backend for each kind of code this machine can run, the fastest first and the plain code last. All give the
    /// same bits; tests and benches compare them.
    ///
    /// # Examples
    ///
    /// ```
    /// use trigrad::backend::Memory;
    /// use trigrad::cpu::Cpu;
    /// let names: Vec<String> = Cpu::kinds().iter().map(|cpu| cpu.name()).collect();
    /// assert_eq!(names.last().map(String::as_str), Some("cpu (plain)"));
    /// ```
    #[must_use]
    pub fn kinds() -> Vec<Self> {
        Simd::kinds().map(|simd| Cpu { simd }).collect()
    }

    /// Only the plain code of [`crate::numerics`]: slower, the same bits. The reference the fast code is held to.
    #[must_use]
    pub const fn plain() -> Self {
        Cpu { simd: Simd::Plain }
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}
