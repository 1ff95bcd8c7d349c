// bf16 scales at any half-word: `scales` is an array of atomic words, since two blocks, and with them two
// workgroups, may share a word.

// The scale of a block of the piece, as f32 bits.
fn load_scale(block: u32) -> u32 {
    let at = params.scales + block;
    return (atomicLoad(&scales[at / 2u]) >> (16u * (at % 2u))) << 16u;
}

// Writes a scale given as f32 bits; only one thread may write each.
fn store_scale(block: u32, scale: u32) {
    let at = params.scales + block;
    let by = 16u * (at % 2u);
    atomicAnd(&scales[at / 2u], ~(0xffffu << by));
    atomicOr(&scales[at / 2u], (scale >> 16u) << by);
}
