//! What is given to an accumulator: which tensor, and the elements where they lie.

use super::Accumulator;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::op::Backend;
use crate::op::{Element, length};
use half::{bf16, f16};

/// A tensor of the model, by name or by its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id<'a> {
    /// By name.
    Name(&'a str),
    /// By place: faster.
    Index(usize),
}

impl<'a> From<&'a str> for Id<'a> {
    fn from(name: &'a str) -> Self {
        Id::Name(name)
    }
}

impl<'a> From<&'a String> for Id<'a> {
    fn from(name: &'a String) -> Self {
        Id::Name(name)
    }
}

impl From<usize> for Id<'_> {
    fn from(index: usize) -> Self {
        Id::Index(index)
    }
}

/// A view of floats of any of the three types.
pub enum Floats<'a, M: Memory> {
    /// f32.
    F32(M::View<'a, f32>),
    /// f16.
    F16(M::View<'a, f16>),
    /// bf16.
    Bf16(M::View<'a, bf16>),
}

impl<M: Memory> Clone for Floats<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Memory> Copy for Floats<'_, M> {}

impl<M: Memory> std::fmt::Debug for Floats<'_, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Floats::F32(_) => "F32",
            Floats::F16(_) => "F16",
            Floats::Bf16(_) => "Bf16",
        };
        write!(f, "{kind}({} elements)", self.len())
    }
}

impl<'a, M: Memory> Floats<'a, M> {
    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Floats::F32(v) => M::len(v),
            Floats::F16(v) => M::len(v),
            Floats::Bf16(v) => M::len(v),
        }
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn accepted(&self, memory: &M) -> Result<()> {
        match self {
            Floats::F32(v) => memory.accepts(v),
            Floats::F16(v) => memory.accepts(v),
            Floats::Bf16(v) => memory.accepts(v),
        }
    }
}

impl<'a, M: Memory<View<'a, f32> = &'a [f32]>> From<&'a [f32]> for Floats<'a, M> {
    fn from(x: &'a [f32]) -> Self {
        Floats::F32(x)
    }
}

impl<'a, M: Memory<View<'a, f16> = &'a [f16]>> From<&'a [f16]> for Floats<'a, M> {
    fn from(x: &'a [f16]) -> Self {
        Floats::F16(x)
    }
}

impl<'a, M: Memory<View<'a, bf16> = &'a [bf16]>> From<&'a [bf16]> for Floats<'a, M> {
    fn from(x: &'a [bf16]) -> Self {
        Floats::Bf16(x)
    }
}

/// Picks the views of one element type out of a list of any.
pub(crate) trait Typed: Element {
    fn of<'a, M: Memory>(floats: &Floats<'a, M>) -> Option<M::View<'a, Self>>;
}

macro_rules! typed {
    ($($type:ty => $variant:ident),*) => {$(
        impl Typed for $type {
            fn of<'a, M: Memory>(floats: &Floats<'a, M>) -> Option<M::View<'a, Self>> {
                match floats {
                    Floats::$variant(view) => Some(*view),
                    _ => None,
                }
            }
        }
    )*};
}
typed!(f32 => F32, f16 => F16, bf16 => Bf16);

impl<B: Backend> Accumulator<B> {
    /// The place of a tensor in the list.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`].
    pub fn index<'i>(&self, id: impl Into<Id<'i>>) -> Result<usize> {
        let known = self.specs.len();
        match id.into() {
            Id::Index(i) if i < known => Ok(i),
            Id::Index(i) => Err(Error::UnknownTensor { name: format!("#{i}"), known }),
            Id::Name(name) => {
                self.names.get(name).copied().ok_or_else(|| Error::UnknownTensor { name: name.to_owned(), known })
            }
        }
    }

    /// Gradients in the order of the tensors, every one given once, of the right length, on the right device.
    pub(super) fn in_order<'g, 'i, I: Into<Id<'i>> + Copy>(
        &self,
        gradients: &[(I, Floats<'g, B>)],
    ) -> Result<Vec<Floats<'g, B>>> {
        let missing = |(given, spec): (Option<Floats<'g, B>>, &super::Spec)| {
            given.ok_or_else(|| Error::MissingTensor { name: spec.name.clone() })
        };
        self.placed(gradients)?.into_iter().zip(&self.specs).map(missing).collect()
    }

    /// The same for those that are given.
    pub(super) fn placed<'g, 'i, I: Into<Id<'i>> + Copy>(
        &self,
        gradients: &[(I, Floats<'g, B>)],
    ) -> Result<Vec<Option<Floats<'g, B>>>> {
        let mut ordered: Vec<Option<Floats<'g, B>>> = vec![None; self.specs.len()];
        for &(id, floats) in gradients {
            let i = self.index(id)?;
            let name = &self.specs[i].name;
            let wrap = |e: Error| e.in_tensor(name);
            length("gradient", self.tensors[i].len, floats.len()).map_err(wrap)?;
            floats.accepted(&self.backend).map_err(wrap)?;
            if ordered[i].replace(floats).is_some() {
                return Err(Error::DuplicateTensor { name: name.clone() });
            }
        }
        Ok(ordered)
    }
}
