//! Reports that calls look at before they do anything.

use crate::error::Result;
use crate::op::{Backend, check};
use crate::testing::arena::Binder;

/// Reports of which some slots count a non-finite element.
pub(super) fn marked<B: Backend>(binder: &Binder<'_, B>, marks: &[bool]) -> Result<B::Reports> {
    let mut guards = binder.memory.reports(marks.len())?;
    let bad = binder.hold("bad", [vec![f32::NAN; 3]])?;
    for (report, _) in marks.iter().enumerate().filter(|(_, marked)| **marked) {
        for x in bad.views()? {
            let item = check::Item { x, first: 0, report };
            binder.memory.check(&check::Check { weight: 1.0 }, &mut [item], &mut guards)?;
        }
    }
    Ok(guards)
}
