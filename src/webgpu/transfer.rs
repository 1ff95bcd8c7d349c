//! Between host and device, through staging buffers, and within the device.

use super::device::Wgpu;
use super::error::backend;
use super::launch::{Batch, Piece};
use super::raw::Raw;
use super::shaders::{self, CopyParams};
use super::staging::{self, CHUNK, SIZES, kind};
use super::view::{Buffer, ViewMut};
use crate::error::{Error, Result};
use bytemuck::Pod;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Bytes from which a copy is a shader's, on a GPU.
const SHADER: u64 = 1 << 20;
/// What a callback whose submission is done may take until it is called.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bytes of data that is as long as what it overwrites.
fn bytes_for<'d, T: Pod>(data: &'d [T], to: Raw<'_>) -> Result<&'d [u8]> {
    let bytes: &[u8] = bytemuck::cast_slice(data);
    if bytes.len() as u64 == to.bytes {
        return Ok(bytes);
    }
    let got = to.bytes / (size_of::<T>() as u64).max(1);
    Err(Error::Length { what: "write", expected: data.len() as u64, got })
}

impl Wgpu {
    /// Overwrites all of a buffer of this backend. What fills it up to whole words is nobody else's.
    pub(crate) fn fill<T: Pod + Send + Sync>(&self, data: &[T], to: &mut Buffer<T>) -> Result<()> {
        let raw = to.all();
        let bytes = bytes_for(data, raw)?;
        self.submits("write")?;
        self.write_words(bytes, Raw { bytes: raw.bytes.next_multiple_of(4), ..raw })
    }

    /// Overwrites a view with the host's data, through staging buffers that are kept. Returns when the data has been
    /// taken over, not when it has arrived; operations submitted later see it. With more than 64 MiB on their way it waits
    /// for the oldest. A failure amid a long write leaves its first part written.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] for another length, [`Error::OutOfMemory`], or what the device reports.
    #[expect(clippy::needless_pass_by_value, reason = "a mutable view is given away, as in `Memory`")]
    pub fn write<T: Pod + Send + Sync>(&self, data: &[T], to: ViewMut<'_, T>) -> Result<()> {
        let bytes = bytes_for(data, to.raw)?;
        self.submits("write")?;
        let words = Raw { offset: to.raw.offset, bytes: to.raw.bytes, buffer: to.raw.buffer };
        let whole = |v: u64| v.is_multiple_of(4);
        // Copies move words. A view that begins or ends within one is written through a buffer of its own, from
        // which a shader moves the bytes.
        if whole(words.offset) && whole(words.bytes) {
            return self.write_words(bytes, words);
        }
        let through = self.inner.link.allocate(words.bytes)?;
        let part = Raw { buffer: &through, offset: 0, bytes: words.bytes.next_multiple_of(4) };
        self.write_words(bytes, part)?;
        self.copy_bytes(part.part(0, words.bytes), words)
    }

    /// Writes bytes to whole words; the last word is filled up with zeros.
    fn write_words(&self, bytes: &[u8], to: Raw<'_>) -> Result<()> {
        for (i, chunk) in bytes.chunks(CHUNK as usize).enumerate() {
            let size = (chunk.len() as u64).next_multiple_of(4);
            let kind = kind(size);
            let buffer = match self.inner.staging.up.take(kind) {
                Some(buffer) => buffer,
                None => staging::make(
                    &self.inner.link,
                    kind,
                    wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
                    true,
                )?,
            };
            {
                let mut mapped = buffer.get_mapped_range_mut(..size).map_err(|e| backend("write", e.to_string()))?;
                let rest = size as usize - chunk.len();
                mapped.slice(..chunk.len()).copy_from_slice(chunk);
                mapped.slice(chunk.len()..).copy_from_slice(&[0; 3][..rest]);
            }
            buffer.unmap();
            let mut batch = Batch::new(self);
            batch.copy(Raw { buffer: &buffer, offset: 0, bytes: size }, to.part(i as u64 * CHUNK, size));
            let index = batch.run("write")?;
            let (free, again) = (Arc::clone(&self.inner.staging.up), buffer.clone());
            self.inner.link.scoped("write", 0, || {
                buffer.map_async(wgpu::MapMode::Write, .., move |mapped| {
                    if mapped.is_ok() {
                        free.give(again);
                    }
                });
                Ok(())
            })?;
            if let Some(oldest) = index.and_then(|index| self.inner.staging.fly(index, SIZES[kind])) {
                self.inner.link.wait_for(oldest)?;
            }
        }
        Ok(())
    }

