// Which scale group an element belongs to, where the first group may have begun in an earlier piece, `head` elements
// before its end.
fn group_of(i: u32) -> u32 {
    if (i < params.head) {
        return 0u;
    }
    return 1u + (i - params.head) / params.columns;
}
