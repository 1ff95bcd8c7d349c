//! The numbers that kernels and shaders share with `src/numerics/constants.rs`, read from that very file.

#[path = "../src/numerics/constants.rs"]
#[expect(unreachable_pub, dead_code, reason = "the file is written for the library")]
mod numbers;

use numbers as n;

/// Name and value of every shared constant.
pub(crate) fn all() -> Vec<(&'static str, u32)> {
    println!("cargo:rerun-if-changed=src/numerics/constants.rs");
    vec![
        ("PHILOX_ROUNDS", n::PHILOX_ROUNDS),
        ("GROUP", n::GROUP as u32),
        ("DRAW_BITS", n::DRAW_BITS),
        ("RANGE_LIMIT", n::RANGE_LIMIT),
        ("ZERO_LIMIT", n::ZERO_LIMIT),
        ("MIN_NORMAL", n::MIN_NORMAL),
        ("CHUNK", n::CHUNK as u32),
        ("SUM_BITS", n::SUM_BITS),
        ("SQUARE_BITS", n::SQUARE_BITS),
        ("DOMAIN_TERNARY", n::domain::TERNARY),
        ("DOMAIN_ADAPTIVE", n::domain::ADAPTIVE),
        ("DOMAIN_WEIGHT", n::domain::WEIGHT),
        ("DOMAIN_RESIDUAL", n::domain::RESIDUAL),
    ]
}
