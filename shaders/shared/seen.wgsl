// Block maxima at any half-word of the atomic words `seen`.

// Joins a maximum, f32 bits of a bf16, into that of a block of the piece; only one thread may do so for each.
fn join_seen(block: u32, max: u32) {
    let at = params.seen + block;
    let by = 16u * (at % 2u);
    let old = (atomicLoad(&seen[at / 2u]) >> by) & 0xffffu;
    let new_max = max >> 16u;
    if (new_max > old) {
        atomicXor(&seen[at / 2u], (old ^ new_max) << by);
    }
}
