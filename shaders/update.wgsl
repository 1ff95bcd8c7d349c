// Update: weights follow their gradients by SGD, straight out of levels and scales, in place.
//
// Mirrors: src/numerics/{level,update}.rs (sgd), src/op/update.rs.
// Launch: a thread a word of weights (one f32, two bf16), 128 threads a workgroup.
// Buffers: levels, levels or counts of 2, 4, 8, 16 or 32 words a group of 32, or with DENSE n floats; scales, 1 half-word
// a block; weights, n elements, read and written; momentum, n floats, read and written, or nothing; guards,
// reports that are looked at; reports.
// Invariants: nothing is written where any guard counts non-finite elements, nor where a weight or state would not be
// finite: that element is reported.
// Determinism: cross-backend; sums, products, quotients and roots are those of IEEE 754 on every adapter.
// Bytes an element: bits / 8 + 2 / block in, twice the weight and its state in and out.
#include dispatch
#include level
#include read_level
#include draw
#include scales_read
#include report
#include update_word
// f32 bits, as in src/numerics/update.rs; nesterov is not 0 with Nesterov momentum.
struct SgdTerms {
    learning_rate: u32,
    momentum: u32,
    weight_decay: u32,
    nesterov: u32,
}
struct SgdParams {
    found: Found,
    draws: Draws,
    terms: SgdTerms,
    zero: u32,        // always 0, which no compiler can know
    n: u32,           // elements in the piece
    levels: u32,      // where the gradient begins in its binding, in words
    scales: u32,      // where it begins in its binding, in half-words
    weights: u32,     // where it begins in its binding, in elements
    momentum: u32,    // where it begins in its binding, in words
    factor: u32,      // f32 bits
    shift: u32,       // log2 of the groups of 32 in a block
    guards: u32,      // slots of the guards, 0 without
}
@group(0) @binding(0) var<uniform> params: SgdParams;
@group(0) @binding(1) var<storage, read> levels: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read_write> weights: array<u32>;
@group(0) @binding(4) var<storage, read_write> momentum: array<u32>;
@group(0) @binding(5) var<storage, read> guards: array<u32>;
@group(0) @binding(6) var<storage, read_write> reports: array<atomic<u32>>;

fn step(i: u32, w: u32) -> u32 {
    let terms = params.terms;
    var d = gradient_at(i);
    if ((terms.weight_decay & ABS) != 0u) {
        d = ieee_add(d, ieee_mul(terms.weight_decay, w));
    }
    if ((terms.momentum & ABS) != 0u) {
        state_a = ieee_add(ieee_mul(terms.momentum, momentum[params.momentum + i]), d);
        d = select(state_a, ieee_add(d, ieee_mul(terms.momentum, state_a)), terms.nesterov != 0u);
    }
    return ieee_sub(w, ieee_mul(terms.learning_rate, d));
}

fn store_state(i: u32) {
    if ((params.terms.momentum & ABS) != 0u) {
        momentum[params.momentum + i] = state_a;
    }
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    if (any_guard(lane, 128u)) {
        return;
    }
    update_word(workgroup_index(id, count) * 128u + lane);
}
