//! Pack and convert: i8 trits, separate planes and 2-bit fields, from and to planes.

use super::device::Wgpu;
use super::launch::Batch;
use super::raw::Raw;
use super::shaders::{self, FieldsParams, PackParams, PlanesParams, UnpackParams};
use crate::error::Result;
use crate::op::pack::{FieldsToPlanes, JoinPlanes, Pack, PlanesToFields, SplitPlanes, Unpack};
use crate::op::{Checked, Launch};
use crate::types::Element;

impl Launch<Pack> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Pack, T>) -> Result<()> {
        let (_, items, reports) = work.into_parts();
        reports.reach(self, items.iter().map(|i| i.trits.len as u64))?;
        let mut batch = Batch::new(self);
        for item in items.iter() {
            for piece in self.pieces(item.trits.len, 1) {
                let (trits, words) = (piece.elements(item.trits.raw, 1), piece.words(item.words.raw, 2));
                let params = PackParams {
                    found: reports.found(item.report, piece.start),
                    n: piece.len as u32,
                    trits: trits.skip(1),
                    words: words.skip(4),
                };
                let bindings = [trits, words, reports.raw()];
                batch.dispatch(&shaders::PACK, Vec::new(), &bindings, params, piece.len.div_ceil(32))?;
            }
        }
        batch.run("pack").map(drop)
    }
}

impl Launch<Unpack> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Unpack, T>) -> Result<()> {
        let (_, items, reports) = work.into_parts();
        reports.reach(self, items.iter().map(|i| i.trits.len as u64))?;
        let mut batch = Batch::new(self);
        for item in items.iter() {
            for piece in self.pieces(item.trits.len, 1) {
                let (words, trits) = (piece.words(item.words.raw, 2), piece.elements(item.trits.raw, 1));
                let params = UnpackParams {
                    found: reports.found(item.report, piece.start),
                    n: piece.len as u32,
                    words: words.skip(4),
                    trits: trits.skip(1),
                };
                let threads = (trits.offset % 4 + trits.bytes).div_ceil(4);
                let bindings = [words, trits, reports.raw()];
                batch.dispatch(&shaders::PACK_UNPACK, Vec::new(), &bindings, params, threads)?;
            }
        }
        batch.run("unpack").map(drop)
    }
}

/// Interleaved planes against separate ones; `flag` says which way.
fn planes(batch: &mut Batch<'_>, flag: &'static str, words: Raw<'_>, plus: Raw<'_>, minus: Raw<'_>) -> Result<()> {
    for piece in batch.gpu.pieces((plus.bytes / 4) as usize, 8) {
        let words = piece.elements(words, 8);
        let (plus, minus) = (piece.elements(plus, 4), piece.elements(minus, 4));
        let params =
            PlanesParams { n: piece.len as u32, words: words.skip(4), plus: plus.skip(4), minus: minus.skip(4) };
        batch.dispatch(&shaders::PACK_PLANES, vec![flag], &[words, plus, minus], params, piece.len)?;
    }
    Ok(())
}

/// Planes against 2-bit fields; `flag` says which way.
fn fields(batch: &mut Batch<'_>, flag: &'static str, words: Raw<'_>, fields: Raw<'_>) -> Result<()> {
    for piece in batch.gpu.pieces((words.bytes / 8) as usize, 8) {
        let (words, fields) = (piece.elements(words, 8), piece.elements(fields, 8));
        let params = FieldsParams { n: piece.len as u32, words: words.skip(4), fields: fields.skip(4) };
        batch.dispatch(&shaders::PACK_FIELDS, vec![flag], &[words, fields], params, piece.len)?;
    }
    Ok(())
}

impl Launch<SplitPlanes> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, SplitPlanes, T>) -> Result<()> {
        let mut batch = Batch::new(self);
        for item in work.into_parts().1.iter() {
            planes(&mut batch, "SPLIT", item.words.raw, item.plus.raw, item.minus.raw)?;
        }
        batch.run("split_planes").map(drop)
    }
}

impl Launch<JoinPlanes> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, JoinPlanes, T>) -> Result<()> {
        let mut batch = Batch::new(self);
        for item in work.into_parts().1.iter() {
            planes(&mut batch, "JOIN", item.words.raw, item.plus.raw, item.minus.raw)?;
        }
        batch.run("join_planes").map(drop)
    }
}

impl Launch<PlanesToFields> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, PlanesToFields, T>) -> Result<()> {
        let mut batch = Batch::new(self);
        for item in work.into_parts().1.iter() {
            fields(&mut batch, "TO_FIELDS", item.words.raw, item.fields.raw)?;
        }
        batch.run("planes_to_fields").map(drop)
    }
}

impl Launch<FieldsToPlanes> for Wgpu {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, FieldsToPlanes, T>) -> Result<()> {
        let mut batch = Batch::new(self);
        for item in work.into_parts().1.iter() {
            fields(&mut batch, "TO_PLANES", item.words.raw, item.fields.raw)?;
        }
        batch.run("fields_to_planes").map(drop)
    }
}
