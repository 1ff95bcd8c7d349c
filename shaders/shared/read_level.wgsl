// Mirrors src/numerics/level.rs (read_out).
#include ieee

// A level as f32, rounded to nearest, ties to even.
fn level_as_float(l: i32) -> u32 {
    return rounded(bitcast<u32>(l) & 0x80000000u, u32(abs(l)), 0, false);
}

// What lies above the largest finite f32 becomes that number.
fn saturate_f32(bits: u32) -> u32 {
    return select(bits, (bits & 0x80000000u) | 0x7f7fffffu, (bits & ABS) == INF);
}

// (l s) factor rounded once, as f32 bits, subnormals included. WGSL leaves open what overflows or is subnormal in
// floats, and how an integer of more than 24 bits becomes one, so all that is decided in integers.
fn read_level(l: i32, s: u32, factor: u32) -> u32 {
#if !SOFT
    if (s < 0x70000000u && l != 0 && u32(abs(l)) <= 0x8000u) {
        let v = value(l, s) ^ params.zero;
        let r = bitcast<u32>(bitcast<f32>(v) * bitcast<f32>(factor));
        if ((r & ABS) >= 0x01000000u && (r & ABS) < INF) {
            return r;
        }
    }
#end
    let level = level_as_float(l);
    // A scale near the end of the range goes by way of smaller numbers.
    if ((s & ABS) < INF) {
        let v = soft_mul(level, s);
        if ((v & ABS) != INF) {
            return saturate_f32(soft_mul(v, factor));
        }
    }
    let v = soft_mul(soft_mul(level, s - (64u << 23u)), factor);
    return saturate_f32(soft_mul(v, 0x5f800000u));
}
