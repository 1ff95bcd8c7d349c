//! Dequantize: each trit times the scale of its group.

use super::device::Wgpu;
use super::launch::Batch;
use super::layout::outputs;
use super::shaders::{self, DequantizeParams};
use crate::error::Result;
use crate::op::dequantize::Dequantize;
use crate::op::{Checked, Launch};
use crate::types::Element;

impl Launch<Dequantize> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Dequantize, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        let size = size_of::<T>() as u64;
        let mut batch = Batch::new(self);
        for item in items.iter() {
            for piece in self.pieces(item.out.len, size.max(2)) {
                let (words, out) = (piece.words(item.words.raw, 2), piece.elements(item.out.raw, size));
                let groups = piece.grouped(op.grouping, item.out.len as u64);
                let scales = groups.scales(piece, item.scales.raw);
                let params = DequantizeParams {
                    n: piece.len as u32,
                    words: words.skip(4),
                    scales: scales.skip(2),
                    out: out.skip(size),
                    shift: groups.shift(),
                    columns: groups.columns,
                    head: groups.head,
                };
                let (flags, threads) = outputs::<T>(out);
                batch.dispatch(&shaders::DEQUANTIZE, flags, &[words, scales, out], params, threads)?;
            }
        }
        batch.run("dequantize").map(drop)
    }
}
