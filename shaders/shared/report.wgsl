// What was found, into the slot of the tensor. `reports` holds, for each slot, two 64-bit counters as word pairs
// (out of range, clipped), then for each window of 2^31 elements one word a slot: 2^31 less the index within the window of
// the first element found there, 0 for none, so that a maximum keeps the first.
#include params

fn report_count(word: u32, count: u32) {
    let at = 4u * params.slot + word;
    let before = atomicAdd(&reports[at], count);
    if (before + count < before) {
        atomicAdd(&reports[at + 1u], 1u);
    }
}

// Elements out of range among the 32 from element `at` of the window on, as a mask that is not 0.
fn report_found(found: u32, at: u32) {
    report_count(0u, countOneBits(found));
    let i = at + countTrailingZeros(found);
    let lo = params.first_lo + i;
    let hi = params.first_hi + select(0u, 1u, lo < i);
    let window = (hi << 1u) | (lo >> 31u);
    atomicMax(&reports[(4u + window) * params.slots + params.slot], 0x80000000u - (lo & 0x7fffffffu));
}

fn report_clipped(count: u32) {
    report_count(2u, count);
}
