//! How operations cut and describe what a dispatch covers: flags, parts of buffers, scale groups, draws.

use super::device::Wgpu;
use super::launch::Piece;
use super::pipeline::Flags;
use super::raw::Raw;
use super::shaders::Draws;
use crate::numerics::float::magnitude;
use crate::types::{BlockSize, Draw, Element, ElementType, Grouping};

/// The flag of an element type.
pub(super) fn element<T: Element>() -> &'static str {
    match T::TYPE {
        ElementType::F32 => "F32",
        ElementType::F16 => "F16",
        ElementType::Bf16 => "BF16",
    }
}

/// The flag of a width.
pub(super) fn bits(bits: u32) -> &'static str {
    match bits {
        2 => "BITS2",
        4 => "BITS4",
        8 => "BITS8",
        16 => "BITS16",
        _ => "BITS32",
    }
}

/// A weight as shaders take it: a subnormal one is 0.
pub(super) fn weight(weight: f32) -> u32 {
    let bits = weight.to_bits();
    if magnitude(bits) == 0 { 0 } else { bits }
}

/// log2 of the groups of 32 in a block.
pub(super) fn shift(block: BlockSize) -> u32 {
    block.get().ilog2() - 5
}

impl Wgpu {
    /// The flags of shaders that draw, add floats and join blocks of `block` elements.
    pub(super) fn able(&self, flags: &mut Flags, block: BlockSize) {
        self.wide(flags);
        let subgroup = self.inner.abilities.subgroup;
        flags.extend((subgroup > 1 && block.get() / 32 <= subgroup).then_some("SUBGROUP"));
        self.soft(flags);
    }

    /// The flag of shaders that draw.
    pub(super) fn wide(&self, flags: &mut Flags) {
        flags.extend(self.inner.abilities.int64.then_some("INT64"));
    }

    /// The flag of shaders that add or multiply floats.
    pub(super) fn soft(&self, flags: &mut Flags) {
        flags.extend(self.inner.abilities.soft.then_some("SOFT"));
    }

    /// Where draws are made, for elements from index `first` of the tensor on.
    pub(super) fn draws(&self, draw: &Draw, tensor: u32, domain: u32, first: u64) -> Draws {
        let position = draw.position(tensor, domain);
        let [key_low, key_high] = position.key();
        let [group, tensor, step, purpose] = position.counter((first / 32) as u32);
        let exact = if self.inner.abilities.estimates { 0 } else { u32::MAX };
        Draws { key_low, key_high, group, tensor, step, purpose, exact, ..Draws::default() }
    }
}

impl Piece {
    /// Its elements of `size` bytes.
    pub(super) fn elements(self, x: Raw<'_>, size: u64) -> Raw<'_> {
        x.part(self.start * size, self.len * size)
    }

    /// The words of its groups of 32, `bits` words each.
    pub(super) fn words(self, words: Raw<'_>, bits: u32) -> Raw<'_> {
        let group = u64::from(bits) * 4;
        words.part(self.start / 32 * group, self.len.div_ceil(32) * group)
    }

    /// The half-words of its blocks, one each.
    pub(super) fn blocks(self, scales: Raw<'_>, block: BlockSize) -> Raw<'_> {
        let block = u64::from(block.get());
        scales.part(self.start / block * 2, self.len.div_ceil(block) * 2)
    }

    /// How it falls into scale groups of a tensor of `n` elements.
    pub(super) fn grouped(self, grouping: Grouping, n: u64) -> Grouped {
        let columns = match grouping {
            Grouping::Block(block) => return Grouped { block: Some(block), ..Grouped::default() },
            Grouping::Row(columns) => columns,
            Grouping::Tensor => n.max(1),
        };
        let row = self.start / columns;
        // What does not fit 32 bits lies past the end of any piece.
        let fits = |x: u64| u32::try_from(x).unwrap_or(u32::MAX);
        Grouped {
            block: None,
            columns: fits(columns),
            head: fits((row + 1) * columns - self.start),
            rows: (row, (self.start + self.len - 1) / columns - row + 1),
        }
    }
}

/// How a piece falls into scale groups.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Grouped {
    block: Option<BlockSize>,
    /// Elements of a group that is no block, else 0.
    pub(super) columns: u32,
    /// Elements before the second group begins.
    pub(super) head: u32,
    /// The first group that is no block, and how many there are.
    rows: (u64, u64),
}

impl Grouped {
    pub(super) fn shift(&self) -> u32 {
        self.block.map_or(0, shift)
    }

    /// The half-words of the piece's groups, one each.
    pub(super) fn scales<'a>(&self, piece: Piece, scales: Raw<'a>) -> Raw<'a> {
        match self.block {
            Some(block) => piece.blocks(scales, block),
            None => scales.part(2 * self.rows.0, 2 * self.rows.1),
        }
    }
}

/// Flags and thread count of a shader that writes floats.
pub(super) fn outputs<T: Element>(out: Raw<'_>) -> (Flags, u64) {
    let mut flags = vec![element::<T>()];
    if out.vectors(16) {
        flags.push("VECTOR");
        return (flags, out.bytes.div_ceil(16));
    }
    (flags, (out.offset % 4 + out.bytes).div_ceil(4))
}
