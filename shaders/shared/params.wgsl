// What every dispatch is told. The Rust struct of the same fields is generated from this one.
// Lengths count elements of the window that the dispatch covers; offsets count from the start of a binding.
struct Params {
    zero: u32,      // always 0, which no compiler can know: keeps two float operations from being joined
    n: u32,         // elements in the window
    first_lo: u32,  // the tensor's index of the window's first element, low and high word
    first_hi: u32,
    group: u32,     // the same in groups of 32: the draw counter of the window's first group
    x: u32,         // offset of the input, in elements
    words: u32,     // offset of planes, levels or counts, in words
    scales: u32,    // offset of scales, in half-words
    seen: u32,      // offset of block maxima, in half-words
    out: u32,       // offset of the output, in elements
    other: u32,     // offset of a further operand, in its own units
    shift: u32,     // log2 of the groups of 32 in a block
    key0: u32,      // the draw's key and counter words 1 to 3
    key1: u32,
    tensor: u32,
    step: u32,
    purpose: u32,
    weight: u32,    // f32 bits: weight, read-out factor, headroom, clip or threshold factor
    limit: u32,     // magnitude bits: a given threshold
    slot: u32,      // the report slot, and how many there are
    slots: u32,
    exact: u32,     // all ones: decide every element in integers, none by a float estimate
    cols: u32,      // elements in a full scale group; groups and chunks of these groups
    head: u32,      // elements of the window before the first scale group boundary
    row: u32,       // offset of the per-group records, in records
    chunks: u32,
    count: u32,     // units of work
    mode: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
