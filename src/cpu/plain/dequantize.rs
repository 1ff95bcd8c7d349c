//! Dequantize, element by element.

use crate::numerics::constants::GROUP;
use crate::op::Element;

/// `out` from the trits from element `start` of `words` on, all under one scale (f32 bits).
pub(in crate::cpu) fn run<T: Element>(words: &[u32], start: usize, scale: u32, out: &mut [T]) {
    let values = [0, scale, scale ^ 0x8000_0000].map(T::from_f32_bits_saturating);
    for (i, out) in (start..).zip(out) {
        let (pair, bit) = (i / GROUP * 2, i % GROUP);
        let (plus, minus) = (words[pair] >> bit & 1, words[pair + 1] >> bit & 1);
        *out = values[if plus == minus {
            0
        } else if plus == 1 {
            1
        } else {
            2
        }];
    }
}
