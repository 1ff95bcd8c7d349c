//! Check: finds elements out of range.

use super::device::Wgpu;
use super::launch::Batch;
use super::layout::{element, weight};
use super::shaders::{self, CheckParams};
use crate::error::Result;
use crate::op::check::Check;
use crate::op::{Checked, Launch};
use crate::types::Element;

impl Launch<Check> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Check, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        let size = size_of::<T>() as u64;
        reports.reach(self, items.iter().map(|i| i.first + i.x.len as u64))?;
        let mut batch = Batch::new(self);
        for item in items.iter() {
            for piece in self.pieces(item.x.len, size) {
                let x = piece.elements(item.x.raw, size);
                let params = CheckParams {
                    found: reports.found(item.report, item.first + piece.start),
                    zero: 0,
                    n: piece.len as u32,
                    x: x.skip(size),
                    weight: weight(op.weight),
                };
                let mut flags = vec![element::<T>()];
                flags.extend(x.vectors(16).then_some("VECTOR"));
                self.soft(&mut flags);
                batch.dispatch(&shaders::CHECK, flags, &[x, reports.raw()], params, piece.len.div_ceil(32))?;
            }
        }
        batch.run("check").map(drop)
    }
}
