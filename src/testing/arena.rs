//! Buffers with guard zones: all tensors of one role in one buffer, each view between elements that must not change.

use super::failure::Difference;
use super::values::Rng;
use crate::error::{Error, Result};
use crate::memory::Memory;
use bytemuck::Pod;
use std::ops::Range;

/// Where the views of a run lie in their buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// Every view starts at a multiple of 256 bytes.
    Aligned,
    /// Every view starts at an odd element.
    Odd,
    /// Some so, some otherwise.
    Mixed,
}

/// How buffers are laid out and what outputs hold before a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where views start.
    pub alignment: Alignment,
    /// Seed of what outputs are filled with before they are written.
    pub poison: u64,
}

/// A length made wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoil {
    /// The role of the buffer.
    pub role: &'static str,
    /// Which tensor of the list.
    pub tensor: usize,
    /// How many elements more.
    pub by: isize,
}

/// How indices of an output belong to elements of its tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One an element.
    Elements,
    /// Words of planes or fields with this many bits an element.
    Packed(u32),
    /// One for so many elements.
    Groups(usize),
    /// One plane of two: a word for 32 elements.
    Plane,
}

impl Layout {
    /// The element that an index belongs to, the first where it is several; `differing` are the bits in question.
    #[must_use]
    pub fn element(self, index: usize, differing: u64) -> usize {
        let bit = differing.trailing_zeros() as usize % 32;
        match self {
            Layout::Elements => index,
            Layout::Packed(2) => index / 2 * 32 + bit,
            Layout::Packed(bits) => index * (32 / bits as usize) + bit / bits as usize,
            Layout::Groups(size) => index * size,
            Layout::Plane => index * 32 + bit,
        }
    }
}

/// What an output holds after a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its role.
    pub name: &'static str,
    /// How its indices belong to elements.
    pub layout: Layout,
    /// Bytes an index.
    pub width: usize,
    /// The bytes of each tensor.
    pub contents: Vec<Vec<u8>>,
}

/// Makes the buffers of a run.
pub struct Binder<'a, M: Memory> {
    /// The memory they are made in.
    pub memory: &'a M,
    /// How they are laid out.
    pub place: Place,
    /// The length that is wrong on purpose.
    pub spoil: Option<Spoil>,
}

impl<M: Memory> Binder<'_, M> {
    /// A buffer with these contents: inputs, or states that are updated.
    ///
    /// # Errors
    ///
    /// What the memory reports.
    pub fn hold<T: Pod + Send + Sync>(
        &self,
        name: &'static str,
        contents: impl IntoIterator<Item = Vec<T>>,
    ) -> Result<Held<M, T>> {
        let salt = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let mut image = Image { host: Vec::new(), regions: Vec::new(), salt };
        for (tensor, mut content) in contents.into_iter().enumerate() {
            if let Some(spoil) = self.spoil.filter(|s| s.role == name && s.tensor == tensor) {
                content.resize(content.len().saturating_add_signed(spoil.by), T::zeroed());
            }
            image.push(self.place.alignment, &content);
        }
        image.guard(17);
        let buffer = self.memory.upload(&image.host)?;
        Ok(Held { name, image, buffer })
    }

    /// A buffer for outputs of these lengths, filled with what no run must leave behind.
    ///
    /// # Errors
    ///
    /// What the memory reports.
    pub fn poisoned<T: Pod + Send + Sync>(
        &self,
        name: &'static str,
        lengths: impl IntoIterator<Item = usize>,
    ) -> Result<Held<M, T>> {
        let mut rng = Rng::new(self.place.poison, 0x706f_6973_6f6e);
        self.hold(name, lengths.into_iter().map(|n| (0..n).map(|_| pattern(rng.next())).collect()))
    }
}

/// What a buffer holds, and where its views lie.
struct Image<T> {
    host: Vec<T>,
    regions: Vec<Range<usize>>,
    salt: u64,
}

impl<T: Pod> Image<T> {
    /// `n` more guard elements; each depends on its place, so that a copy to the wrong place shows.
    fn guard(&mut self, n: usize) {
        for _ in 0..n {
            let at = self.host.len() as u64;
            self.host.push(pattern(Rng::new(self.salt, at).next()));
        }
    }

    fn push(&mut self, alignment: Alignment, content: &[T]) {
        let number = self.regions.len() as u64;
        let mut rng = Rng::new(self.salt, number);
        let aligned = match alignment {
            Alignment::Aligned => true,
            Alignment::Odd => false,
            Alignment::Mixed => rng.below(2) == 0,
        };
        self.guard(5 + rng.below(9) as usize);
        let at = self.host.len();
        let start = if aligned { at.next_multiple_of(256 / size_of::<T>()) } else { at | 1 };
        self.guard(start - at);
        self.host.extend_from_slice(content);
        self.regions.push(start..start + content.len());
    }
}

