// A state into the parameters of dispatches that follow it. So shaders that draw or update need not know of states.
//
// Mirrors: src/op/state.rs (Under), src/numerics/update.rs (under).
// Launch: a thread a block of parameters, 64 threads a workgroup.
// Buffers: state, STATE_WORDS words; blocks, 64 words of parameters for each dispatch, read and written.
// Determinism: cross-backend.
#include dispatch
#include ieee
struct StateParams {
    state: u32,      // where it begins in its binding, in words
    first: u32,      // the first block
    count: u32,      // blocks
    draws: u32,      // where a block holds step and purpose of its draws, in words
    rule: u32,       // 0: it draws, no more; 1: SGD; 2: AdamW
    n: u32,          // where it holds its number of elements: set to 0 where the step is skipped
    factor: u32,     // the factor
    terms: u32,      // the terms
    zero: u32,       // always 0, which no compiler can know
}
@group(0) @binding(0) var<uniform> params: StateParams;
@group(0) @binding(1) var<storage, read> state: array<u32>;
@group(0) @binding(2) var<storage, read_write> blocks: array<u32>;
const ONE: u32 = 0x3f800000u;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = workgroup_index(id, count) * 64u + lane;
    if (i >= params.count) {
        return;
    }
    let at = params.state;
    let block = 64u * (params.first + i);
    let draws = block + params.draws;
    blocks[draws] += state[at + STATE_STEP];
    let purpose = blocks[draws + 1u];
    let micro_batch = (purpose + state[at + STATE_MICRO_BATCH]) & (MICRO_BATCHES_MAX - 1u);
    blocks[draws + 1u] = (purpose & ~(MICRO_BATCHES_MAX - 1u)) | micro_batch;
    if (params.rule == 0u) {
        return;
    }
    if (state[at + STATE_SKIP] != 0u) {
        blocks[block + params.n] = 0u;
        return;
    }
    blocks[block + params.factor] = state[at + STATE_FACTOR];
    let rate = state[at + STATE_RATE];
    let terms = block + params.terms;
    blocks[terms] = ieee_mul(rate, blocks[terms]);
    if (params.rule == 2u) {
        blocks[terms + 5u] = state[at + STATE_CORRECT1];
        blocks[terms + 6u] = state[at + STATE_CORRECT2];
        blocks[terms + 8u] = ieee_sub(ONE, ieee_mul(rate, ieee_sub(ONE, blocks[terms + 8u])));
    }
}
