//! How dispatches follow a state: where their parameters hold what it changes.

use super::device::Wgpu;
use super::pipeline::Flags;
use super::shaders::{
    AccumulateParams, AdamW8Params, AdamWParams, AdamWTerms, Draws, ExactParams, GroupsParams, QuantizeParams,
    SgdParams, SgdTerms,
};
use std::mem::offset_of;

/// The flags of shaders that compute in f32.
pub(super) fn ieee(gpu: &Wgpu) -> Flags {
    let mut flags = Flags::new();
    gpu.soft(&mut flags);
    flags
}

/// Where the parameters of a dispatch hold what a state changes, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) draws: u32,
    /// 0: it draws, no more; 1: SGD; 2: AdamW.
    pub(super) rule: u32,
    pub(super) n: u32,
    pub(super) factor: u32,
    pub(super) terms: u32,
}

/// A word of a struct of parameters.
const fn word(bytes: usize) -> u32 {
    (bytes / 4) as u32
}

/// Parameters that a state can change.
pub(super) trait Follows {
    /// Where.
    const PLACES: Places;
}

macro_rules! draws {
    ($($params:ty),*) => {
        $(impl Follows for $params {
            const PLACES: Places = Places {
                draws: word(offset_of!($params, draws) + offset_of!(Draws, step)),
                rule: 0,
                n: 0,
                factor: 0,
                terms: 0,
            };
        })*
    };
}
draws!(QuantizeParams, GroupsParams, AccumulateParams, ExactParams);

macro_rules! updates {
    ($($params:ty, $rule:literal);*) => {
        $(impl Follows for $params {
            const PLACES: Places = Places {
                draws: word(offset_of!($params, draws) + offset_of!(Draws, step)),
                rule: $rule,
                n: word(offset_of!($params, n)),
                factor: word(offset_of!($params, factor)),
                terms: word(offset_of!($params, terms)),
            };
        })*
    };
}
updates!(SgdParams, 1; AdamWParams, 2; AdamW8Params, 2);

// What shaders/state_params.wgsl takes for granted.
const _: () = assert!(
    offset_of!(Draws, purpose) == offset_of!(Draws, step) + 4
        && offset_of!(SgdTerms, learning_rate) == 0
        && offset_of!(AdamWTerms, learning_rate) == 0
        && offset_of!(AdamWTerms, correct1) == 20
        && offset_of!(AdamWTerms, correct2) == 24
        && offset_of!(AdamWTerms, keep) == 32
);
