//! What the fuzz targets share: bytes read as choices and floats, operations run through [`Memory`] alone so that one
//! function serves every backend, and files repaired so that damage lies behind the checksum.

use bytemuck::Pod;
use std::path::PathBuf;
use trigrad::Memory;
use trigrad::cpu::Cpu;
use trigrad::op::{BlockSize, Draw, Element, Grouping};
use trigrad::testing::values::raw;

/// Bytes, read from the front; zeros after the end.
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    pub fn word(&mut self) -> u32 {
        (0..4).fold(0, |n, _| n << 8 | u32::from(self.byte()))
    }

    pub fn long(&mut self) -> u64 {
        u64::from(self.word()) << 32 | u64::from(self.word())
    }

    /// Below `n`, which is at most 256.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub fn bool(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Once in 256.
    pub fn rarely(&mut self) -> bool {
        self.byte() == 0xff
    }

    /// Any f32; a tame one half of the time.
    pub fn float(&mut self) -> f32 {
        if self.bool() { f32::from_bits(self.word()) } else { f32::from(self.byte() as i8) / 16.0 }
    }

    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn words(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.word()).collect()
    }

    pub fn halves(&mut self, n: usize) -> Vec<u16> {
        (0..n).map(|_| u16::from_be_bytes([self.byte(), self.byte()])).collect()
    }

    /// `n` values from the bytes as they are; each byte pair repeats after the end.
    pub fn values<T: Element>(&mut self, n: usize) -> Vec<T> {
        let width = size_of::<T>();
        let bytes = self.take(n * width);
        let at = |i: usize| if bytes.is_empty() { 0 } else { bytes[i % bytes.len()] };
        let value = |i: usize| raw((0..width).fold(0, |w, b| w << 8 | u32::from(at(i * width + b))));
        (0..n).map(value).collect()
    }

    /// A length: short ones often, the edges of blocks and chunks sometimes.
    pub fn length(&mut self) -> usize {
        match self.byte() {
            b @ 0..=159 => usize::from(b),
            b @ 160..=229 => usize::from(b) * 8 + self.below(9),
            b => [511, 512, 513, 1023, 1024, 1025, 4095, 4096, 4097, 8191, 8192, 8193][usize::from(b) % 12],
        }
    }

    pub fn block(&mut self) -> BlockSize {
        BlockSize::new(32 << self.below(8)).unwrap_or_default()
    }

    pub fn grouping(&mut self) -> Grouping {
        match self.byte() {
            0..=159 => Grouping::Block(self.block()),
            160..=199 => Grouping::Tensor,
            200..=239 => Grouping::Row(u64::from(self.byte())),
            _ => Grouping::Row(self.long()),
        }
    }

    pub fn draw(&mut self) -> Draw {
        let micro_batch = if self.rarely() { self.word() } else { u32::from(self.byte()) };
        Draw::new(self.long(), self.word()).micro_batch(micro_batch)
    }

    /// A position: on a block most of the time.
    pub fn first(&mut self, multiple: usize) -> u64 {
        match self.byte() {
            0..=239 => u64::from(self.byte()) * multiple as u64,
            _ => self.long(),
        }
    }

    /// A length that is right most of the time.
    pub fn near(&mut self, n: usize) -> usize {
        if self.rarely() { n.saturating_add_signed(isize::from(self.byte() as i8)) } else { n }
    }
}

/// The kinds of CPU code that are compared with the reference.
pub fn cpus() -> Vec<Cpu> {
    Cpu::kinds()
}

/// A result that compares: an error by all its fields, except those of a report slot, which are each backend's own.
pub fn outcome<T>(result: trigrad::Result<T>) -> Result<T, String> {
    result.map_err(|e| {
        let text = format!("{e:?}");
        if text.contains("report slots") { "report slots".to_owned() } else { text }
    })
}

/// The host's copy of a buffer.
pub fn host<M: Memory, T: Pod + Send + Sync>(memory: &M, buffer: &M::Buffer<T>) -> Vec<T> {
    memory.download(M::view(buffer)).unwrap_or_default()
}

/// A path of this process in memory where there is such a file system.
pub fn file(name: &str) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("trigrad-fuzz-{name}-{}", std::process::id()))
}

/// Corrects the length of the header, the length of the file and the checksum, where the file has them, so that what
/// follows the checksum is reached.
pub fn repair(file: &mut [u8]) {
    let at = |file: &[u8], mark: &[u8]| file.windows(mark.len()).position(|w| w == mark).map(|i| i + mark.len());
    let total = file.len();
    if let Some(i) = at(file, b"\"bytes\":\"").filter(|i| i + 16 <= total) {
        file[i..i + 16].copy_from_slice(format!("{total:016}").as_bytes());
    }
    if let Some(i) = at(file, b"\"checksum\":\"").filter(|i| i + 8 <= total) {
        file[i..i + 8].copy_from_slice(b"00000000");
        let sum = format!("{:08x}", crc32fast::hash(file));
        file[i..i + 8].copy_from_slice(sum.as_bytes());
    }
}

/// A file from bytes: as they are, or `good` with edits made to it and repaired.
pub fn damaged(bytes: &mut Bytes<'_>, good: &[u8]) -> Vec<u8> {
    let kind = bytes.below(4);
    if kind == 0 {
        return bytes.0.to_vec();
    }
    if kind == 1 {
        let mut file = bytes.0.to_vec();
        repair(&mut file);
        return file;
    }
    let mut file = good.to_vec();
    for _ in 0..=bytes.below(8) {
        let at = (usize::from(bytes.byte()) << 8 | usize::from(bytes.byte())) % (file.len() + 1);
        match bytes.below(8) {
            0..4 if at < file.len() => file[at] = bytes.byte(),
            4 if at < file.len() => file[at] = bytes.pick(b"0123456789,\"{}[]:-eE."),
            5 => file.truncate(at),
            6 => file.insert(at, bytes.byte()),
            _ if at < file.len() => drop(file.remove(at)),
            _ => {}
        }
    }
    if kind == 2 && file.len() >= 8 {
        // The header's end follows its edits.
        let header = file.iter().rposition(|b| *b == b'}').map_or(0, |i| (i + 1).saturating_sub(8));
        let padded = file[(8 + header).min(file.len())..].iter().take_while(|b| **b == b' ').count();
        file[..8].copy_from_slice(&((header + padded) as u64).to_le_bytes());
    }
    repair(&mut file);
    file
}
