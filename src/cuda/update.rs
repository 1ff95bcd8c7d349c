//! Update: weights follow gradients straight out of levels and scales.

use super::Cuda;
use super::draw::DrawParams;
use super::item::{Item as Row, Pointer};
use super::launch::{Call, suffix};
use super::memory::Reports;
use super::modules::Module;
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::op::Element;
use crate::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

/// Elements of a CTA: `CTA_ELEMENTS` in kernels/update.cu.
const CTA_ELEMENTS: u64 = 1024;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    draw: DrawParams,
    guards: Pointer,
    guard_count: u64,
    factor: f32,
    bits: u32,
    block_shift: u32,
    nesterov: u32,
    terms: [f32; 10],
}

impl Params {
    fn new<'a>(call: &mut Call<'a>, source: &Source, terms: &[f32], guards: Option<&'a Reports>) -> Result<Self> {
        let guard_count = guards.map_or(0, |reports| reports.0.len() as u64);
        let guards = match guards {
            Some(reports) => call.guards(reports)?.at(0),
            None => Pointer::NULL,
        };
        let mut all = [0.0; 10];
        all[..terms.len()].copy_from_slice(terms);
        Ok(Params {
            draw: DrawParams::new(call.cuda(), &source.draw, domain::WEIGHT),
            guards,
            guard_count,
            factor: source.factor,
            bits: source.bits,
            block_shift: source.block.get().ilog2(),
            nesterov: 0,
            terms: all,
        })
    }
}

/// The row of a gradient: levels and scales, or floats and null.
fn row<'a, 'l: 'a>(call: &mut Call<'a>, gradient: &Gradient<'l, Cuda>) -> Result<Row> {
    let (x, b) = match *gradient {
        Gradient::Packed { levels, scales } => (call.read(levels)?, call.read(scales)?),
        Gradient::Dense(x) => (call.read(x)?, Pointer::NULL),
    };
    Ok(Row { x, b, ..Row::default() })
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
    let terms = [op.terms.learning_rate, op.terms.momentum, op.terms.weight_decay];
    let params = Params { nesterov: op.nesterov.into(), ..Params::new(&mut call, &op.source, &terms, guards)? };
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        let gradient = row(&mut call, &item.gradient)?;
        let c = match &mut item.momentum {
            Some(momentum) => call.write(momentum)?,
            None => Pointer::NULL,
        };
        let (n, first, tensor) = (item.weights.len() as u64, item.first, item.tensor);
        rows.push(Row { a: call.write(&mut item.weights)?, c, n, first, tensor, ..gradient });
    }
    launch(&call, &format!("update_sgd_{}", suffix::<T>()), &params, &rows)
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
    let t = &op.terms;
    let terms = [t.learning_rate, t.beta1, t.rest1, t.beta2, t.rest2, t.correct1, t.correct2, t.eps, t.keep];
    let params = Params::new(&mut call, &op.source, &terms, guards)?;
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        let gradient = row(&mut call, &item.gradient)?;
        let c = call.write(&mut item.first_moment)?;
        // The kernel has no report: the second moment takes its place.
        let report = call.write(&mut item.second_moment)?;
        let (n, first, tensor) = (item.weights.len() as u64, item.first, item.tensor);
        rows.push(Row { a: call.write(&mut item.weights)?, c, report, n, first, tensor, ..gradient });
    }
    launch(&call, &format!("update_adamw_{}", suffix::<T>()), &params, &rows)
}

/// One CTA for each 1024 elements of each item.
fn launch(call: &Call<'_>, kernel: &str, params: &Params, rows: &[Row]) -> Result<()> {
    call.launch(Module::Update, kernel, params, rows, |row| row.n.div_ceil(CTA_ELEMENTS), 0)
}
