//! Cases of the conversions between planes, separate planes and 2-bit fields.

use super::{lengths, long_lengths, trits};
use crate::error::Result;
use crate::op::Backend;
use crate::op::pack::{
    FieldsToPlanes, FieldsToPlanesItem, JoinPlanes, JoinPlanesItem, PlanesToFields, PlanesToFieldsItem, SplitPlanes,
    SplitPlanesItem,
};
use crate::testing::arena::{Binder, Held, Layout, Place, Spoil};
use crate::testing::case::{Case, Found, Visit, by};
use crate::testing::failure::{Difference, Failure};
use crate::testing::options::Options;
use crate::testing::values::Rng;

/// A conversion between two packed forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// Planes to two separate ones.
    SplitPlanes,
    /// Two separate planes to interleaved ones.
    JoinPlanes,
    /// Planes to 2-bit fields.
    PlanesToFields,
    /// 2-bit fields to planes.
    FieldsToPlanes,
}

/// Converts a list.
#[derive(Clone, Debug)]
pub struct Convert {
    /// Which conversion.
    pub conversion: Conversion,
    /// The words of each tensor, interleaved or in fields; an even number.
    pub words: Vec<Vec<u32>>,
    /// A length made wrong on purpose.
    pub spoil: Option<Spoil>,
}

/// The buffers of a [`Convert`]: inputs, then outputs; each side has one part or two.
pub struct Bound<B: Backend> {
    from: Vec<Held<B, u32>>,
    to: Vec<Held<B, u32>>,
}

impl Case for Convert {
    type Bound<B: Backend> = Bound<B>;

    fn operation(&self) -> &'static str {
        match self.conversion {
            Conversion::SplitPlanes => "split_planes",
            Conversion::JoinPlanes => "join_planes",
            Conversion::PlanesToFields => "planes_to_fields",
            Conversion::FieldsToPlanes => "fields_to_planes",
        }
    }

    fn parameters(&self) -> String {
        "u32 words".to_owned()
    }

    fn elements(&self) -> u64 {
        self.words.iter().map(|w| 16 * w.len() as u64).sum()
    }

    fn bytes(&self) -> u64 {
        self.elements() / 2
    }

    fn bind<B: Backend>(&self, backend: &B, place: Place) -> Result<Bound<B>> {
        let binder = Binder { memory: backend, place, spoil: self.spoil };
        let whole = |name| binder.hold(name, self.words.iter().cloned());
        let half =
            |name, odd| binder.hold(name, self.words.iter().map(|w| w.iter().skip(odd).step_by(2).copied().collect()));
        let output = |name, of: usize| binder.poisoned(name, self.words.iter().map(|w| w.len() / of));
        let (from, to) = match self.conversion {
            Conversion::SplitPlanes => (vec![whole("words")?], vec![output("plus", 2)?, output("minus", 2)?]),
            Conversion::JoinPlanes => (vec![half("plus", 0)?, half("minus", 1)?], vec![output("words", 1)?]),
            Conversion::PlanesToFields => (vec![whole("words")?], vec![output("fields", 1)?]),
            Conversion::FieldsToPlanes => (vec![whole("fields")?], vec![output("words", 1)?]),
        };
        Ok(Bound { from, to })
    }

    fn call<B: Backend>(&self, backend: &B, bound: &mut Bound<B>, _: usize, singly: bool) -> Result<()> {
        let from = bound.from.iter().map(|h| Ok(h.views()?.into_iter())).collect::<Result<Vec<_>>>()?;
        let to = bound.to.iter_mut().map(|h| Ok(h.views_mut()?.into_iter())).collect::<Result<Vec<_>>>()?;
        let (mut from, mut to) = (from.into_iter(), to.into_iter());
        match (self.conversion, (from.next(), from.next()), (to.next(), to.next())) {
            (Conversion::SplitPlanes, (Some(words), None), (Some(plus), Some(minus))) => {
                let views = words.zip(plus.zip(minus));
                let mut items: Vec<SplitPlanesItem<'_, B>> =
                    views.map(|(words, (plus, minus))| SplitPlanesItem { words, plus, minus }).collect();
                by(&mut items, singly, |items| backend.split_planes(&SplitPlanes, items))
            }
            (Conversion::JoinPlanes, (Some(plus), Some(minus)), (Some(words), None)) => {
                let views = words.zip(plus.zip(minus));
                let mut items: Vec<JoinPlanesItem<'_, B>> =
                    views.map(|(words, (plus, minus))| JoinPlanesItem { plus, minus, words }).collect();
                by(&mut items, singly, |items| backend.join_planes(&JoinPlanes, items))
            }
            (Conversion::PlanesToFields, (Some(words), None), (Some(fields), None)) => {
                let mut items: Vec<PlanesToFieldsItem<'_, B>> =
                    words.zip(fields).map(|(words, fields)| PlanesToFieldsItem { words, fields }).collect();
                by(&mut items, singly, |items| backend.planes_to_fields(&PlanesToFields, items))
            }
            (Conversion::FieldsToPlanes, (Some(fields), None), (Some(words), None)) => {
                let mut items: Vec<FieldsToPlanesItem<'_, B>> =
                    fields.zip(words).map(|(fields, words)| FieldsToPlanesItem { fields, words }).collect();
                by(&mut items, singly, |items| backend.fields_to_planes(&FieldsToPlanes, items))
            }
            // `bind` makes no other numbers of parts.
            _ => Ok(()),
        }
    }

    fn collect<B: Backend>(&self, backend: &B, bound: &Bound<B>) -> Result<Found, Difference> {
        bound.from.iter().try_for_each(|h| h.unchanged(backend))?;
        let layout = if bound.to.len() == 2 { Layout::Plane } else { Layout::Packed(2) };
        let fields = bound.to.iter().map(|h| h.read(backend, layout)).collect::<Result<_, Difference>>()?;
        Ok(Found { fields, reports: Vec::new() })
    }

    fn inputs(&self, tensor: usize, element: usize, _: usize) -> String {
        let pair = element / 32 * 2;
        format!("group {} of words or fields: {:x?}", element / 32, self.words[tensor].get(pair..pair + 2))
    }
}

/// Walks over the cases of one conversion.
pub(super) fn each(conversion: Conversion, options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 12 + conversion as u64);
    for density in [0, 40, 100] {
        let lengths = lengths(options, 128, 0).into_iter().chain(long_lengths(options));
        let words = lengths.map(|n| trits(&mut rng, n, density)).collect();
        visit.visit(&Convert { conversion, words, spoil: None })?;
    }
    // Any words: every pair of bits, invalid ones too.
    let words = (0..70).map(|pairs| (0..2 * pairs).map(|_| rng.word()).collect()).collect();
    visit.visit(&Convert { conversion, words, spoil: None })
}
