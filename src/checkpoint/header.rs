//! The header of a file: safetensors' own form, with its entries in a fixed order, so that equal states are equal files.

use super::contents::{Array, Contents};
use crate::error::{Error, Result};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

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
pub(super) fn header(
    path: &Path,
    fields: &BTreeMap<String, String>,
    arrays: &[(&str, &Array)],
) -> Result<(Vec<u8>, usize)> {
    let mut end = 0;
    let entries = arrays.iter().map(|&(name, array)| {
        let from = end;
        end += array.len() * array.width();
        (name, Entry { dtype: array.dtype(), shape: [array.len()], data_offsets: [from, end] })
    });
    let entries = entries.collect();
    let text = serde_json::to_vec(&Header { fields, entries }).map_err(|e| Error::CheckpointField {
        path: path.to_owned(),
        field: "header".to_owned(),
        reason: e.to_string(),
    })?;
    let length = text.len().next_multiple_of(8);
    let mut bytes = (length as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes.resize(8 + length, b' ');
    Ok((bytes, end))
}

/// Checks that no object of a JSON text, at any depth, has the same key twice.
pub(super) fn no_key_twice(text: &[u8]) -> serde_json::Result<()> {
    serde_json::from_slice::<Once>(text).map(|Once| ())
}

/// Any JSON value in which each key stands once.
struct Once;

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(Once)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = Once;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Once, E> {
        Ok(Once)
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<Once, E> {
        Ok(Once)
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<Once, E> {
        Ok(Once)
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Once, E> {
        Ok(Once)
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<Once, E> {
        Ok(Once)
    }

    fn visit_unit<E>(self) -> std::result::Result<Once, E> {
        Ok(Once)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut of: A) -> std::result::Result<Once, A::Error> {
        while let Some(Once) = of.next_element()? {}
        Ok(Once)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut of: A) -> std::result::Result<Once, A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = of.next_key::<String>()? {
            if keys.contains(&key) {
                return Err(A::Error::custom(format!("`{key}` stands twice in the header")));
            }
            keys.insert(key);
            let Once = of.next_value()?;
        }
        Ok(Once)
    }
}
