//! Check.

use super::Wgpu;
use super::accumulate::weight;
use super::launch::{Batch, Window};
use super::quantize::element;
use super::reports::Reports;
use super::shaders::{self, Params};
use crate::error::Result;
use crate::op::Element;
use crate::op::check::{Check, Item};

pub(super) fn check<T: Element>(
    gpu: &Wgpu,
    op: &Check,
    items: &[Item<'_, Wgpu, T>],
    reports: &mut Reports,
) -> Result<()> {
    op.validate()?;
    let size = size_of::<T>() as u64;
    let mut end = 0;
    for item in items {
        item.validate()?;
        reports.check(item.report)?;
        end = end.max(item.first.saturating_add(item.x.raw.bytes / size));
    }
    reports.reach(gpu, end)?;
    let mut batch = Batch::new(gpu);
    for item in items {
        for Window { start, len } in gpu.windows((item.x.raw.bytes / size) as usize, size) {
            let x = item.x.raw.part(start * size, len * size);
            let mut params = Params { n: len as u32, x: x.skip(size), weight: weight(op.weight), ..Params::default() };
            reports.address(&mut params, item.report, item.first + start);
            let mut flags = vec![element::<T>()];
            flags.extend(x.vectors(16).then_some("VECTOR"));
            gpu.soft(&mut flags);
            batch.dispatch(&shaders::CHECK, flags, &[x, reports.raw()], params, len.div_ceil(32))?;
        }
    }
    batch.run("check").map(drop)
}
