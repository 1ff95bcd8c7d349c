//! Packing and conversions, element by element.

use super::note;
use crate::numerics::pack::{set_level, trit};
use crate::op::Report;

/// i8 trits to planes.
pub(super) fn pack(trits: &[i8], words: &mut [u32]) -> Report {
    let mut report = Report::default();
    words.fill(0);
    for (i, &t) in trits.iter().enumerate() {
        if (-1..=1).contains(&t) {
            set_level(words, 2, i, i32::from(t));
        } else {
            note(&mut report, i as u64);
        }
    }
    report
}

/// Planes to i8 trits.
pub(super) fn unpack(words: &[u32], trits: &mut [i8]) -> Report {
    let mut report = Report::default();
    for (i, out) in trits.iter_mut().enumerate() {
        *out = trit(words, i).unwrap_or_else(|| {
            note(&mut report, i as u64);
            0
        });
    }
    report
}

/// Planes to 2-bit fields, bit by bit; an invalid pair stays invalid.
pub(super) fn planes_to_fields(words: &[u32], fields: &mut [u32]) {
    fields.fill(0);
    for i in 0..words.len() * 16 {
        let (pair, bit) = (i / 32 * 2, i % 32);
        let code = (words[pair] >> bit & 1) | (words[pair + 1] >> bit & 1) << 1;
        fields[i / 16] |= code << (2 * (i % 16));
    }
}

/// 2-bit fields to planes, bit by bit; field 3 stays invalid.
pub(super) fn fields_to_planes(fields: &[u32], words: &mut [u32]) {
    words.fill(0);
    for i in 0..fields.len() * 16 {
        let (pair, bit) = (i / 32 * 2, i % 32);
        let code = fields[i / 16] >> (2 * (i % 16)) & 3;
        words[pair] |= (code & 1) << bit;
        words[pair + 1] |= (code >> 1) << bit;
    }
}
