//! Windows of exact counts: first looks, scales, comparing and merging.

use super::device::Wgpu;
use super::launch::Batch;
use super::layout::{bits, element, shift, weight};
use super::shaders::{self, CompareParams, LookParams, MergeParams, SeenParams, WindowParams};
use crate::error::Result;
use crate::op::window::{CompareScales, Look, Merge, WindowScales};
use crate::op::{Checked, Launch};
use crate::types::Element;

impl Launch<Look> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Look, T>) -> Result<()> {
        let (op, items, reports) = work.into_parts();
        let size = size_of::<T>() as u64;
        reports.reach(self, items.iter().map(|i| i.x.len as u64))?;
        let mut batch = Batch::new(self);
        for item in items.iter() {
            for piece in self.pieces(item.x.len, size) {
                let (x, seen) = (piece.elements(item.x.raw, size), piece.blocks(item.seen.raw, op.block));
                let params = LookParams {
                    found: reports.found(item.report, piece.start),
                    zero: 0,
                    n: piece.len as u32,
                    x: x.skip(size),
                    seen: seen.skip(2),
                    shift: shift(op.block),
                    weight: weight(op.weight),
                };
                let mut flags = vec![element::<T>()];
                flags.extend(x.vectors(16).then_some("VECTOR"));
                self.able(&mut flags, op.block);
                let bindings = [x, seen, reports.raw()];
                batch.dispatch(&shaders::WINDOW_LOOK, flags, &bindings, params, piece.len.div_ceil(32))?;
            }
        }
        batch.run("look").map(drop)
    }
}

impl Launch<WindowScales> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, WindowScales, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        let mut batch = Batch::new(self);
        for item in items.iter() {
            for piece in self.pieces(item.seen.len, 2) {
                let (seen, scales) = (piece.elements(item.seen.raw, 2), piece.elements(item.scales.raw, 2));
                let params = WindowParams {
                    n: piece.len as u32,
                    seen: seen.skip(2),
                    scales: scales.skip(2),
                    headroom: op.headroom.to_bits(),
                };
                let flags = (op.bits == 32).then_some("FINE").into_iter().collect();
                batch.dispatch(&shaders::WINDOW, flags, &[seen, scales], params, piece.len)?;
            }
        }
        batch.run("window_scales").map(drop)
    }
}

impl Launch<CompareScales> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, CompareScales, T>) -> Result<()> {
        let (_, items, reports) = work.into_parts();
        reports.reach(self, items.iter().map(|i| i.a.len as u64))?;
        let mut batch = Batch::new(self);
        for item in items.iter() {
            for piece in self.pieces(item.a.len, 2) {
                let (a, b) = (piece.elements(item.a.raw, 2), piece.elements(item.b.raw, 2));
                let params = CompareParams {
                    found: reports.found(item.report, piece.start),
                    n: piece.len as u32,
                    a: a.skip(2),
                    b: b.skip(2),
                };
                let bindings = [a, b, reports.raw()];
                batch.dispatch(&shaders::WINDOW_COMPARE, Vec::new(), &bindings, params, piece.len)?;
            }
        }
        batch.run("compare_scales").map(drop)
    }
}

impl Launch<Merge> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Merge, T>) -> Result<()> {
        let (op, items, ()) = work.into_parts();
        let mut batch = Batch::new(self);
        for item in items.iter() {
            for piece in self.pieces(item.into.len, 4) {
                let (added, counts) = (piece.elements(item.from.raw, 4), piece.elements(item.into.raw, 4));
                let params = MergeParams { n: piece.len as u32, added: added.skip(4), counts: counts.skip(4) };
                batch.dispatch(&shaders::WINDOW_MERGE, vec![bits(op.bits)], &[added, counts], params, piece.len)?;
            }
            for piece in self.pieces(item.seen.len, 2) {
                let (added, seen) = (piece.elements(item.seen_from.raw, 2), piece.elements(item.seen.raw, 2));
                let params = SeenParams { n: piece.len as u32, added: added.skip(2), seen: seen.skip(2) };
                batch.dispatch(&shaders::WINDOW_SEEN, Vec::new(), &[added, seen], params, piece.len)?;
            }
        }
        batch.run("merge").map(drop)
    }
}
