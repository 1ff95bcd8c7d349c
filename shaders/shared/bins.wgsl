// Bins of an exact sum: 96-bit integers in two's complement, one for each power of two that a term may have. A workgroup
// adds up in its own memory first.
#include wide
// Products of two scales have 512 exponents; the upper half of a square of 32 bits comes 32 above.
const BINS: u32 = 544u;
var<workgroup> near: array<atomic<u32>, 1632>;
const_assert 3u * BINS == 1632u;

fn clear_bins(lane: u32) {
    for (var i = lane; i < 3u * BINS; i += 128u) {
        atomicStore(&near[i], 0u);
    }
    workgroupBarrier();
}

// Adds a 64-bit number in two's complement to a bin of the workgroup.
fn add_term(bin: u32, term: vec2<u32>) {
    let low = atomicAdd(&near[3u * bin], term.x);
    let carry = u32(low + term.x < low);
    let middle = term.y + carry;
    let wrapped = u32(middle < term.y);
    let before = atomicAdd(&near[3u * bin + 1u], middle);
    atomicAdd(&near[3u * bin + 2u], (0u - (term.y >> 31u)) + wrapped + u32(before + middle < before));
}

// Adds what the workgroup has to the bins of all.
fn join_bins(lane: u32) {
    workgroupBarrier();
    for (var bin = lane; bin < BINS; bin += 128u) {
        let low = atomicLoad(&near[3u * bin]);
        let middle = atomicLoad(&near[3u * bin + 1u]);
        let high = atomicLoad(&near[3u * bin + 2u]);
        if ((low | middle | high) != 0u) {
            let at = params.bins + 3u * bin;
            let old_low = atomicAdd(&bins[at], low);
            let carry = u32(old_low + low < old_low);
            let more = middle + carry;
            let wrapped = u32(more < middle);
            let old_middle = atomicAdd(&bins[at + 1u], more);
            atomicAdd(&bins[at + 2u], high + wrapped + u32(old_middle + more < old_middle));
        }
    }
}
