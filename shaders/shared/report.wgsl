// What was found, into the slot of the tensor. `reports` holds, for each slot, two 64-bit counters as word pairs
// (out of range, clipped), then for each stretch of 2^31 elements one word a slot: 2^31 less the index within the stretch of
// the first element found there, 0 for none, so that a maximum keeps the first.
struct Found {
    slot: u32,       // the slot, and how many there are
    slots: u32,
    first_low: u32,  // the tensor's index of the piece's first element
    first_high: u32,
}

fn report_count(word: u32, count: u32) {
    let at = 4u * params.found.slot + word;
    let before = atomicAdd(&reports[at], count);
    if (before + count < before) {
        atomicAdd(&reports[at + 1u], 1u);
    }
}

// Elements out of range among the 32 from element `at` of the piece on, as a mask that is not 0.
fn report_found(found: u32, at: u32) {
    report_count(0u, countOneBits(found));
    let i = at + countTrailingZeros(found);
    let low = params.found.first_low + i;
    let high = params.found.first_high + select(0u, 1u, low < i);
    let stretch = (high << 1u) | (low >> 31u);
    atomicMax(&reports[(4u + stretch) * params.found.slots + params.found.slot], 0x80000000u - (low & 0x7fffffffu));
}

fn report_clipped(count: u32) {
    report_count(2u, count);
}
