// What every dispatch is told. The Rust struct of the same fields is generated from this one.
// Lengths count elements of the window that the dispatch covers; offsets count from the start of a binding.
struct Params {
    zero: u32,      // always 0, which no compiler can know: keeps float operations apart and rare loops rolled
    n: u32,         // elements in the window
    first_lo: u32,  // the tensor's index of the window's first element, low and high word
    first_hi: u32,
    group: u32,     // the same in groups of 32: the draw counter of the window's first group
    x: u32,         // offset of the input, in elements
    words: u32,     // offset of planes, levels or counts, in words
    scales: u32,    // offset of scales, in half-words
    seen: u32,      // offset of block maxima, in half-words; of an update's first moment, in floats
    out: u32,       // offset of the output, in elements
    other: u32,     // offset of a further operand, in its own units: an update's second moment, in floats
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
    term0: u32,     // f32 bits: what every element of an update shares, in the order of SgdTerms or AdamWTerms
    term1: u32,
    term2: u32,
    term3: u32,
    term4: u32,
    term5: u32,
    term6: u32,
    term7: u32,
    term8: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
