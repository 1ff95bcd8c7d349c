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
const COUNTS: Axis = &["BITS4", "BITS8", "BITS16", "BITS32"];
const ALL_BITS: Axis = &["BITS2", "BITS4", "BITS8", "BITS16", "BITS32"];
/// Where the gradient of an update lies: levels, or floats.
const GRADIENT: Axis = &["BITS2", "BITS4", "BITS8", "BITS16", "BITS32", "DENSE"];
/// The element types of weights.
const WEIGHT: Axis = &["F32", "BF16"];

/// The shaders and their axes, by file name in shaders/.
pub(crate) const SHADERS: &[(&str, &[Axis])] = &[
    ("accumulate", &[ELEMENT, VECTOR, LEVELS, INT64, SUBGROUP, SOFT]),
    ("accumulate_exact", &[ELEMENT, VECTOR, COUNTS, INT64, SUBGROUP, SOFT]),
    ("accumulate_f32", &[ELEMENT, VECTOR, SOFT]),
    ("check", &[ELEMENT, VECTOR, SOFT]),
    ("copy", &[VECTOR]),
    ("dequantize", &[ELEMENT, VECTOR]),
    ("pack", &[]),
    ("pack_fields", &[&["TO_FIELDS", "TO_PLANES"]]),
    ("pack_planes", &[&["SPLIT", "JOIN"]]),
    ("pack_unpack", &[]),
    ("probe", &[&["SUBGROUP", ""]]),
    ("quantize", &[ELEMENT, VECTOR, INT64, SUBGROUP]),
    ("quantize_groups", &[ELEMENT, VECTOR, &["ABOVE", ""], INT64]),
    ("quantize_rules", &[&["LARGEST", "MOMENTS", "SUM", "ABOVE"], &["WIDE", ""]]),
    ("quantize_sums", &[ELEMENT, VECTOR, &["LARGEST", "MOMENTS", "SUM", "ABOVE"]]),
    ("read_out", &[ELEMENT, VECTOR, ALL_BITS, SOFT]),
    ("read_out_f32", &[ELEMENT, VECTOR, SOFT]),
    ("reduce", &[]),
    ("reduce_count", &[]),
    ("reduce_f32", &[]),
    ("reduce_finish", &[]),
    ("reduce_norm", &[ALL_BITS]),
    ("state", &[SOFT]),
    ("state_micro_batch", &[SOFT]),
    ("state_params", &[SOFT]),
    ("state_step", &[]),
    ("update", &[WEIGHT, GRADIENT, INT64, SOFT]),
    ("update_adamw", &[WEIGHT, GRADIENT, INT64, SOFT]),
    ("update_adamw_8bit", &[WEIGHT, GRADIENT, INT64, SOFT]),
    ("window", &[&["FINE", ""]]),
    ("window_compare", &[]),
    ("window_look", &[ELEMENT, VECTOR, SUBGROUP, SOFT]),
    ("window_merge", &[COUNTS]),
    ("window_seen", &[]),
];
