//! Read out, element by element.

use crate::cpu::tile::{ReadOutTile, Reading};
use crate::numerics::constants::GROUP;
use crate::numerics::float::bf16_to_f32;
use crate::numerics::{level, pack};
use crate::op::Element;

/// Whole blocks.
pub(in crate::cpu) fn blocks<T: Element>(w: ReadOutTile<'_, T>) {
    let ReadOutTile { levels, scales, out, how } = w;
    let levels = levels.chunks(how.block / GROUP * how.bits as usize);
    for ((out, levels), scale) in out.chunks_mut(how.block).zip(levels).zip(scales) {
        block(&how, levels, *scale, out);
    }
}

/// One block.
pub(in crate::cpu) fn block<T: Element>(how: &Reading, levels: &[u32], scale: u16, out: &mut [T]) {
    let s = bf16_to_f32(scale);
    for (i, out) in out.iter_mut().enumerate() {
        *out = T::from_f32_bits_saturating(level::read_out(pack::level(levels, how.bits, i), s, how.factor).to_bits());
    }
}
