// Which scale group an element belongs to: blocks of 2^(shift + 5), or, where cols is not 0, rows of cols elements
// of which the first may have begun in an earlier window, `head` elements before its end.
#include params
fn group_of(i: u32) -> u32 {
    if (params.cols == 0u) {
        return i >> (params.shift + 5u);
    }
    if (i < params.head) {
        return 0u;
    }
    return 1u + (i - params.head) / params.cols;
}

// The first element past the group of element i.
fn group_end(i: u32) -> u32 {
    if (params.cols == 0u) {
        return (group_of(i) + 1u) << (params.shift + 5u);
    }
    let end = params.head + group_of(i) * params.cols;
    return select(end, 0xffffffffu, end < params.head);
}
