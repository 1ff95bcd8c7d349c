//! Update: weights follow gradients straight out of levels and scales.

use super::Cuda;
use super::draw::DrawParams;
use super::item::{Item, Pointer, item};
use super::launch::{Call, suffix};
use super::modules::Module;
use super::read_out::scale_limit;
use super::reports::Reports;
use super::view::View;
use crate::error::Result;
use crate::numerics::constants::domain;
use crate::numerics::update::{AdamWTerms, SgdTerms};
use crate::op::update::{AdamW, Gradient, Sgd, Source};
use crate::op::{Checked, Launch};
use crate::types::Element;
use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceSlice;

/// Elements of a CTA: `CTA_ELEMENTS` in kernels/include/update.cuh.
const CTA_ELEMENTS: u64 = 1024;

/// `Source` in kernels/include/update.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct SourceParams {
    draw: DrawParams,
    guards: Pointer,
    guard_count: u64,
    factor: f32,
    bits: u32,
    block_shift: u32,
    /// bf16 bits: under scales up to this no gradient becomes infinite.
    scale_limit: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SgdParams {
    source: SourceParams,
    terms: SgdTerms,
    nesterov: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AdamWParams {
    source: SourceParams,
    terms: AdamWTerms,
    pad: u32,
}

item! {
    /// `SgdItem` in kernels/update.cu.
    struct SgdItem {
        gradient: Pointer,
        /// Null: the gradient is floats.
        scales: Pointer,
        weights: Pointer,
        /// Null: there is none.
        momentum: Pointer,
        report: Pointer,
        n: u64,
        first: u64,
        tensor: u32,
        begin: u32,
    }
}

item! {
    /// `AdamWItem` in kernels/update.cu.
    struct AdamWItem {
        gradient: Pointer,
        /// Null: the gradient is floats.
        scales: Pointer,
        weights: Pointer,
        first_moment: Pointer,
        second_moment: Pointer,
        report: Pointer,
        n: u64,
        first: u64,
        tensor: u32,
        begin: u32,
    }
}

impl SourceParams {
    pub(super) fn new<'a>(
        call: &mut Call<'a>,
        source: &Source,
        state: Option<View<'a, u32>>,
        guards: Option<&'a Reports>,
    ) -> Result<Self> {
        let guard_count = guards.map_or(0, |reports| reports.0.len() as u64);
        let guards = match guards {
            Some(reports) => call.guards(reports)?.at(0),
            None => Pointer::NULL,
        };
        Ok(SourceParams {
            draw: DrawParams::new(&source.draw, domain::WEIGHT, call.state(state)?),
            guards,
            guard_count,
            factor: source.factor,
            bits: source.bits,
            block_shift: source.block.get().ilog2(),
            scale_limit: scale_limit(source.bits, source.factor, f32::MAX) >> 16,
        })
    }
}

/// Where a gradient lies: levels and scales, or floats and null.
pub(super) fn gradient<'a, 'l: 'a>(call: &mut Call<'a>, gradient: &Gradient<'l, Cuda>) -> Result<(Pointer, Pointer)> {
    Ok(match *gradient {
        Gradient::Packed { levels, scales } => (call.read(levels)?, call.read(scales)?),
        Gradient::Dense(x) => (call.read(x)?, Pointer::NULL),
    })
}

impl Launch<Sgd> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, Sgd, T>) -> Result<()> {
        let (op, items, (state, guards, reports)) = work.into_parts();
        let mut call = Call::new(self)?;
        let source = SourceParams::new(&mut call, &op.source, state.0, guards)?;
        let params = SgdParams { source, terms: op.terms, nesterov: op.nesterov.into() };
        let slots = call.reports(reports)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            let (gradient, scales) = gradient(&mut call, &item.gradient)?;
            rows.push(SgdItem {
                gradient,
                scales,
                n: item.weights.len() as u64,
                weights: call.write(&mut item.weights)?,
                momentum: match &mut item.momentum {
                    Some(momentum) => call.write(momentum)?,
                    None => Pointer::NULL,
                },
                report: slots.at(item.report),
                first: item.first,
                tensor: item.tensor,
                begin: 0,
            });
        }
        launch(&call, Module::Update, &kernel::<T>("update_sgd", state.0), &params, &rows)
    }
}

impl Launch<AdamW> for Cuda {
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, AdamW, T>) -> Result<()> {
        let (op, items, (state, guards, reports)) = work.into_parts();
        let mut call = Call::new(self)?;
        let source = SourceParams::new(&mut call, &op.source, state.0, guards)?;
        let params = AdamWParams { source, terms: op.terms, pad: 0 };
        let slots = call.reports(reports)?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            let (gradient, scales) = gradient(&mut call, &item.gradient)?;
            rows.push(AdamWItem {
                gradient,
                scales,
                n: item.weights.len() as u64,
                weights: call.write(&mut item.weights)?,
                first_moment: call.write(&mut item.first_moment)?,
                second_moment: call.write(&mut item.second_moment)?,
                report: slots.at(item.report),
                first: item.first,
                tensor: item.tensor,
                begin: 0,
            });
        }
        launch(&call, Module::Update, &kernel::<T>("update_adamw", state.0), &params, &rows)
    }
}

/// The kernels of an update, those that follow a state where there is one.
pub(super) fn kernel<T: Element>(name: &str, state: Option<View<'_, u32>>) -> String {
    let following = if state.is_some() { "following_" } else { "" };
    format!("{name}_{following}{}", suffix::<T>())
}

/// One CTA for each 1024 elements of each item.
pub(super) fn launch<P: Pod, I: Item>(
    call: &Call<'_>,
    module: Module,
    kernel: &str,
    params: &P,
    rows: &[I],
) -> Result<()> {
    call.launch(module, kernel, params, rows, |row| row.n().div_ceil(CTA_ELEMENTS), 0)
}
