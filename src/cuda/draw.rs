//! The draws of a launch as kernels see them. Mirrors `kernels/include/draw.cuh`.

use super::item::Pointer;
use crate::numerics::constants::PHILOX_ROUNDS;
use crate::numerics::philox::{W0, W1};
use crate::types::Draw;
use bytemuck::{Pod, Zeroable};

/// The part of a draw's position that a launch shares.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct DrawParams {
    /// The key of each round.
    keys: [[u32; 2]; PHILOX_ROUNDS as usize],
    step: u32,
    high: u32,
    /// Whose step and micro-batch are added; null: there is none.
    state: Pointer,
}

impl DrawParams {
    pub(super) fn new(draw: &Draw, domain: u32, state: Pointer) -> Self {
        let at = draw.position(0, domain);
        let [mut k0, mut k1] = at.key();
        let mut keys = [[0; 2]; PHILOX_ROUNDS as usize];
        for key in &mut keys {
            *key = [k0, k1];
            (k0, k1) = (k0.wrapping_add(W0), k1.wrapping_add(W1));
        }
        let [_, _, step, high] = at.counter(0);
        DrawParams { keys, step, high, state }
    }
}
