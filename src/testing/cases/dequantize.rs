//! Cases of dequantize.

use super::{blocks, groupings, lengths, scales, trits, type_name};
use crate::error::Result;
use crate::op::Backend;
use crate::op::dequantize::{Dequantize as Op, Item};
use crate::op::{Element, Grouping};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::Rng;
use std::marker::PhantomData;

/// Dequantizes a list.
#[derive(Clone, Debug)]
pub struct Dequantize<T> {
    /// The parameters.
    pub op: Op,
    /// The elements, the planes and the scales of each tensor.
    pub tensors: Vec<(usize, Vec<u32>, Vec<u16>)>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
    /// The output type.
    pub output: PhantomData<T>,
}

/// The buffers of a [`Dequantize`].
pub struct Bound<B: Backend, T: Element> {
    words: Held<B, u32>,
    scales: Held<B, u16>,
    out: Held<B, T>,
}

impl<T: Element> Case for Dequantize<T> {
    type Bound<B: Backend> = Bound<B, T>;

    fn operation(&self) -> &'static str {
        "dequantize"
    }

    fn parameters(&self) -> String {
        format!("{} {:?}", type_name::<T>(), self.op)
    }

    fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.0 as u64).sum()
    }

    fn bytes(&self) -> u64 {
        self.tensors
            .iter()
            .map(|(n, words, scales)| (n * size_of::<T>() + words.len() * 4 + scales.len() * 2) as u64)
            .sum()
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B, T>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        Ok(Bound {
            words: binder.hold("words", self.tensors.iter().map(|t| t.1.clone()))?,
            scales: binder.hold("scales", self.tensors.iter().map(|t| t.2.clone()))?,
            out: binder.poisoned("out", self.tensors.iter().map(|t| t.0))?,
        })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B, T>, _: usize, singly: bool) -> Result<()> {
        let inputs = bound.words.views()?.into_iter().zip(bound.scales.views()?);
        let mut items: Vec<Item<'_, B, T>> =
            inputs.zip(bound.out.views_mut()?).map(|((words, scales), out)| Item { words, scales, out }).collect();
        by(&mut items, singly, |items| backend.dequantize(&self.op, items))
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B, T>) -> Result<Found, Difference> {
        bound.words.unchanged(backend)?;
        bound.scales.unchanged(backend)?;
        Ok(Found { fields: vec![bound.out.read(backend, Layout::Elements)?], reports: Vec::new() })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        let (n, words, scales) = &self.tensors[tensor];
        let pair = element / 32 * 2;
        let scale = scales.get(element / self.op.grouping.size(*n));
        format!(
            "element {element} of {n}: bit {} of planes {:x?}, scale {scale:x?}",
            element % 32,
            words.get(pair..pair + 2)
        )
    }
}

/// Walks over the cases.
pub(super) fn each<T: Element>(options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 2);
    let mut groupings = groupings(options, 0);
    groupings.extend(blocks().map(|b| (Grouping::Block(b), lengths(options, b.get() as usize, 0))));
    for _ in 0..if options.is_full() { 8 } else { 1 } {
        for (grouping, lengths) in &groupings {
            let tensor = |&n: &usize| (n, trits(&mut rng, n, 20), scales(&mut rng, grouping.groups(n), 0x7e80));
            let tensors = lengths.iter().map(tensor).collect();
            visit.visit(&Dequantize::<T> {
                op: Op { grouping: *grouping },
                tensors,
                spoil: None,
                output: PhantomData,
            })?;
        }
    }
    Ok(())
}
