//! Pack and convert: i8 trits, separate planes and 2-bit fields, from and to planes.

use super::Cuda;
use super::item::{Item, Pointer, item};
use super::launch::Call;
use super::modules::Module;
use crate::error::Result;
use crate::op::pack::{FieldsToPlanes, JoinPlanes, Pack, PlanesToFields, SplitPlanes, Unpack};
use crate::op::{Checked, Launch};
use crate::types::Element;
use cudarc::driver::DeviceSlice;

/// Pairs of words that a CTA converts.
const PAIRS_PER_CTA: u64 = 512;

item! {
    /// `TritsItem` in kernels/pack.cu.
    struct TritsItem { trits: Pointer, words: Pointer, report: Pointer, n: u64, begin: u32, pad: u32 }
}

item! {
    /// `PlanesItem` in kernels/pack.cu; `n` is pairs of words.
    struct PlanesItem { words: Pointer, plus: Pointer, minus: Pointer, n: u64, begin: u32, pad: u32 }
}

item! {
    /// `FieldsItem` in kernels/pack.cu; `n` is pairs of words.
    struct FieldsItem { words: Pointer, fields: Pointer, n: u64, begin: u32, pad: u32 }
}

impl Launch<Pack> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Pack, T>) -> Result<()> {
        let (_, items, reports) = work.into_parts();
        let mut call = Call::new(self)?;
        let slots = call.reports(reports)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(TritsItem {
                trits: call.read(item.trits)?,
                words: call.write(&mut item.words)?,
                report: slots.at(item.report),
                n: item.trits.len() as u64,
                ..TritsItem::default()
            });
        }
        call.launch_tiles(Module::Pack, "pack_trits", &0u64, &rows)
    }
}

impl Launch<Unpack> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Unpack, T>) -> Result<()> {
        let (_, items, reports) = work.into_parts();
        let mut call = Call::new(self)?;
        let slots = call.reports(reports)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(TritsItem {
                words: call.read(item.words)?,
                n: item.trits.len() as u64,
                trits: call.write(&mut item.trits)?,
                report: slots.at(item.report),
                ..TritsItem::default()
            });
        }
        call.launch_tiles(Module::Pack, "pack_untrits", &0u64, &rows)
    }
}

impl Launch<SplitPlanes> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, SplitPlanes, T>) -> Result<()> {
        let (_, items, ()) = work.into_parts();
        let mut call = Call::new(self)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(PlanesItem {
                words: call.read(item.words)?,
                n: item.plus.len() as u64,
                plus: call.write(&mut item.plus)?,
                minus: call.write(&mut item.minus)?,
                ..PlanesItem::default()
            });
        }
        convert(&call, "pack_split", &rows)
    }
}

impl Launch<JoinPlanes> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, JoinPlanes, T>) -> Result<()> {
        let (_, items, ()) = work.into_parts();
        let mut call = Call::new(self)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(PlanesItem {
                plus: call.read(item.plus)?,
                minus: call.read(item.minus)?,
                words: call.write(&mut item.words)?,
                n: item.plus.len() as u64,
                ..PlanesItem::default()
            });
        }
        convert(&call, "pack_join", &rows)
    }
}

impl Launch<PlanesToFields> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, PlanesToFields, T>) -> Result<()> {
        let (_, items, ()) = work.into_parts();
        let mut call = Call::new(self)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(FieldsItem {
                words: call.read(item.words)?,
                fields: call.write(&mut item.fields)?,
                n: (item.words.len() / 2) as u64,
                ..FieldsItem::default()
            });
        }
        convert(&call, "pack_to_fields", &rows)
    }
}

impl Launch<FieldsToPlanes> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, FieldsToPlanes, T>) -> Result<()> {
        let (_, items, ()) = work.into_parts();
        let mut call = Call::new(self)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            rows.push(FieldsItem {
                fields: call.read(item.fields)?,
                words: call.write(&mut item.words)?,
                n: (item.fields.len() / 2) as u64,
                ..FieldsItem::default()
            });
        }
        convert(&call, "pack_to_planes", &rows)
    }
}

/// A conversion of `n` pairs of words each.
fn convert<I: Item>(call: &Call<'_>, kernel: &str, rows: &[I]) -> Result<()> {
    call.launch(Module::Pack, kernel, &0u64, rows, |row| row.n().div_ceil(PAIRS_PER_CTA), 0)
}
