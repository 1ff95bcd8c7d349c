//! The header of a file: safetensors' own form, with its entries in a fixed order, so that equal states are equal files.

use super::contents::{Array, Contents};
use crate::error::{Error, Result};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::collections::BTreeMap;

/// A tensor's entry.
#[derive(serde::Serialize)]
struct Entry {
    dtype: &'static str,
    shape: [usize; 1],
    data_offsets: [usize; 2],
}

struct Header<'a> {
    fields: &'a BTreeMap<String, String>,
    entries: Vec<(&'a str, Entry)>,
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.entries.len()))?;
        map.serialize_entry("__metadata__", self.fields)?;
        for (name, entry) in &self.entries {
            map.serialize_entry(name, entry)?;
        }
        map.end()
    }
}

/// The arrays in the order of the file: the widest elements first, so that each lies aligned, then by name.
pub(super) fn in_order(contents: &Contents) -> Vec<(&str, &Array)> {
    let mut arrays: Vec<(&str, &Array)> = contents.arrays.iter().map(|(name, a)| (name.as_str(), a)).collect();
    arrays.sort_by_key(|(_, a)| std::cmp::Reverse(a.width()));
    arrays
}

/// The header with its length before it, and the number of bytes that follow it.
pub(super) fn header(fields: &BTreeMap<String, String>, arrays: &[(&str, &Array)]) -> Result<(Vec<u8>, usize)> {
    let mut end = 0;
    let entries = arrays.iter().map(|&(name, array)| {
        let from = end;
        end += array.len() * array.width();
        (name, Entry { dtype: array.dtype(), shape: [array.len()], data_offsets: [from, end] })
    });
    let entries = entries.collect();
    let text = serde_json::to_vec(&Header { fields, entries })
        .map_err(|e| Error::CheckpointField { field: "header".to_owned(), reason: e.to_string() })?;
    let length = text.len().next_multiple_of(8);
    let mut bytes = (length as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes.resize(8 + length, b' ');
    Ok((bytes, end))
}
