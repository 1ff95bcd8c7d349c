// A micro-batch counted in a state.
//
// Mirrors: src/numerics/state.rs (State::advance_micro_batch).
// Launch: one thread.
// Buffers: state, STATE_WORDS words, read and written.
// Determinism: cross-backend.
#include ieee
struct MicroBatchParams {
    state: u32,     // where it begins in its binding, in words
    weight: u32,    // f32 bits, a subnormal already 0
    zero: u32,      // always 0, which no compiler can know
}
@group(0) @binding(0) var<uniform> params: MicroBatchParams;
@group(0) @binding(1) var<storage, read_write> state: array<u32>;

@compute @workgroup_size(1)
fn main() {
    let at = params.state;
    state[at + STATE_MICRO_BATCH] = min(state[at + STATE_MICRO_BATCH] + 1u, MICRO_BATCHES_MAX - 1u);
    state[at + STATE_WEIGHTS] = ieee_add(state[at + STATE_WEIGHTS], params.weight);
}
