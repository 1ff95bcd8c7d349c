// bf16 scales at any half-word of the words `scales`, only read.

// The scale of group i of the piece, as f32 bits.
fn scale_at(i: u32) -> u32 {
    let at = params.scales + i;
    return (scales[at / 2u] >> (16u * (at % 2u))) << 16u;
}
