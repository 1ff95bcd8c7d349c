//! Pack and convert: i8 trits, separate planes and 2-bit fields, from and to planes.

use super::Cuda;
use super::item::Item;
use super::launch::{Call, check_slot};
use super::memory::Reports;
use super::modules::Module;
use super::view::{View, ViewMut};
use crate::error::Result;
use crate::memory::Memory;
use crate::op::pack::{validate_fields, validate_planes, validate_trits};
use cudarc::driver::DeviceSlice;

/// Pairs of words that a CTA converts.
const PAIRS_PER_CTA: u64 = 512;

pub(super) fn pack(
    cuda: &Cuda,
    trits: View<'_, i8>,
    mut words: ViewMut<'_, u32>,
    reports: &mut Reports,
    slot: usize,
) -> Result<()> {
    validate_trits(trits.len(), words.len())?;
    check_slot(slot, Cuda::report_slots(reports))?;
    let mut call = Call::new(cuda)?;
    let report = call.reports(reports)?.at(slot);
    let item =
        Item { x: call.read(trits)?, a: call.write(&mut words)?, report, n: trits.len() as u64, ..Item::default() };
    call.launch_tiles(Module::Pack, "pack_trits", &0u64, &[item])
}

pub(super) fn unpack(
    cuda: &Cuda,
    words: View<'_, u32>,
    mut trits: ViewMut<'_, i8>,
    reports: &mut Reports,
    slot: usize,
) -> Result<()> {
    validate_trits(trits.len(), words.len())?;
    check_slot(slot, Cuda::report_slots(reports))?;
    let mut call = Call::new(cuda)?;
    let report = call.reports(reports)?.at(slot);
    let n = trits.len() as u64;
    let item = Item { x: call.read(words)?, a: call.write(&mut trits)?, report, n, ..Item::default() };
    call.launch_tiles(Module::Pack, "pack_untrits", &0u64, &[item])
}

pub(super) fn split_planes(
    cuda: &Cuda,
    words: View<'_, u32>,
    mut plus: ViewMut<'_, u32>,
    mut minus: ViewMut<'_, u32>,
) -> Result<()> {
    validate_planes(words.len(), plus.len(), minus.len())?;
    let n = plus.len() as u64;
    let mut call = Call::new(cuda)?;
    let (x, a, b) = (call.read(words)?, call.write(&mut plus)?, call.write(&mut minus)?);
    convert(&call, "pack_split", Item { x, a, b, n, ..Item::default() })
}

pub(super) fn join_planes(
    cuda: &Cuda,
    plus: View<'_, u32>,
    minus: View<'_, u32>,
    mut words: ViewMut<'_, u32>,
) -> Result<()> {
    validate_planes(words.len(), plus.len(), minus.len())?;
    let n = plus.len() as u64;
    let mut call = Call::new(cuda)?;
    let (x, b, a) = (call.read(plus)?, call.read(minus)?, call.write(&mut words)?);
    convert(&call, "pack_join", Item { x, a, b, n, ..Item::default() })
}

pub(super) fn planes_to_fields(cuda: &Cuda, words: View<'_, u32>, mut fields: ViewMut<'_, u32>) -> Result<()> {
    validate_fields(words.len(), fields.len())?;
    let n = (words.len() / 2) as u64;
    let mut call = Call::new(cuda)?;
    let (x, a) = (call.read(words)?, call.write(&mut fields)?);
    convert(&call, "pack_to_fields", Item { x, a, n, ..Item::default() })
}

pub(super) fn fields_to_planes(cuda: &Cuda, fields: View<'_, u32>, mut words: ViewMut<'_, u32>) -> Result<()> {
    validate_fields(words.len(), fields.len())?;
    let n = (words.len() / 2) as u64;
    let mut call = Call::new(cuda)?;
    let (x, a) = (call.read(fields)?, call.write(&mut words)?);
    convert(&call, "pack_to_planes", Item { x, a, n, ..Item::default() })
}

/// A conversion of `n` pairs of words.
fn convert(call: &Call<'_>, kernel: &str, item: Item) -> Result<()> {
    call.launch(Module::Pack, kernel, &0u64, &[item], |item| item.n.div_ceil(PAIRS_PER_CTA), 0)
}
