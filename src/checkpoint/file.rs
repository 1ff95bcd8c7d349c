//! The file: safetensors with a checksum, written at once or not at all.

use super::contents::{Array, Contents};
use super::header::{header, in_order, no_key_twice};
use super::replace::replace;
use super::{OLDEST, VERSION};
use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, SafeTensors};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

/// What the checksum follows in the header. No name can contain it, since quotes in names are escaped.
const MARK: &[u8] = b"\"checksum\":\"";
const BLANK: &[u8; 8] = b"00000000";
/// What the length of the file follows.
const LENGTH: &[u8] = b"\"bytes\":\"";
const FORMAT: &str = "trigrad";

/// Writes contents to a file of this kind. Beside the contents this needs no memory that grows with them.
pub(crate) fn write(path: &Path, kind: &'static str, contents: &Contents) -> Result<()> {
    let arrays = in_order(contents);
    let head = head(path, kind, contents, &arrays)?;
    replace(path, |file| {
        let mut file = BufWriter::new(file);
        file.write_all(&head)?;
        in_bytes(&arrays, |bytes| file.write_all(bytes))?;
        file.flush()
    })
    .map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Reads the contents of a file of this kind, checksum, format and version checked.
pub(crate) fn read(path: &Path, kind: &'static str) -> Result<Contents> {
    let bytes = fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    decode(path, kind, bytes)
}

/// What stands before the arrays, the length of the file and its checksum filled in.
fn head(path: &Path, kind: &'static str, contents: &Contents, arrays: &[(&str, &Array)]) -> Result<Vec<u8>> {
    let mut fields = contents.fields.clone();
    fields.insert("format".to_owned(), FORMAT.to_owned());
    fields.insert("version".to_owned(), VERSION.to_string());
    fields.insert("kind".to_owned(), kind.to_owned());
    fields.insert("checksum".to_owned(), String::from_utf8_lossy(BLANK).into_owned());
    fields.insert("bytes".to_owned(), length_text(0));
    let (mut head, data) = header(path, &fields, arrays)?;
    let length = length_text((head.len() + data) as u64);
    let (Some(at), Some(length_at)) = (after(&head, MARK, 8), after(&head, LENGTH, 16)) else {
        return Err(foreign(path, kind, "no checksum in the header".to_owned()));
    };
    head[length_at..length_at + 16].copy_from_slice(length.as_bytes());
    let mut sum = crc32fast::Hasher::new();
    sum.update(&head);
    in_bytes(arrays, |bytes| {
        sum.update(bytes);
        Ok(())
    })
    .map_err(|e| foreign(path, kind, e.to_string()))?;
    head[at..at + 8].copy_from_slice(sum_text(sum.finalize()).as_bytes());
    Ok(head)
}

fn decode(path: &Path, kind: &'static str, mut bytes: Vec<u8>) -> Result<Contents> {
    let got = bytes.len() as u64;
    let Some(length) = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else {
        return Err(Error::CheckpointTruncated { path: path.to_owned(), expected: 8, got });
    };
    if bytes.get(8).is_some_and(|b| *b != b'{') {
        return Err(foreign(path, kind, "not a safetensors file".to_owned()));
    }
    if length.saturating_add(8) > got {
        return Err(Error::CheckpointTruncated { path: path.to_owned(), expected: length.saturating_add(8), got });
    }
    let Some(at) = after(&bytes, MARK, 8) else {
        return Err(foreign(path, kind, "no checksum in the header".to_owned()));
    };
    let expected = String::from_utf8_lossy(&bytes[at..at + 8]).into_owned();
    bytes[at..at + 8].copy_from_slice(BLANK);
    let sum = checksum(&bytes);
    if sum != expected {
        let needed = needed(&bytes);
        return Err(match needed {
            Some(needed) if needed > got => Error::CheckpointTruncated { path: path.to_owned(), expected: needed, got },
            _ => Error::CheckpointCorrupted { path: path.to_owned(), expected, got: sum },
        });
    }
    // Readers differ in which of two values they take, and a checksum says nothing about it.
    no_key_twice(&bytes[8..8 + length as usize]).map_err(|e| foreign(path, kind, e.to_string()))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| foreign(path, kind, e.to_string()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| foreign(path, kind, e.to_string()))?;
    let mut contents = Contents { path: path.to_owned(), fields: fields(&metadata), ..Contents::default() };
    contents.fields.remove("checksum");
    contents.fields.remove("bytes");
    if contents.text("format").ok().as_deref() != Some(FORMAT) {
        return Err(foreign(path, kind, "another program's file".to_owned()));
    }
    let version = contents.text("version")?;
    match version.parse() {
        Ok(v) if (OLDEST..=VERSION).contains(&v) => contents.version = v,
        _ => {
            return Err(Error::CheckpointVersion {
                path: path.to_owned(),
                got: version,
                oldest: OLDEST,
                known: VERSION,
            });
        }
    }
    let got = contents.text("kind")?;
    if got != kind {
        return Err(foreign(path, kind, format!("a checkpoint of {got}")));
    }
    for (name, view) in tensors.iter() {
        let array = from_bytes(&contents, name, view.dtype(), view.data())?;
        contents.arrays.insert(name.to_owned(), array);
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
    sum_text(crc32fast::hash(bytes))
}

fn sum_text(sum: u32) -> String {
    format!("{sum:08x}")
}

fn foreign(path: &Path, expected: &'static str, reason: String) -> Error {
    Error::NotACheckpoint { path: path.to_owned(), expected, reason }
}

/// Elements that are turned into bytes at a time.
const PIECE: usize = 1024;

/// Hands on the bytes of arrays, little-endian, one after the other.
fn in_bytes(arrays: &[(&str, &Array)], mut to: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
    fn pieces<T: Copy, const N: usize>(
        x: &[T],
        bytes: impl Fn(T) -> [u8; N],
        to: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut piece = [[0; N]; PIECE];
        x.chunks(PIECE).try_for_each(|x| {
            piece.iter_mut().zip(x).for_each(|(p, v)| *p = bytes(*v));
            to(piece[..x.len()].as_flattened())
        })
    }
    arrays.iter().try_for_each(|(_, array)| match array {
        Array::U32(x) => pieces(x, u32::to_le_bytes, &mut to),
        Array::U64(x) => pieces(x, u64::to_le_bytes, &mut to),
        Array::Bf16(x) | Array::F16(x) | Array::U16(x) => pieces(x, u16::to_le_bytes, &mut to),
        Array::F32(x) => pieces(x, f32::to_le_bytes, &mut to),
    })
}

fn from_bytes(contents: &Contents, name: &str, dtype: Dtype, data: &[u8]) -> Result<Array> {
    fn numbers<T, const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let words = data.as_chunks::<N>().0;
        let mut x = Vec::new();
        x.try_reserve_exact(words.len()).map_err(|_| {
            let asked = (words.len() * size_of::<T>()) as u64;
            Error::OutOfMemory { device: "cpu".to_owned(), asked, free: None }
        })?;
        x.extend(words.iter().map(|w| number(*w)));
        Ok(x)
    }
    match dtype {
        Dtype::U32 => Ok(Array::U32(numbers(data, u32::from_le_bytes)?)),
        Dtype::U64 => Ok(Array::U64(numbers(data, u64::from_le_bytes)?)),
        Dtype::U16 => Ok(Array::U16(numbers(data, u16::from_le_bytes)?)),
        Dtype::F16 => Ok(Array::F16(numbers(data, u16::from_le_bytes)?)),
        Dtype::BF16 => Ok(Array::Bf16(numbers(data, u16::from_le_bytes)?)),
        Dtype::F32 => Ok(Array::F32(numbers(data, f32::from_le_bytes)?)),
        other => Err(contents.at_fault(name, format!("{other:?} is not a type it can have"))),
    }
}