    /// Copies to the host; waits.
    pub(super) fn read<T: Pod>(&self, from: Raw<'_>) -> Result<Vec<T>> {
        self.submits("download")?;
        let mut out: Vec<T> = Vec::new();
        if size_of::<T>() == 0 || from.bytes == 0 {
            return self.inner.link.alive("download").map(|()| out);
        }
        let len = (from.bytes / size_of::<T>() as u64) as usize;
        if out.try_reserve_exact(len).is_err() {
            return Err(Error::OutOfMemory { device: "the host".to_owned(), asked: from.bytes, free: None });
        }
        out.resize(len, T::zeroed());
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut out);
        // Copies move words: what is copied begins up to 3 bytes earlier and ends up to 3 later.
        let start = from.offset / 4 * 4;
        let (skip, total) = (from.offset - start, (from.offset + from.bytes).next_multiple_of(4) - start);
        for at in (0..total).step_by(CHUNK as usize) {
            let size = CHUNK.min(total - at);
            let piece = Raw { buffer: from.buffer, offset: start + at, bytes: size };
            let (begin, end) = (at.max(skip), (at + size).min(skip + from.bytes));
            let to = &mut bytes[(begin - skip) as usize..(end - skip) as usize];
            self.read_piece(piece, (begin - at) as usize, to)?;
        }
        self.inner.link.alive("download")?;
        Ok(out)
    }

    /// Copies words to the host and hands over those of their bytes that begin at `skip`.
    fn read_piece(&self, from: Raw<'_>, skip: usize, to: &mut [u8]) -> Result<()> {
        let kind = kind(from.bytes);
        let buffer = match self.inner.staging.down.take(kind) {
            Some(buffer) => buffer,
            None => staging::make(
                &self.inner.link,
                kind,
                wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                false,
            )?,
        };
        let mut batch = Batch::new(self);
        batch.copy(from, Raw { buffer: &buffer, offset: 0, bytes: from.bytes });
        let index = batch.run("download")?;
        let (tell, told) = mpsc::channel();
        self.inner.link.scoped("download", 0, || {
            buffer.map_async(wgpu::MapMode::Read, ..from.bytes, move |mapped| drop(tell.send(mapped)));
            Ok(())
        })?;
        if let Some(index) = index {
            self.inner.link.wait_for(index)?;
        }
        // Where threads share the device, another one's poll may have taken the callback and not yet called it.
        match told.recv_timeout(PATIENCE) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(self.inner.link.lost("download", &e)),
            Err(e @ mpsc::RecvTimeoutError::Disconnected) => return Err(self.inner.link.lost("download", &e)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let message =
                    "the copy is done, but another thread that took its callback has not called it for a minute";
                return Err(backend("download", message));
            }
        }
        {
            let view = buffer.get_mapped_range(..from.bytes).map_err(|e| backend("download", e.to_string()))?;
            to.copy_from_slice(&view[skip..skip + to.len()]);
        }
        buffer.unmap();
        self.inner.staging.down.give(buffer);
        Ok(())
    }

    /// Refuses what cannot be recorded.
    pub(super) fn submits(&self, call: &'static str) -> Result<()> {
        if self.target.is_some() {
            return Err(backend(call, "this handle records into a command encoder; call it on the device"));
        }
        Ok(())
    }

    /// Writes zeros to bytes at any offsets, in one submission.
    pub(super) fn clear_bytes(&self, raws: &[Raw<'_>]) -> Result<()> {
        let mut batch = Batch::new(self);
        for raw in raws.iter().filter(|raw| raw.bytes > 0) {
            let (start, end) = (raw.offset.next_multiple_of(4), (raw.offset + raw.bytes) / 4 * 4);
            if start < end {
                batch.clear(Raw { buffer: raw.buffer, offset: start, bytes: end - start });
            }
            // The edges share a word with somebody else's bytes.
            let head = (start - raw.offset).min(raw.bytes);
            let tail = if start <= end { raw.offset + raw.bytes - end } else { 0 };
            for part in [raw.part(0, head), raw.part(raw.bytes - tail, tail)] {
                if part.bytes > 0 {
                    let buffer = self.inner.link.allocate(8)?;
                    batch.move_bytes(Raw { buffer: &buffer, offset: 0, bytes: part.bytes }, part)?;
                }
            }
        }
        batch.run("clear").map(drop)
    }

    /// Copies bytes between buffers, or within one, at any offsets.
    pub(super) fn copy_bytes(&self, from: Raw<'_>, to: Raw<'_>) -> Result<()> {
        let mut to = to;
        if to.bytes == 0 {
            return self.inner.link.alive("copy");
        }
        let whole = |v: u64| v.is_multiple_of(4);
        let mut batch = Batch::new(self);
        let mut from = from;
        let through;
        if from.buffer == to.buffer {
            // wgpu binds or copies no buffer to itself.
            let start = from.offset / 4 * 4;
            let bytes = (from.offset + from.bytes).next_multiple_of(4) - start;
            through = self.inner.link.allocate(bytes)?;
            let all = Raw { buffer: &through, offset: 0, bytes };
            batch.copy(Raw { buffer: from.buffer, offset: start, bytes }, all);
            from = all.part(from.offset - start, from.bytes);
        }
        let piece = |v: u64| v.is_multiple_of(16);
        if self.inner.link.info.device_type != wgpu::DeviceType::Cpu
            && to.bytes >= SHADER
            && piece(from.offset)
            && piece(to.offset)
        {
            let most = to.bytes / 16 * 16;
            batch.move_pieces(from.part(0, most), to.part(0, most))?;
            (from, to) = (from.part(most, to.bytes - most), to.part(most, to.bytes - most));
        }
        if whole(from.offset) && whole(to.offset) && whole(to.bytes) {
            batch.copy(from, to);
        } else {
            batch.move_bytes(from, to)?;
        }
        batch.run("copy").map(drop)
    }
}

impl Batch<'_> {
    /// Copies bytes between different buffers at any offsets, by a shader.
    fn move_bytes(&mut self, from: Raw<'_>, to: Raw<'_>) -> Result<()> {
        for Piece { start, len } in self.gpu.pieces(to.bytes as usize, 1) {
            let (from, to) = (from.part(start, len), to.part(start, len));
            let params = CopyParams { n: len as u32, source: from.skip(1), destination: to.skip(1) };
            let words = (to.inset() + to.bytes).div_ceil(4);
            self.dispatch(&shaders::COPY, Vec::new(), &[from, to], params, words)?;
        }
        Ok(())
    }

    /// Copies whole pieces of 16 bytes between different buffers, by a shader.
    fn move_pieces(&mut self, from: Raw<'_>, to: Raw<'_>) -> Result<()> {
        for Piece { start, len } in self.gpu.pieces(to.bytes as usize, 1) {
            let (from, to) = (from.part(start, len), to.part(start, len));
            let params = CopyParams { n: len as u32, source: from.skip(1), destination: to.skip(1) };
            self.dispatch(&shaders::COPY, vec!["VECTOR"], &[from, to], params, len / 16)?;
        }
        Ok(())
    }
}