/// A value whose bytes are these bits, as many as it has.
fn pattern<T: Pod>(bits: u64) -> T {
    let mut value = T::zeroed();
    for (to, from) in bytemuck::bytes_of_mut(&mut value).iter_mut().zip(bits.to_le_bytes().iter().cycle()) {
        *to = *from;
    }
    value
}

/// A buffer on a device and what it was filled with.
pub struct Held<M: Memory, T: Pod + Send + Sync> {
    name: &'static str,
    image: Image<T>,
    buffer: M::Buffer<T>,
}

impl<M: Memory, T: Pod + Send + Sync> Held<M, T> {
    /// A view of each tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] where the memory does not give a view that lies within its buffer.
    pub fn views(&self) -> Result<Vec<M::View<'_, T>>> {
        let all = M::view(&self.buffer);
        let part =
            |r: &Range<usize>| M::slice(all, r.clone()).ok_or_else(|| out_of_bounds(r.end, self.image.host.len()));
        self.image.regions.iter().map(part).collect()
    }

    /// A mutable view of each tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] where the memory does not give a view that lies within its buffer.
    pub fn views_mut(&mut self) -> Result<Vec<M::ViewMut<'_, T>>> {
        let whole = self.image.host.len();
        let mut rest = M::view_mut(&mut self.buffer);
        let mut at = 0;
        let mut views = Vec::with_capacity(self.image.regions.len());
        for r in &self.image.regions {
            let (_, tail) = M::split_mut(rest, r.start - at).ok_or_else(|| out_of_bounds(r.start, whole))?;
            let (mine, tail) = M::split_mut(tail, r.len()).ok_or_else(|| out_of_bounds(r.end, whole))?;
            views.push(mine);
            (rest, at) = (tail, r.end);
        }
        Ok(views)
    }

    /// What each tensor holds now; fails where anything around them changed.
    ///
    /// # Errors
    ///
    /// [`Difference::Outside`], or [`Difference::Memory`] where reading failed.
    pub fn read(&self, memory: &M, layout: Layout) -> Result<Field, Difference> {
        let now = self.download(memory)?;
        let mut at = 0;
        for (tensor, r) in self.image.regions.iter().enumerate() {
            self.same(&now, at..r.start, tensor, r)?;
            at = r.end;
        }
        if let Some((tensor, r)) = self.image.regions.iter().enumerate().next_back() {
            self.same(&now, at..now.len(), tensor, r)?;
        }
        let contents = self.image.regions.iter().map(|r| bytemuck::cast_slice(&now[r.clone()]).to_vec()).collect();
        Ok(Field { name: self.name, layout, width: size_of::<T>(), contents })
    }

    /// Fails where anything in the buffer changed.
    ///
    /// # Errors
    ///
    /// [`Difference::Outside`], or [`Difference::Memory`] where reading failed.
    pub fn unchanged(&self, memory: &M) -> Result<(), Difference> {
        let now = self.download(memory)?;
        for (tensor, r) in self.image.regions.iter().enumerate() {
            if bytes(&now[r.clone()]) != bytes(&self.image.host[r.clone()]) {
                return Err(Difference::Outside { field: self.name, tensor, offset: None });
            }
        }
        self.read(memory, Layout::Elements).map(drop)
    }

    fn download(&self, memory: &M) -> Result<Vec<T>, Difference> {
        let now = memory.download(M::view(&self.buffer))?;
        if now.len() == self.image.host.len() {
            Ok(now)
        } else {
            Err(out_of_bounds(self.image.host.len(), now.len()).into())
        }
    }

    /// Compares a guard zone beside the region `r` of `tensor`; reports the nearest tensor.
    fn same(&self, now: &[T], zone: Range<usize>, tensor: usize, r: &Range<usize>) -> Result<(), Difference> {
        let differs = |i: &usize| bytes(&now[*i..=*i]) != bytes(&self.image.host[*i..=*i]);
        let Some(at) = zone.clone().find(differs) else { return Ok(()) };
        // A zone between two tensors belongs to the one before it, from its start, unless only its end is touched.
        let (field, before) = (self.name, tensor.checked_sub(1));
        if at >= r.end {
            return Err(Difference::Outside { field, tensor, offset: Some((at - r.end) as i64) });
        }
        let last = zone.clone().rev().find(differs).unwrap_or(at);
        match before {
            Some(before) if at - zone.start < zone.end - last => {
                Err(Difference::Outside { field, tensor: before, offset: Some((at - zone.start) as i64) })
            }
            _ => Err(Difference::Outside { field, tensor, offset: Some(last as i64 - r.start as i64) }),
        }
    }
}

fn bytes<T: Pod>(of: &[T]) -> &[u8] {
    bytemuck::cast_slice(of)
}

fn out_of_bounds(expected: usize, got: usize) -> Error {
    Error::Length { what: "view of a buffer", expected: expected as u64, got: got as u64 }
}
