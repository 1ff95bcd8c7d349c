//! [`Update`] of a [`Device`]: items are unwrapped, and its backend is called.

use super::arm::{Arm, on};
use super::operations::unwrap;
use super::{Device, Reports};
use crate::backend::Update;
use crate::error::Result;
use crate::op::{self, Element};

fn gradient<'s, 'l: 's, B: Arm>(
    b: &B,
    gradient: op::update::Gradient<'l, Device>,
) -> Result<op::update::Gradient<'s, B>> {
    Ok(match gradient {
        op::update::Gradient::Packed { levels, scales } => {
            op::update::Gradient::Packed { levels: b.of(levels)?, scales: b.of(scales)? }
        }
        op::update::Gradient::Dense(x) => op::update::Gradient::Dense(b.of(x)?),
    })
}

fn update_sgd<B: Arm + Update, T: Element>(
    b: &B,
    op: &op::update::Sgd,
    items: &mut [op::update::SgdItem<'_, Device, T>],
    guards: Option<&Reports>,
) -> Result<()> {
    let mut items = unwrap(items, |i| {
        Ok(op::update::SgdItem {
            tensor: i.tensor,
            first: i.first,
            gradient: gradient(b, i.gradient)?,
            weights: b.of_mut(&mut i.weights)?,
            momentum: i.momentum.as_mut().map(|m| b.of_mut(m)).transpose()?,
        })
    })?;
    b.update_sgd(op, &mut items, guards.map(|g| b.of_reports(g)).transpose()?)
}

fn update_adamw<B: Arm + Update, T: Element>(
    b: &B,
    op: &op::update::AdamW,
    items: &mut [op::update::AdamWItem<'_, Device, T>],
    guards: Option<&Reports>,
) -> Result<()> {
    let mut items = unwrap(items, |i| {
        Ok(op::update::AdamWItem {
            tensor: i.tensor,
            first: i.first,
            gradient: gradient(b, i.gradient)?,
            weights: b.of_mut(&mut i.weights)?,
            first_moment: b.of_mut(&mut i.first_moment)?,
            second_moment: b.of_mut(&mut i.second_moment)?,
        })
    })?;
    b.update_adamw(op, &mut items, guards.map(|g| b.of_reports(g)).transpose()?)
}

impl Update for Device {
    fn update_sgd<T: Element>(
        &self,
        op: &op::update::Sgd,
        items: &mut [op::update::SgdItem<'_, Self, T>],
        guards: Option<&Reports>,
    ) -> Result<()> {
        on!(Device(b) = self => update_sgd(b, op, items, guards))
    }

    fn update_adamw<T: Element>(
        &self,
        op: &op::update::AdamW,
        items: &mut [op::update::AdamWItem<'_, Self, T>],
        guards: Option<&Reports>,
    ) -> Result<()> {
        on!(Device(b) = self => update_adamw(b, op, items, guards))
    }
}
