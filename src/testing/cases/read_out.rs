//! Cases of read out.

use super::guards::marked;
use super::{blocks, count_scales, large_scales, lengths, levels, scales, type_name};
use crate::error::Result;
use crate::numerics::pack::set_field;
use crate::op::read_out::{BITS, Item, ReadOut as Op};
use crate::op::{Backend, BlockSize, Element};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::Rng;
use std::marker::PhantomData;

/// Reads a list of levels or counts out.
#[derive(Clone, Debug)]
pub struct ReadOut<T> {
    /// The parameters.
    pub op: Op,
    /// The list.
    pub tensors: Vec<Levels>,
    /// Which of the guards count something.
    pub guards: Vec<bool>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
    /// The output type.
    pub output: PhantomData<T>,
}

/// One tensor of a list: its elements, its levels or counts, its scales, and the guard it names.
#[derive(Clone, Debug)]
pub struct Levels {
    /// Elements.
    pub n: usize,
    /// Levels or counts.
    pub levels: Vec<u32>,
    /// bf16 scales.
    pub scales: Vec<u16>,
    /// The slot of the guards.
    pub guard: Option<usize>,
}

/// The buffers of a [`ReadOut`].
pub struct Bound<B: Backend, T: Element> {
    levels: Held<B, u32>,
    scales: Held<B, u16>,
    out: Held<B, T>,
    guards: B::Reports,
}

impl<T: Element> Case for ReadOut<T> {
    type Bound<B: Backend> = Bound<B, T>;

    fn operation(&self) -> &'static str {
        "read_out"
    }

    fn parameters(&self) -> String {
        format!("{} {:?}", type_name::<T>(), self.op)
    }

    fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.n as u64).sum()
    }

    fn bytes(&self) -> u64 {
        let of = |t: &Levels| t.n * size_of::<T>() + t.levels.len() * 4 + t.scales.len() * 2;
        self.tensors.iter().map(|t| of(t) as u64).sum()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B, T>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        Ok(Bound {
            levels: binder.hold("levels", self.tensors.iter().map(|t| t.levels.clone()))?,
            scales: binder.hold("scales", self.tensors.iter().map(|t| t.scales.clone()))?,
            out: binder.poisoned("out", self.tensors.iter().map(|t| t.n))?,
            guards: marked(&binder, &self.guards)?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B, T>, _: usize, singly: bool) -> Result<()> {
        let inputs = bound.levels.views()?.into_iter().zip(bound.scales.views()?);
        let outputs = bound.out.views_mut()?.into_iter().zip(&self.tensors);
        let mut items: Vec<Item<'_, B, T>> = inputs
            .zip(outputs)
            .map(|((levels, scales), (out, t))| Item { levels, scales, out, guard: t.guard })
            .collect();
        let guards = if self.guards.is_empty() { None } else { Some(&bound.guards) };
        by(&mut items, singly, |items| backend.read_out(&self.op, items, guards))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B, T>) -> Result<Found, Difference> {
        bound.levels.unchanged(backend)?;
        bound.scales.unchanged(backend)?;
        Ok(Found {
            fields: vec![bound.out.read(backend, Layout::Elements)?],
            reports: backend.read_reports(&bound.guards)?,
        })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        let Levels { n, levels, scales, guard } = &self.tensors[tensor];
        let (bits, block) = (self.op.bits as usize, self.op.block.get() as usize);
        let group = element / 32 * bits..(element / 32 + 1) * bits;
        let scale = scales.get(element / block);
        format!(
            "element {element} of {n}: words of its group {:x?}, scale {scale:x?}, guard {guard:?}",
            levels.get(group)
        )
    }
}

/// Levels times scales near and past the end of the range, brought back into it by the factor: the real product is
/// what counts, and so 4 times 2^126 times 1/4 is 2^126.
fn near_the_end<T: Element>(rng: &mut Rng, bits: u32, block: BlockSize) -> ReadOut<T> {
    let tensor = |n: usize| {
        let mut levels = levels(rng, bits, n);
        if bits > 2 {
            (0..n).step_by(5).for_each(|i| set_field(&mut levels, bits, i, 4));
        }
        Levels { n, levels, scales: large_scales(bits, block.blocks(n)), guard: None }
    };
    let tensors = [1, 32, 77, 300, 9000].map(tensor).into();
    let factor = rng.pick(&[0.25, -0.25, 0.5, 1.0 / 2_147_483_648.0, 1.2e-38]);
    let op = Op { bits, block, factor };
    ReadOut { op, tensors, guards: Vec::new(), spoil: None, output: PhantomData }
}

/// Walks over the cases.
pub(super) fn each<T: Element>(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 3);
    // Also what saturates any output.
    let factors = [1.0, 1.0 / 3.0, -0.1, 65_536.0, 1.0 / 65_536.0, 1.5e-20, f32::MAX, -1e30];
    for &bits in BITS {
        for block in blocks() {
            visit.visit(&near_the_end::<T>(&mut rng, bits, block))?;
        }
        for (number, block) in blocks().enumerate() {
            for (factor, guarded) in factors.into_iter().zip([false, true].into_iter().cycle()) {
                // Without the full budget every block size meets two factors, every factor some block sizes.
                if !options.is_full() && !rng.below(3).is_multiple_of(3) {
                    continue;
                }
                let op = Op { bits, block, factor };
                let largest = if number % 2 == 0 { 0x4f80 } else { 0x7e80 };
                let mut tensor = |(i, n): (usize, usize)| {
                    let levels = levels(&mut rng, bits, n);
                    let scales = match bits {
                        32 => count_scales(&mut rng, bits, block.blocks(n)),
                        _ => scales(&mut rng, block.blocks(n), largest),
                    };
                    Levels { n, levels, scales, guard: (guarded && i % 3 > 0).then_some(i % 5) }
                };
                let tensors =
                    lengths(options, block.get() as usize, 0).into_iter().enumerate().map(&mut tensor).collect();
                let guards = if guarded { vec![false, true, false, false, true] } else { Vec::new() };
                visit.visit(&ReadOut::<T> { op, tensors, guards, spoil: None, output: PhantomData })?;
            }
        }
    }
    Ok(())
}
