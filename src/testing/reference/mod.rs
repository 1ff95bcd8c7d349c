//! The reference: every operation once more, element by element, straight from [`crate::numerics`].
//!
//! It shares no code with `src/cpu`, has no fast path and keeps no state. [`Reference`] is a backend, so that a case runs
//! on it exactly as on the device under test.

mod accumulate;
mod floats;
mod memory;
mod pack;
mod quantize;
mod reduce;
mod state;
mod update;
mod window;

use crate::numerics::constants::GROUP;
use crate::numerics::draw::{Position, draws as group_draws};
use crate::numerics::float::{magnitude, out_of_range};
use crate::op::Report;

/// The executable specification as a backend over slices: slow, and right by definition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// Notes one element that cannot be used.
fn note(report: &mut Report, index: u64) {
    report.merge(Report { non_finite: 1, first: Some(index), clipped: 0 });
}

/// Whether a slot of the guards counts anything.
fn counts(guards: Option<&Vec<Report>>, slot: Option<usize>) -> bool {
    guards.is_some_and(|guards| slot.is_some_and(|slot| guards[slot].non_finite > 0))
}

/// An element's f32 bits, or zero and a note where it is out of range.
fn in_range(bits: u32, index: u64, report: &mut Report) -> u32 {
    if out_of_range(magnitude(bits)) {
        note(report, index);
        0
    } else {
        bits
    }
}

/// The draws of `n` elements of a tensor from `first` on, which is a multiple of 32.
fn draws(at: &Position, first: u64, n: usize) -> Vec<u32> {
    let groups = first / GROUP as u64..(first + n as u64).div_ceil(GROUP as u64);
    groups.flat_map(|group| group_draws(at, group as u32)).collect()
}

/// The trit of a kept element.
fn sign(bits: u32) -> i32 {
    if bits >> 31 == 1 { -1 } else { 1 }
}
