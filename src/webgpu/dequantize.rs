//! Dequantize.

use super::Wgpu;
use super::accumulate::words_of;
use super::launch::{Batch, Window};
use super::memory::Raw;
use super::quantize::{element, scales_of};
use super::shaders::{self, Params};
use crate::error::Result;
use crate::op::dequantize::{Dequantize, Item};
use crate::op::{Element, Grouping};

/// Sets how elements of a window fall into scale groups; returns the scales they use.
pub(super) fn grouped<'a>(
    params: &mut Params,
    grouping: Grouping,
    n: u64,
    scales: Raw<'a>,
    Window { start, len }: Window,
) -> Raw<'a> {
    let cols = match grouping {
        Grouping::Block(block) => {
            params.shift = block.get().ilog2() - 5;
            return scales_of(scales, block, start, len);
        }
        Grouping::Row(cols) => cols,
        Grouping::Tensor => n.max(1),
    };
    let row = start / cols;
    // What does not fit 32 bits lies past the end of any window.
    let fits = |x: u64| u32::try_from(x).unwrap_or(u32::MAX);
    params.cols = fits(cols);
    params.head = fits((row + 1) * cols - start);
    scales.part(2 * row, 2 * ((start + len - 1) / cols - row + 1))
}

/// Flags and thread count for a shader that writes floats.
pub(super) fn outputs<T: Element>(out: Raw<'_>, params: &mut Params) -> (Vec<&'static str>, u64) {
    let size = size_of::<T>() as u64;
    params.out = out.skip(size);
    let mut flags = vec![element::<T>()];
    if out.vectors(16) {
        flags.push("VECTOR");
        return (flags, out.bytes.div_ceil(16));
    }
    (flags, (out.offset % 4 + out.bytes).div_ceil(4))
}

pub(super) fn dequantize<T: Element>(gpu: &Wgpu, op: &Dequantize, items: &mut [Item<'_, Wgpu, T>]) -> Result<()> {
    for item in items.iter() {
        item.validate(op)?;
    }
    let size = size_of::<T>() as u64;
    let mut batch = Batch::new(gpu);
    for item in items.iter() {
        let n = item.out.raw.bytes / size;
        for window in gpu.windows(n as usize, size.max(2)) {
            let out = item.out.raw.part(window.start * size, window.len * size);
            let words = words_of(item.words.raw, 2, window);
            let mut params = Params { n: window.len as u32, words: words.skip(4), ..Params::default() };
            let scales = grouped(&mut params, op.grouping, n, item.scales.raw, window);
            params.scales = scales.skip(2);
            let (flags, threads) = outputs::<T>(out, &mut params);
            batch.dispatch(&shaders::DEQUANTIZE, flags, &[words, scales, out], params, threads)?;
        }
    }
    batch.run("dequantize").map(drop)
}
