//! The file: safetensors with a checksum, written at once or not at all.

use super::VERSION;
use super::contents::{Array, Contents};
use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView, serialize};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What the checksum follows in the header. No name can contain it, since quotes in names are escaped.
const MARK: &[u8] = b"\"checksum\":\"";
const BLANK: &[u8; 8] = b"00000000";
/// What the length of the file follows.
const LENGTH: &[u8] = b"\"bytes\":\"";
const FORMAT: &str = "trigrad";

/// Writes contents to a file of this kind.
pub(crate) fn write(path: &Path, kind: &'static str, contents: &Contents) -> Result<()> {
    let bytes = encode(kind, contents)?;
    replace(path, &bytes).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Reads the contents of a file of this kind, checksum, format and version checked.
pub(crate) fn read(path: &Path, kind: &'static str) -> Result<Contents> {
    let bytes = fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    decode(kind, bytes)
}

fn encode(kind: &'static str, contents: &Contents) -> Result<Vec<u8>> {
    let data: Vec<(&String, Dtype, Vec<usize>, Vec<u8>)> = contents
        .arrays
        .iter()
        .map(|(name, array)| {
            let (dtype, bytes) = to_bytes(array);
            (name, dtype, vec![array.len()], bytes)
        })
        .collect();
    let failed = |e| Error::CheckpointField { field: "tensors".to_owned(), reason: format!("{e}") };
    let views = data
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(failed)?;
    let mut fields: HashMap<String, String> = contents.fields.clone().into_iter().collect();
    fields.insert("format".to_owned(), FORMAT.to_owned());
    fields.insert("version".to_owned(), VERSION.to_string());
    fields.insert("kind".to_owned(), kind.to_owned());
    fields.insert("checksum".to_owned(), String::from_utf8_lossy(BLANK).into_owned());
    fields.insert("bytes".to_owned(), length_text(0));
    let mut bytes = serialize(views, Some(fields)).map_err(failed)?;
    let length = length_text(bytes.len() as u64);
    let (Some(at), Some(length_at)) = (after(&bytes, MARK, 8), after(&bytes, LENGTH, 16)) else {
        return Err(foreign(kind, "no checksum in the header".to_owned()));
    };
    bytes[length_at..length_at + 16].copy_from_slice(length.as_bytes());
    let sum = checksum(&bytes);
    bytes[at..at + 8].copy_from_slice(sum.as_bytes());
    Ok(bytes)
}

fn decode(kind: &'static str, mut bytes: Vec<u8>) -> Result<Contents> {
    let got = bytes.len() as u64;
    let Some(length) = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else {
        return Err(Error::CheckpointTruncated { expected: 8, got });
    };
    if bytes.get(8).is_some_and(|b| *b != b'{') {
        return Err(foreign(kind, "not a safetensors file".to_owned()));
    }
    if length.saturating_add(8) > got {
        return Err(Error::CheckpointTruncated { expected: length.saturating_add(8), got });
    }
    let Some(at) = after(&bytes, MARK, 8) else {
        return Err(foreign(kind, "no checksum in the header".to_owned()));
    };
    let expected = String::from_utf8_lossy(&bytes[at..at + 8]).into_owned();
    bytes[at..at + 8].copy_from_slice(BLANK);
    let sum = checksum(&bytes);
    if sum != expected {
        let needed = needed(&bytes);
        return Err(match needed {
            Some(needed) if needed > got => Error::CheckpointTruncated { expected: needed, got },
            _ => Error::CheckpointCorrupted { expected, got: sum },
        });
    }
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| foreign(kind, e.to_string()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| foreign(kind, e.to_string()))?;
    let mut contents = Contents { fields: fields(&metadata), ..Contents::default() };
    contents.fields.remove("checksum");
    contents.fields.remove("bytes");
    if contents.text("format").ok().as_deref() != Some(FORMAT) {
        return Err(foreign(kind, "another program's file".to_owned()));
    }
    let version = contents.text("version")?;
    if version.parse() != Ok(VERSION) {
        return Err(Error::CheckpointVersion { got: version, known: VERSION });
    }
    let got = contents.text("kind")?;
    if got != kind {
        return Err(foreign(kind, format!("a checkpoint of {got}")));
    }
    for (name, view) in tensors.iter() {
        contents.arrays.insert(name.to_owned(), from_bytes(name, view.dtype(), view.data())?);
    }
    Ok(contents)
}

/// The length that the header gives the file.
fn needed(bytes: &[u8]) -> Option<u64> {
    let at = after(bytes, LENGTH, 16)?;
    std::str::from_utf8(&bytes[at..at + 16]).ok()?.parse().ok()
}

fn length_text(bytes: u64) -> String {
    format!("{bytes:016}")
}

fn fields(metadata: &Metadata) -> std::collections::BTreeMap<String, String> {
    metadata.metadata().clone().unwrap_or_default().into_iter().collect()
}

/// Where in the header a field of `width` bytes stands that follows `mark`.
fn after(bytes: &[u8], mark: &[u8], width: usize) -> Option<usize> {
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk::<8>()?)).ok()?;
    let header = bytes.get(8..length.checked_add(8)?)?;
    let at = header.windows(mark.len()).position(|w| w == mark)? + mark.len();
    header.get(at..at + width).map(|_| at + 8)
}

/// The CRC-32 of the bytes, the checksum in them being blank.
fn checksum(bytes: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(bytes))
}

fn foreign(expected: &'static str, reason: String) -> Error {
    Error::NotACheckpoint { expected, reason }
}

fn to_bytes(array: &Array) -> (Dtype, Vec<u8>) {
    match array {
        Array::U32(x) => (Dtype::U32, x.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::U64(x) => (Dtype::U64, x.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::Bf16(x) => (Dtype::BF16, x.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::F32(x) => (Dtype::F32, x.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}

fn from_bytes(name: &str, dtype: Dtype, data: &[u8]) -> Result<Array> {
    fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
        data.as_chunks::<N>().0.iter().copied()
    }
    match dtype {
        Dtype::U32 => Ok(Array::U32(words(data).map(u32::from_le_bytes).collect())),
        Dtype::U64 => Ok(Array::U64(words(data).map(u64::from_le_bytes).collect())),
        Dtype::BF16 => Ok(Array::Bf16(words(data).map(u16::from_le_bytes).collect())),
        Dtype::F32 => Ok(Array::F32(words(data).map(f32::from_le_bytes).collect())),
        other => Err(Error::CheckpointField {
            field: name.to_owned(),
            reason: format!("{other:?} is not a type it can have"),
        }),
    }
}

/// Writes beside the target, flushes, renames: after a failure at any point the target is what it was.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))?);
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = folder.join(name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        fs::remove_file(&beside).ok();
    } else if cfg!(unix) {
        // The rename itself is on the disk once its folder is.
        File::open(&folder)?.sync_all()?;
    }
    written
}
