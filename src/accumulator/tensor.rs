//! What is held of one tensor.

use super::{Config, Format, Scales, Spec};
use crate::error::{Error, Result};
use crate::numerics::pack::words;
use crate::op::Backend;
use crate::op::update::Gradient;

/// One tensor of an accumulator.
pub(super) struct Tensor<B: Backend> {
    pub(super) len: usize,
    pub(super) format: Format,
    pub(super) sum: Sum<B>,
}

/// Its buffers.
pub(super) enum Sum<B: Backend> {
    Adaptive {
        levels: B::Buffer<u32>,
        scales: B::Buffer<u16>,
    },
    Exact {
        counts: B::Buffer<u32>,
        scales: B::Buffer<u16>,
        /// Largest magnitudes of the window.
        seen: B::Buffer<u16>,
        /// Whether any scale may be other than 0: given, or found by a micro-batch.
        scaled: bool,
    },
    F32(B::Buffer<f32>),
}

/// The sum of one tensor where it lies, for operations that read it in place.
pub enum Held<'a, B: Backend> {
    /// Levels or counts. The value of element `i` is level `i` times the scale of block `i / block`.
    Levels {
        /// Bits a level or count.
        bits: u32,
        /// Levels or counts: `bits ceil(n / 32)` words.
        levels: B::View<'a, u32>,
        /// bf16 scales, one a block.
        scales: B::View<'a, u16>,
    },
    /// Floats.
    F32(B::View<'a, f32>),
}

impl<B: Backend> Clone for Held<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Held<'_, B> {}

impl<B: Backend> std::fmt::Debug for Held<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Held::Levels { bits, levels, scales } => {
                write!(f, "Levels({bits} bits, {} words, {} scales)", B::len(levels), B::len(scales))
            }
            Held::F32(sum) => write!(f, "F32({} elements)", B::len(sum)),
        }
    }
}

impl<'a, B: Backend> Held<'a, B> {
    /// The same, as an update takes it; the bits go into [`crate::op::update::Source::bits`].
    #[must_use]
    pub fn gradient(self) -> Gradient<'a, B> {
        match self {
            Held::Levels { levels, scales, .. } => Gradient::Packed { levels, scales },
            Held::F32(sum) => Gradient::Dense(sum),
        }
    }
}

/// What a window leaves to be emptied, by type: a list each.
pub(super) struct Cleared<'t, B: Backend> {
    words: Vec<B::ViewMut<'t, u32>>,
    halves: Vec<B::ViewMut<'t, u16>>,
    floats: Vec<B::ViewMut<'t, f32>>,
}

impl<'t, B: Backend> Cleared<'t, B> {
    /// Empties the sums of all tensors.
    pub(super) fn clear(backend: &B, tensors: &'t mut [Tensor<B>], forget: bool) -> Result<()> {
        let mut list = Cleared { words: Vec::new(), halves: Vec::new(), floats: Vec::new() };
        tensors.iter_mut().for_each(|tensor| tensor.cleared(forget, &mut list));
        backend.clear_all(list.words)?;
        backend.clear_all(list.halves)?;
        backend.clear_all(list.floats)
    }
}

impl<B: Backend> Tensor<B> {
    pub(super) fn new(backend: &B, spec: &Spec, config: &Config) -> Result<Self> {
        let (len, format) = (spec.elements()?, config.format_of(spec));
        let blocks = config.block.blocks(len);
        let make = || {
            Ok(match format {
                Format::Adaptive { bits } => {
                    Sum::Adaptive { levels: backend.zeros(words(len, bits))?, scales: backend.zeros(blocks)? }
                }
                Format::Exact { bits, .. } => Sum::Exact {
                    counts: backend.zeros(words(len, bits))?,
                    scales: backend.zeros(blocks)?,
                    seen: backend.zeros(blocks)?,
                    scaled: false,
                },
                Format::F32 => Sum::F32(backend.zeros(len)?),
            })
        };
        let sum = make().map_err(|e: Error| e.in_tensor(&*spec.name))?;
        Ok(Tensor { len, format, sum })
    }

    pub(super) fn held(&self) -> Held<'_, B> {
        let bits = self.format.bits();
        match &self.sum {
            Sum::Adaptive { levels, scales } | Sum::Exact { counts: levels, scales, .. } => {
                Held::Levels { bits, levels: B::view(levels), scales: B::view(scales) }
            }
            Sum::F32(sum) => Held::F32(B::view(sum)),
        }
    }

    /// Adds what is to be emptied to a list. Scales of counts stay for the next window where they are to, unless all is
    /// forgotten.
    pub(super) fn cleared<'t>(&'t mut self, forget: bool, list: &mut Cleared<'t, B>) {
        match &mut self.sum {
            Sum::Adaptive { levels, scales } => {
                list.words.push(B::view_mut(levels));
                list.halves.push(B::view_mut(scales));
            }
            Sum::Exact { counts, scales, seen, scaled } => {
                list.words.push(B::view_mut(counts));
                list.halves.push(B::view_mut(seen));
                let stay = match self.format {
                    Format::Exact { scales: Scales::Given, .. } => true,
                    Format::Exact { scales: Scales::LastWindow { .. }, .. } => !forget,
                    _ => false,
                };
                if !stay {
                    list.halves.push(B::view_mut(scales));
                    *scaled = false;
                }
            }
            Sum::F32(sum) => list.floats.push(B::view_mut(sum)),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        fn of<B: Backend, T: bytemuck::Pod + Send + Sync>(buffer: &B::Buffer<T>) -> usize {
            B::len(&B::view(buffer)) * size_of::<T>()
        }
        let bytes = match &self.sum {
            Sum::Adaptive { levels, scales } => of::<B, u32>(levels) + of::<B, u16>(scales),
            Sum::Exact { counts, scales, seen, .. } => of::<B, u32>(counts) + of::<B, u16>(scales) + of::<B, u16>(seen),
            Sum::F32(sum) => of::<B, f32>(sum),
        };
        bytes as u64
    }
}
