// The end of a window in a state: counts, moves the loss scale, goes on to the next window.
//
// Mirrors: src/numerics/state.rs (State::advance_step, grow).
// Launch: one thread.
// Buffers: state, STATE_WORDS words, read and written.
// Determinism: cross-backend.
struct StepParams {
    state: u32,       // where it begins in its binding, in words
    interval: u32,    // 0: the loss scale stays
}
@group(0) @binding(0) var<uniform> params: StepParams;
@group(0) @binding(1) var<storage, read_write> state: array<u32>;
const OCTAVE: u32 = 0x00800000u;

@compute @workgroup_size(1)
fn main() {
    let at = params.state;
    let skip = state[at + STATE_SKIP];
    let counted = at + select(STATE_SKIPS, STATE_UPDATES, skip == 0u);
    state[counted] += u32(state[counted] != 0xffffffffu);
    let scale = state[at + STATE_LOSS_SCALE];
    let good = state[at + STATE_GOOD];
    if (params.interval != 0u && skip == 0u) {
        let grows = good >= params.interval - 1u;
        let doubled = scale + min(OCTAVE, ~scale);
        state[at + STATE_LOSS_SCALE] = select(scale, max(min(doubled, STATE_LOSS_SCALE_MAX), scale), grows);
        state[at + STATE_GOOD] = select(good + 1u, 0u, grows);
    } else if (params.interval != 0u && skip == STATE_SKIP_NON_FINITE) {
        state[at + STATE_LOSS_SCALE] = min(max(scale - min(OCTAVE, scale), STATE_LOSS_SCALE_MIN), scale);
        state[at + STATE_GOOD] = 0u;
    }
    state[at + STATE_STEP] += 1u;
}
