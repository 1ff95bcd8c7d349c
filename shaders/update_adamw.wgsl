// Update: weights follow their gradients by AdamW, straight out of levels and scales, in place.
//
// Mirrors: src/numerics/{level,update}.rs (adamw), src/op/update.rs.
// Launch: a thread a word of weights (one f32, two bf16), 128 threads a workgroup.
// Buffers: levels, levels or counts of 2, 4, 8, 16 or 32 words a group of 32, or with DENSE n floats; scales, 1 half-word
// a block; weights, n elements, read and written; first_moment and second_moment, n floats each, read and written; guards,
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
#include update
// f32 bits, as in src/numerics/update.rs.
struct AdamWTerms {
    learning_rate: u32,
    beta1: u32,
    rest1: u32,
    beta2: u32,
    rest2: u32,
    correct1: u32,
    correct2: u32,
    eps: u32,
    @size(16) keep: u32,
}
struct AdamWParams {
    found: Found,
    draws: Draws,
    terms: AdamWTerms,
    zero: u32,             // always 0, which no compiler can know
    n: u32,                // elements in the piece
    levels: u32,           // where the gradient begins in its binding, in words
    scales: u32,           // where it begins in its binding, in half-words
    weights: u32,          // where it begins in its binding, in elements
    first_moment: u32,     // where it begins in its binding, in words
    second_moment: u32,    // where it begins in its binding, in words
    factor: u32,           // f32 bits
    shift: u32,            // log2 of the groups of 32 in a block
    guards: u32,           // slots of the guards, 0 without
}
@group(0) @binding(0) var<uniform> params: AdamWParams;
@group(0) @binding(1) var<storage, read> levels: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read_write> weights: array<u32>;
@group(0) @binding(4) var<storage, read_write> first_moment: array<u32>;
@group(0) @binding(5) var<storage, read_write> second_moment: array<u32>;
@group(0) @binding(6) var<storage, read> guards: array<u32>;
@group(0) @binding(7) var<storage, read_write> reports: array<atomic<u32>>;

fn step(i: u32, w: u32) -> u32 {
    let terms = params.terms;
    let g = gradient_at(i);
    let m = ieee_add(ieee_mul(first_moment[params.first_moment + i], terms.beta1), ieee_mul(g, terms.rest1));
    let v = ieee_add(
        ieee_mul(second_moment[params.second_moment + i], terms.beta2),
        ieee_mul(ieee_mul(g, g), terms.rest2),
    );
    state_a = m;
    state_b = v;
    let root = ieee_add(ieee_sqrt(ieee_mul(v, terms.correct2)), terms.eps);
    let adjusted = ieee_div(ieee_mul(m, terms.correct1), root);
    return ieee_sub(ieee_mul(w, terms.keep), ieee_mul(adjusted, terms.learning_rate));
}

fn store_state(i: u32) {
    first_moment[params.first_moment + i] = state_a;
    second_moment[params.second_moment + i] = state_b;
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    if (any_guard(lane)) {
        return;
    }
    update_word(workgroup_index(id, count) * 128u + lane);
}
