// Whether a window is a step, and by which factor, decided in a state.
//
// Mirrors: src/numerics/state.rs (State::decide, norm).
// Launch: one workgroup of 128 threads, which look at the reports together; the first does the rest.
// Buffers: state, STATE_WORDS words, read and written; sum, SUM_WORDS words; corrections, two floats an update; found, reports.
// Determinism: cross-backend; products, quotients and roots are those of IEEE 754 on every adapter.
#include ieee
struct DecideParams {
    state: u32,          // where it begins in its binding, in words
    sum: u32,            // the same
    corrections: u32,    // the same
    updates: u32,        // that there are corrections for
    slots: u32,          // of the reports; 0 without
    limit: u32,          // f32 bits, those of infinity where the norm is not clipped
    zero: u32,           // always 0, which no compiler can know
}
@group(0) @binding(0) var<uniform> params: DecideParams;
@group(0) @binding(1) var<storage, read_write> state: array<u32>;
@group(0) @binding(2) var<storage, read> sum: array<u32>;
@group(0) @binding(3) var<storage, read> corrections: array<u32>;
@group(0) @binding(4) var<storage, read> found: array<u32>;
const NONE: u32 = 0xffffffffu;
const ONE: u32 = 0x3f800000u;
var<workgroup> first: atomic<u32>;

// x 2^by of an x that is not negative: 0 below 2^-126, infinite from 2^128 up.
fn shifted(x: u32, by: i32) -> u32 {
    let exponent = i32(x >> 23u);
    if (exponent == 0 || exponent == 255) {
        return select(x, 0u, exponent == 0);
    }
    let moved = exponent + by;
    if (moved <= 0) {
        return 0u;
    }
    return select((x & 0x007fffffu) | (u32(moved) << 23u), INF, moved >= 255);
}

// The root of the sum times |mean|, f32 bits.
fn norm(mean: u32) -> u32 {
    let at = params.sum;
    var top = SUM_WORDS - 1u;
    if ((sum[at + top] >> 31u) == 1u) {
        return 0u;
    }
    while (top > 0u && sum[at + top] == 0u) {
        top -= 1u;
    }
    let high = sum[at + top];
    if (high == 0u) {
        return 0u;
    }
    var below = 0u;
    if (top > 0u) {
        below = sum[at + top - 1u];
    }
    let by = countLeadingZeros(high);
    var leading = high;
    if (by > 0u) {
        leading = (high << by) | (below >> (32u - by));
    }
    var rest = (below << by) != 0u;
    for (var i = 0u; i + 1u < top; i++) {
        rest = rest || sum[at + i] != 0u;
    }
    let kept = leading >> 8u;
    let low = leading & 0xffu;
    let up = low > 0x80u || (low == 0x80u && (rest || (kept & 1u) == 1u));
    let exponent = i32(32u * top + 31u - by) - i32(SUM_LOWEST);
    let m = (u32(127 + (exponent & 1)) << 23u) + (kept - MIN_NORMAL) + u32(up);
    return shifted(ieee_mul(ieee_sqrt(m), mean & ABS), exponent >> 1u);
}

@compute @workgroup_size(128)
fn main(@builtin(local_invocation_index) lane: u32) {
    if (lane == 0u) {
        atomicStore(&first, NONE);
    }
    workgroupBarrier();
    for (var i = lane; i < params.slots; i += 128u) {
        if ((found[4u * i] | found[4u * i + 1u]) != 0u) {
            atomicMin(&first, i);
            break;
        }
    }
    workgroupBarrier();
    if (lane != 0u) {
        return;
    }
    let at = params.state;
    let slot = atomicLoad(&first);
    let bad = slot != NONE;
    var low = 0u;
    var high = 0u;
    if (bad) {
        low = found[4u * slot];
        high = found[4u * slot + 1u];
    }
    state[at + STATE_FOUND_SLOT] = select(0u, slot, bad);
    state[at + STATE_FOUND_LOW] = low;
    state[at + STATE_FOUND_HIGH] = high;
    var correct1 = ONE;
    var correct2 = ONE;
    if (params.updates > 0u) {
        let pair = params.corrections + 2u * min(state[at + STATE_UPDATES], params.updates - 1u);
        correct1 = corrections[pair];
        correct2 = corrections[pair + 1u];
    }
    state[at + STATE_CORRECT1] = correct1;
    state[at + STATE_CORRECT2] = correct2;
    let weights = state[at + STATE_WEIGHTS];
    let scale = state[at + STATE_LOSS_SCALE];
    state[at + STATE_MICRO_BATCHES] = state[at + STATE_MICRO_BATCH];
    state[at + STATE_MICRO_BATCH] = 0u;
    state[at + STATE_WINDOW_WEIGHTS] = weights;
    state[at + STATE_WEIGHTS] = 0u;
    state[at + STATE_WINDOW_LOSS_SCALE] = scale;
    var length = 0u;
    var clip = ONE;
    var factor = 0u;
    var skip = STATE_SKIP_NO_WEIGHT;
    if ((weights & ABS) != 0u) {
        let mean = ieee_div(ONE, ieee_mul(weights, scale));
        length = norm(mean);
        // Magnitudes are ordered like their bits.
        if (length > params.limit) {
            clip = ieee_div(params.limit, length);
        }
        factor = ieee_mul(mean, clip);
        let exponent = (factor >> 23u) & 0xffu;
        skip = select(0u, STATE_SKIP_FACTOR, exponent == 0u || exponent == 255u);
        skip = select(skip, STATE_SKIP_NON_FINITE, bad);
    }
    state[at + STATE_NORM] = length;
    state[at + STATE_CLIP] = clip;
    state[at + STATE_FACTOR] = select(0u, factor, skip == 0u);
    state[at + STATE_SKIP] = skip;
}
