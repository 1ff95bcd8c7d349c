//! Read out.

use super::Wgpu;
use super::accumulate::{bits, words_of};
use super::dequantize::outputs;
use super::launch::Batch;
use super::quantize::scales_of;
use super::reports::Reports;
use super::shaders::{self, Params};
use crate::error::{Error, Result};
use crate::op::Element;
use crate::op::read_out::{Item, ReadOut};

pub(super) fn read_out<T: Element>(
    gpu: &Wgpu,
    op: &ReadOut,
    items: &mut [Item<'_, Wgpu, T>],
    guards: Option<&Reports>,
) -> Result<()> {
    op.validate()?;
    for item in items.iter() {
        item.validate(op)?;
        match (item.guard, guards) {
            (Some(slot), Some(guards)) => guards.check(slot)?,
            (Some(slot), None) => {
                return Err(Error::Length { what: "report slots", expected: (slot as u64).saturating_add(1), got: 0 });
            }
            (None, _) => {}
        }
    }
    let size = size_of::<T>() as u64;
    let mut batch = Batch::new(gpu);
    for item in items.iter() {
        for window in gpu.windows((item.out.raw.bytes / size) as usize, size.max(u64::from(op.bits / 8))) {
            let out = item.out.raw.part(window.start * size, window.len * size);
            let levels = words_of(item.levels.raw, op.bits, window);
            let scales = scales_of(item.scales.raw, op.block, window.start, window.len);
            let mut params = Params {
                n: window.len as u32,
                words: levels.skip(4),
                scales: scales.skip(2),
                shift: op.block.get().ilog2() - 5,
                weight: op.factor.to_bits(),
                mode: u32::from(item.guard.is_some()),
                slot: item.guard.unwrap_or(0) as u32,
                ..Params::default()
            };
            let (mut flags, threads) = outputs::<T>(out, &mut params);
            flags.push(bits(op.bits));
            gpu.soft(&mut flags);
            // Without a guard any buffer does: it is not read.
            let guard = guards.filter(|_| item.guard.is_some()).map_or(scales, Reports::raw);
            batch.dispatch(&shaders::READ_OUT, flags, &[levels, scales, out, guard], params, threads)?;
        }
    }
    batch.run("read_out").map(drop)
}
