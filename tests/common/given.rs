//! What wgpu tests are given: a gradient, and operations of every kind.

use trigrad::op::accumulate::Adaptive;
use trigrad::op::quantize::{Quantize, Threshold};
use trigrad::op::{BlockSize, Draw, Grouping};

pub(crate) fn gradient(n: usize) -> Vec<f32> {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| next() * next() * 4.0).collect()
}

pub(crate) fn adaptive() -> Adaptive {
    Adaptive { bits: 4, block: BlockSize::default(), draw: Draw::new(3, 5), weight: 0.75 }
}

pub(crate) fn rules() -> [Quantize; 4] {
    let stochastic = Quantize::stochastic(Draw::new(1, 2));
    [
        stochastic,
        stochastic.grouping(Grouping::Tensor).clip(2.5),
        Quantize::threshold(Threshold::TWN).grouping(Grouping::Row(1000)),
        Quantize::threshold(Threshold::Given(0.3)),
    ]
}
