//! What a checkpoint holds: named fields and named arrays.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

/// An array of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Array {
    U32(Vec<u32>),
    U64(Vec<u64>),
    Bf16(Vec<u16>),
    F16(Vec<u16>),
    U16(Vec<u16>),
    F32(Vec<f32>),
}

impl Array {
    pub(crate) const fn len(&self) -> usize {
        match self {
            Array::U32(x) => x.len(),
            Array::U64(x) => x.len(),
            Array::Bf16(x) | Array::F16(x) | Array::U16(x) => x.len(),
            Array::F32(x) => x.len(),
        }
    }

    /// Bytes an element.
    pub(crate) const fn width(&self) -> usize {
        match self {
            Array::U32(_) | Array::F32(_) => 4,
            Array::U64(_) => 8,
            Array::Bf16(_) | Array::F16(_) | Array::U16(_) => 2,
        }
    }

    /// Its type as safetensors names it.
    pub(crate) const fn dtype(&self) -> &'static str {
        match self {
            Array::U32(_) => "U32",
            Array::U64(_) => "U64",
            Array::Bf16(_) => "BF16",
            Array::F16(_) => "F16",
            Array::U16(_) => "U16",
            Array::F32(_) => "F32",
        }
    }
}

/// Fields and arrays, by name. Taking one out removes it, so that what is left over can be refused.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Contents {
    /// The version of the format that it was read from.
    pub(crate) version: u32,
    /// The file they are read from, for errors to name; empty in what is to be written.
    pub(crate) path: PathBuf,
    pub(crate) fields: BTreeMap<String, String>,
    pub(crate) arrays: BTreeMap<String, Array>,
}

impl Contents {
    pub(crate) fn set(&mut self, name: impl Into<String>, value: impl Display) {
        self.fields.insert(name.into(), value.to_string());
    }

    /// An f64, exactly.
    pub(crate) fn set_f64(&mut self, name: impl Into<String>, value: f64) {
        self.set(name, format_args!("{:016x}", value.to_bits()));
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<String> {
        self.fields.remove(name).ok_or_else(|| self.missing(name))
    }

    pub(crate) fn get<T: FromStr>(&mut self, name: &str) -> Result<T> {
        let text = self.text(name)?;
        text.parse().map_err(|_| self.wrong(name, &text))
    }

    pub(crate) fn get_f64(&mut self, name: &str) -> Result<f64> {
        let text = self.text(name)?;
        let bits = if text.len() == 16 { u64::from_str_radix(&text, 16).ok() } else { None };
        bits.map(f64::from_bits).ok_or_else(|| self.wrong(name, &text))
    }

    /// Checks that a field has this value.
    pub(crate) fn same(&mut self, name: &str, expected: impl Display) -> Result<()> {
        let (got, expected) = (self.text(name)?, expected.to_string());
        if got == expected { Ok(()) } else { Err(self.mismatch(name, expected, got)) }
    }

    /// The error for a choice that is another here.
    pub(crate) fn mismatch(&self, field: &str, expected: String, got: String) -> Error {
        Error::CheckpointMismatch { path: self.path.clone(), field: field.to_owned(), expected, got }
    }

    pub(crate) fn u32s(&mut self, name: &str) -> Result<Vec<u32>> {
        match self.take(name)? {
            Array::U32(x) => Ok(x),
            other => Err(self.kind(name, "U32", &other)),
        }
    }

    pub(crate) fn u64s(&mut self, name: &str) -> Result<Vec<u64>> {
        match self.take(name)? {
            Array::U64(x) => Ok(x),
            other => Err(self.kind(name, "U64", &other)),
        }
    }

    pub(crate) fn u16s(&mut self, name: &str) -> Result<Vec<u16>> {
        match self.take(name)? {
            Array::U16(x) => Ok(x),
            other => Err(self.kind(name, "U16", &other)),
        }
    }

    pub(crate) fn bf16s(&mut self, name: &str) -> Result<Vec<u16>> {
        match self.take(name)? {
            Array::Bf16(x) => Ok(x),
            other => Err(self.kind(name, "BF16", &other)),
        }
    }

    pub(crate) fn f32s(&mut self, name: &str) -> Result<Vec<f32>> {
        match self.take(name)? {
            Array::F32(x) => Ok(x),
            other => Err(self.kind(name, "F32", &other)),
        }
    }

    /// An array of a type, as safetensors names it.
    pub(crate) fn array(&mut self, name: &str, dtype: &'static str) -> Result<Array> {
        let array = self.take(name)?;
        if array.dtype() == dtype { Ok(array) } else { Err(self.kind(name, dtype, &array)) }
    }

    fn take(&mut self, name: &str) -> Result<Array> {
        self.arrays.remove(name).ok_or_else(|| self.missing(name))
    }

    /// Checks that everything was taken out.
    pub(crate) fn empty(&self) -> Result<()> {
        match self.fields.keys().chain(self.arrays.keys()).next() {
            None => Ok(()),
            Some(name) => Err(self.at_fault(name, "not known to this version of trigrad")),
        }
    }

    /// The error for a field or array that can not be.
    pub(crate) fn at_fault(&self, field: &str, reason: impl Into<String>) -> Error {
        Error::CheckpointField { path: self.path.clone(), field: field.to_owned(), reason: reason.into() }
    }

    fn missing(&self, name: &str) -> Error {
        self.at_fault(name, "missing")
    }

    fn wrong(&self, name: &str, text: &str) -> Error {
        self.at_fault(name, format!("`{text}` is not a value it can have"))
    }

    fn kind(&self, name: &str, expected: &str, got: &Array) -> Error {
        self.at_fault(name, format!("expected {expected}, got {}", got.dtype()))
    }
}
