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
        ("MICRO_BATCHES_MAX", n::MICRO_BATCHES_MAX),
        ("SUM_WORDS", n::SUM_WORDS as u32),
        ("SUM_LOWEST", n::SUM_LOWEST),
        ("STATE_WORDS", n::state::WORDS as u32),
        ("STATE_STEP", n::state::STEP as u32),
        ("STATE_MICRO_BATCH", n::state::MICRO_BATCH as u32),
        ("STATE_UPDATES", n::state::UPDATES as u32),
        ("STATE_SKIPS", n::state::SKIPS as u32),
        ("STATE_RATE", n::state::RATE as u32),
        ("STATE_WEIGHTS", n::state::WEIGHTS as u32),
        ("STATE_LOSS_SCALE", n::state::LOSS_SCALE as u32),
        ("STATE_GOOD", n::state::GOOD as u32),
        ("STATE_SKIP", n::state::SKIP as u32),
        ("STATE_FOUND_SLOT", n::state::FOUND_SLOT as u32),
        ("STATE_FOUND_LOW", n::state::FOUND_LOW as u32),
        ("STATE_FOUND_HIGH", n::state::FOUND_HIGH as u32),
        ("STATE_NORM", n::state::NORM as u32),
        ("STATE_CLIP", n::state::CLIP as u32),
        ("STATE_FACTOR", n::state::FACTOR as u32),
        ("STATE_CORRECT1", n::state::CORRECT1 as u32),
        ("STATE_CORRECT2", n::state::CORRECT2 as u32),
        ("STATE_MICRO_BATCHES", n::state::MICRO_BATCHES as u32),
        ("STATE_WINDOW_WEIGHTS", n::state::WINDOW_WEIGHTS as u32),
        ("STATE_WINDOW_LOSS_SCALE", n::state::WINDOW_LOSS_SCALE as u32),
        ("STATE_SKIP_NO_WEIGHT", n::state::SKIP_NO_WEIGHT),
        ("STATE_SKIP_NON_FINITE", n::state::SKIP_NON_FINITE),
        ("STATE_SKIP_FACTOR", n::state::SKIP_FACTOR),
        ("STATE_LOSS_SCALE_MIN", n::state::LOSS_SCALE_MIN),
        ("STATE_LOSS_SCALE_MAX", n::state::LOSS_SCALE_MAX),
    ]
}
