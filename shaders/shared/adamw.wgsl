// Mirrors src/numerics/update.rs (adamw).
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
// A weight and its moments.
struct AdamWStep {
    w: u32,
    m: u32,
    v: u32,
}

fn adamw(g: u32, w: u32, old_m: u32, old_v: u32) -> AdamWStep {
    let terms = params.terms;
    let m = ieee_add(ieee_mul(old_m, terms.beta1), ieee_mul(g, terms.rest1));
    let v = ieee_add(ieee_mul(old_v, terms.beta2), ieee_mul(ieee_mul(g, g), terms.rest2));
    let root = ieee_add(ieee_sqrt(ieee_mul(v, terms.correct2)), terms.eps);
    let adjusted = ieee_div(ieee_mul(m, terms.correct1), root);
    return AdamWStep(ieee_sub(ieee_mul(w, terms.keep), ieee_mul(adjusted, terms.learning_rate)), m, v);
}
