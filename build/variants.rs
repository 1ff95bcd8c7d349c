//! Which variants each shader has.

/// One choice: a flag of each axis is set, the empty one standing for none.
pub(crate) type Axis = &'static [&'static str];

/// The element type of gradients, or of the output.
const ELEMENT: Axis = &["F32", "F16", "BF16"];
/// Whether views lie so that 16 bytes can be moved at a time.
const VECTOR: Axis = &["VECTOR", ""];
/// Whether Philox multiplies in 64-bit integers.
const INT64: Axis = &["INT64", ""];
/// Whether a block is joined within a subgroup instead of through workgroup memory.
const SUBGROUP: Axis = &["SUBGROUP", ""];
/// Whether f32 sums and products are computed in integers.
const SOFT: Axis = &["SOFT", ""];
const LEVELS: Axis = &["BITS2", "BITS4", "BITS8"];
const COUNTS: Axis = &["BITS4", "BITS8", "BITS16"];
const ALL_BITS: Axis = &["BITS2", "BITS4", "BITS8", "BITS16"];

/// The shaders and their axes, by file name in shaders/.
pub(crate) const SHADERS: &[(&str, &[Axis])] = &[
    ("accumulate", &[ELEMENT, VECTOR, LEVELS, INT64, SUBGROUP, SOFT]),
    ("accumulate_exact", &[ELEMENT, VECTOR, COUNTS, INT64, SUBGROUP, SOFT]),
    ("accumulate_look", &[ELEMENT, VECTOR, SUBGROUP, SOFT]),
    ("accumulate_merge", &[COUNTS]),
    ("accumulate_window", &[]),
    ("check", &[ELEMENT, VECTOR, SOFT]),
    ("copy", &[VECTOR]),
    ("dequantize", &[ELEMENT, VECTOR]),
    ("pack", &[]),
    ("pack_convert", &[&["SPLIT", "JOIN", "TO_FIELDS", "TO_PLANES"]]),
    ("pack_unpack", &[]),
    ("probe", &[&["SUBGROUP", ""]]),
    ("quantize", &[ELEMENT, VECTOR, INT64, SUBGROUP]),
    ("quantize_groups", &[ELEMENT, VECTOR, &["ABOVE", ""], INT64]),
    ("quantize_rules", &[&["LARGEST", "MOMENTS", "SUM", "ABOVE"], &["WIDE", ""]]),
    ("quantize_sums", &[ELEMENT, VECTOR, &["LARGEST", "MOMENTS", "SUM", "ABOVE"]]),
    ("read_out", &[ELEMENT, VECTOR, ALL_BITS, SOFT]),
    ("update", &[&["F32", "BF16"], &["BITS2", "BITS4", "BITS8", "BITS16", "DENSE"], &["SGD", ""], INT64, SOFT]),
    ("reduce", &[&["COUNT", "DOT", ""], ALL_BITS]),
];
