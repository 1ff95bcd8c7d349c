//! Update: weights follow gradients straight out of levels and scales.

use super::Cuda;
use super::draw::DrawParams;
use super::item::{Item as Row, Pointer};
use super::launch::{Call, suffix};
use super::memory::Reports;
use super::modules::Module;
use crate::backend::Memory;
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::numerics::update::{AdamWTerms, SgdTerms};
use crate::op::update::{self, AdamW, AdamWItem, Gradient, Sgd, SgdItem};
use crate::op::Element;
use bytemuck::{Pod, Zeroable};

/// What every update shares. Mirrors `Source` in kernels/include/update.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Source {
    draw: DrawParams,
    guards: Pointer,
    slots: u32,
    block_shift: u32,
    factor: f32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SgdParams {
    source: Source,
    terms: SgdTerms,
    nesterov: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AdamWParams {
    source: Source,
    terms: AdamWTerms,
    unused: u32,
}

impl Source {
    fn new<'a>(cuda: &Cuda, call: &mut Call<'a>, of: &update::Source, guards: Option<&'a Reports>) -> Result<Self> {
        let slots = guards.map_or(0, Cuda::report_slots);
        Ok(Source {
            draw: DrawParams::new(cuda, &of.draw, domain::WEIGHT),
            guards: match guards {
                Some(guards) if slots > 0 => call.guards(guards)?.at(0),
                _ => Pointer::NULL,
            },
            slots: slots as u32,
            block_shift: of.block.get().ilog2(),
            factor: of.factor,
            unused: 0,
        })
    }
}

/// The addresses of a gradient: levels and scales, or floats and null.
fn gradient<'a>(call: &mut Call<'a>, of: Gradient<'a, Cuda>) -> Result<(Pointer, Pointer)> {
    Ok(match of {
        Gradient::Packed { levels, scales } => (call.read(levels)?, call.read(scales)?),
        Gradient::Dense(x) => (call.read(x)?, Pointer::NULL),
    })
}

pub(super) fn sgd<T: Element>(
    cuda: &Cuda,
    op: &Sgd,
    items: &mut [SgdItem<'_, Cuda, T>],
    guards: Option<&Reports>,
) -> Result<()> {
    op.validate()?;
    items.iter().try_for_each(|item| item.validate(op))?;
    let mut call = Call::new(cuda)?;
    let source = Source::new(cuda, &mut call, &op.source, guards)?;
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        let n = item.weights.len() as u64;
        let (x, b) = gradient(&mut call, item.gradient.shorten())?;
        let c = match &mut item.momentum {
            Some(momentum) if op.terms.momentum != 0.0 => call.write(momentum)?,
            _ => Pointer::NULL,
        };
        let a = call.write(&mut item.weights)?;
        rows.push(Row { x, a, b, c, n, first: item.first, tensor: item.tensor, ..Row::default() });
    }
    let params = SgdParams { source, terms: op.terms, nesterov: u32::from(op.nesterov) };
    call.launch_tiles(Module::Update, &format!("update_sgd_{}_{}", op.source.bits, suffix::<T>()), &params, &rows)
}

pub(super) fn adamw<T: Element>(
    cuda: &Cuda,
    op: &AdamW,
    items: &mut [AdamWItem<'_, Cuda, T>],
    guards: Option<&Reports>,
) -> Result<()> {
    op.validate()?;
    items.iter().try_for_each(|item| item.validate(op))?;
    let mut call = Call::new(cuda)?;
    let source = Source::new(cuda, &mut call, &op.source, guards)?;
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        let n = item.weights.len() as u64;
        let (x, b) = gradient(&mut call, item.gradient.shorten())?;
        let c = call.write(&mut item.first_moment)?;
        let report = call.write(&mut item.second_moment)?;
        let a = call.write(&mut item.weights)?;
        rows.push(Row { x, a, b, c, report, n, first: item.first, tensor: item.tensor, begin: 0 });
    }
    let params = AdamWParams { source, terms: op.terms, unused: 0 };
    call.launch_tiles(Module::Update, &format!("update_adamw_{}_{}", op.source.bits, suffix::<T>()), &params, &rows)
}
