// Which scale group an element belongs to: blocks of 2^(shift + 5), or, where columns is not 0, rows of so many elements
// of which the first may have begun in an earlier piece, `head` elements before its end.
fn group_of(i: u32) -> u32 {
    if (params.columns == 0u) {
        return i >> (params.shift + 5u);
    }
    if (i < params.head) {
        return 0u;
    }
    return 1u + (i - params.head) / params.columns;
}

// The first element past the group of element i.
fn group_end(i: u32) -> u32 {
    if (params.columns == 0u) {
        return (group_of(i) + 1u) << (params.shift + 5u);
    }
    let end = params.head + group_of(i) * params.columns;
    return select(end, 0xffffffffu, end < params.head);
}
