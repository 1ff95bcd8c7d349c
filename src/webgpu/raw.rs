//! Bytes of a wgpu buffer, and how they are bound.

/// What every buffer of this backend can be used for.
pub(super) const USAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// What offsets of bindings must be a multiple of on every adapter.
pub(super) const BINDING: u64 = 256;

/// Bytes of a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw<'a> {
    pub(super) buffer: &'a wgpu::Buffer,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl<'a> Raw<'a> {
    /// A part, in bytes from the start of this one.
    pub(super) fn part(self, offset: u64, bytes: u64) -> Raw<'a> {
        Raw { buffer: self.buffer, offset: self.offset + offset, bytes }
    }

    /// Bytes from the start of the binding to the first element.
    pub(super) fn inset(self) -> u64 {
        self.offset % BINDING
    }

    /// The inset in elements of `size` bytes.
    pub(super) fn skip(self, size: u64) -> u32 {
        (self.inset() / size) as u32
    }

    /// Whether whole vectors of `size` bytes can be moved: the range starts on one, and the last one, if only partly
    /// in the range, still lies within the buffer.
    pub(super) fn vectors(self, size: u64) -> bool {
        self.offset.is_multiple_of(size) && (self.offset + self.bytes).next_multiple_of(size) <= self.buffer.size()
    }

    /// Where the binding begins, and its length.
    pub(super) fn binding(self) -> (u64, u64) {
        let start = self.offset - self.inset();
        let end = (self.offset + self.bytes).max(start + 4);
        let padded = end.next_multiple_of(16);
        (start, if padded <= self.buffer.size() { padded } else { end.next_multiple_of(4) } - start)
    }
}
