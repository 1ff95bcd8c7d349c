// Mirrors src/numerics/scale.rs: the scale of a block of a window of counts from the largest magnitude seen.
#include threshold
#include scale

// That magnitude times the headroom, rounded up to bf16.
fn window_scale(max: u32, headroom: u32) -> u32 {
    return stochastic_scale(min(mul_trunc(max, headroom), RANGE_LIMIT));
}

// The size of a fine level: the smallest power of two of which 2^21 cover that magnitude times the headroom.
fn fine_scale(max: u32, headroom: u32) -> u32 {
    let m = min(mul_trunc(max, headroom), RANGE_LIMIT);
    return select((((m + 0x007fffffu) >> 23u) - 21u) << 23u, 0u, m < ZERO_LIMIT);
}
