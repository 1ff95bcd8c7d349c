// The walk over the words of the weights. The shader declares `step(i, w) -> u32`, which gives the new weight of element i
// as f32 bits and keeps its new state in `state_a` and `state_b`, and `store_state(i)`.
#include update
var<private> state_a: u32;
var<private> state_b: u32;

// The weight that element i gets: the new one, or, where that or the new state is not finite, the old one, reported.
fn settled(i: u32, old: u32, new_weight: u32) -> u32 {
    if (finite(new_weight) && finite(state_a) && finite(state_b)) {
        store_state(i);
        return new_weight;
    }
    report_found(1u, i);
    return old;
}

#if BF16
// Half `side` of a word that holds element i there, or something outside the view.
fn updated(word: u32, i: i32, side: u32) -> u32 {
    if (i < 0 || u32(i) >= params.n) {
        return word;
    }
    let at = u32(i);
    let old = (word >> (16u * side)) << 16u;
    let rounded_weight = to_bf16(step(at, old), draw(group_words(at / 32u), at % 32u));
    return insertBits(word, settled(at, old, rounded_weight) >> 16u, 16u * side, 16u);
}
#end

// Word t of the weights: one f32, or two bf16, of which the first word may hold only one of the view.
fn update_word(t: u32) {
#if BF16
    let first = i32(2u * t) - i32(params.weights % 2u);
    if (first < i32(params.n)) {
        let at = params.weights / 2u + t;
        weights[at] = updated(updated(weights[at], first, 0u), first + 1, 1u);
    }
#else
    if (t < params.n) {
        let old = weights[params.weights + t];
        weights[params.weights + t] = settled(t, old, step(t, old));
    }
#end
}
