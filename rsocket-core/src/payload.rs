//! [`Payload`]: data and metadata that travel together.

use std::fmt;

use bytes::Bytes;

use crate::{pool::Pooled, transport::Part};

/// Data, and optionally metadata, that travel together.
///
/// Short parts (up to [`Payload::INLINE_LEN`] bytes) that arrive from a peer
/// are kept inside the value itself, so a small request costs no allocation. Those
/// of up to 2 KiB are copied into memory that each thread keeps for them and uses
/// again, up to 248 KiB of it; longer ones share the memory that they arrived in.
/// Cloning copies what is inline or in such memory, and shares the rest.
///
/// Absent metadata and empty metadata differ on the wire, and here:
/// `None` against `Some(&[])`.
///
/// What is sent may be let go of under the connection's lock. An owner of its
/// memory ([`Bytes::from_owner`]) must not use the connection when it is dropped:
/// that would wait for itself.
///
/// # Examples
///
/// ```
/// use rsocket_core::Payload;
///
/// let payload = Payload::new("ping").with_metadata(vec![1, 2, 3]);
/// assert_eq!(payload.data(), b"ping");
/// assert_eq!(payload.metadata(), Some(&[1, 2, 3][..]));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Payload {
    data: Chunk,
    metadata: Option<Chunk>,
}

impl Payload {
    /// Bytes that a part may have to be kept inside the value.
    pub const INLINE_LEN: usize = Chunk::INLINE_LEN;

    /// A payload without metadata. `data` is not copied.
    pub fn new(data: impl Into<Bytes>) -> Self {
        Self {
            data: Chunk::Shared(data.into()),
            metadata: None,
        }
    }

    /// A payload without metadata, with a copy of `data`.
    pub fn copy_from_slice(data: &[u8]) -> Self {
        Self {
            data: Chunk::copy_from_slice(data),
            metadata: None,
        }
    }

    /// Likewise of parts that were lent or given away, in place: what was just
    /// written is not to be moved, see [`Inline`].
    #[inline]
    pub(crate) fn keep(&mut self, data: Part<'_>, metadata: Option<Part<'_>>) {
        self.data.keep(data);
        match metadata {
            None => self.metadata = None,
            Some(part) => self.metadata.insert(Chunk::default()).keep(part),
        }
    }

    /// Adds metadata, not copied. `Some(empty)` and `None` differ on the wire.
    #[must_use]
    pub fn with_metadata(mut self, metadata: impl Into<Bytes>) -> Self {
        self.metadata = Some(Chunk::Shared(metadata.into()));
        self
    }

    /// The data.
    #[inline]
    pub fn data(&self) -> &[u8] {
        self.data.as_slice()
    }

    /// The metadata, if any was sent.
    #[inline]
    pub fn metadata(&self) -> Option<&[u8]> {
        self.metadata.as_ref().map(Chunk::as_slice)
    }

    /// The data as text, if it is valid UTF-8.
    pub fn data_utf8(&self) -> Option<&str> {
        std::str::from_utf8(self.data()).ok()
    }

    /// The metadata as text, if there is any and it is valid UTF-8.
    pub fn metadata_utf8(&self) -> Option<&str> {
        std::str::from_utf8(self.metadata()?).ok()
    }

    /// The data as `Bytes`. Copies at most [`INLINE_LEN`](Self::INLINE_LEN) bytes;
    /// what is not shared yet costs an allocation.
    pub fn into_data(self) -> Bytes {
        self.data.into_bytes()
    }

    /// Data and metadata as `Bytes`. Copies at most
    /// [`INLINE_LEN`](Self::INLINE_LEN) bytes of each.
    pub fn into_parts(self) -> (Bytes, Option<Bytes>) {
        (self.data.into_bytes(), self.metadata.map(Chunk::into_bytes))
    }

    /// Bytes of data and metadata together.
    pub fn len(&self) -> usize {
        self.data().len() + self.metadata().map_or(0, <[u8]>::len)
    }

    /// Whether there is neither data nor metadata content.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn data_chunk(&self) -> &Chunk {
        &self.data
    }

    pub(crate) fn metadata_chunk(&self) -> Option<&Chunk> {
        self.metadata.as_ref()
    }
}

impl<T: Into<Bytes>> From<T> for Payload {
    fn from(data: T) -> Self {
        Self::new(data)
    }
}

/// Shows lengths, not contents: payloads may be secret.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Payload");
        out.field("data_len", &self.data().len());
        if let Some(metadata) = self.metadata() {
            out.field("metadata_len", &metadata.len());
        }
        out.finish()
    }
}

/// One part of a payload.
///
/// The tag is a word, so that a value is moved word by word: behind a tag of one
/// byte all the rest would be moved in pieces that lie across words, and a
/// processor that has to put a load together from parts of several stores waits
/// until they are in the cache.
#[derive(Clone)]
#[repr(u64)]
pub(crate) enum Chunk {
    /// Short, and kept in place: no allocation, no reference count.
    Inline(Inline),
    /// Of middle length: no allocation in steady state.
    Pooled(Pooled),
    Shared(Bytes),
}

#[derive(Clone)]
#[repr(align(8))]
pub(crate) struct Inline {
    bytes: [u8; Chunk::INLINE_LEN],
    len: u8,
}

impl Inline {
    const EMPTY: Self = Self {
        bytes: [0; _],
        len: 0,
    };
}

impl Chunk {
    /// With tag and length this makes 48 bytes, a size at which a 32-byte
    /// request stays inline and moving a payload stays cheap.
    pub(crate) const INLINE_LEN: usize = 39;

    #[inline]
    pub(crate) fn copy_from_slice(bytes: &[u8]) -> Self {
        let mut chunk = Self::default();
        chunk.keep(Part::slice(bytes));
        chunk
    }

    /// Becomes `part`: short ones are copied, long ones share the memory that they
    /// lie in if that can be had.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most INLINE_LEN")]
    fn keep(&mut self, part: Part<'_>) {
        let bytes = part.as_slice();
        if bytes.len() > Self::INLINE_LEN {
            self.keep_long(part);
            return;
        }
        *self = Self::Inline(Inline::EMPTY);
        if let Self::Inline(inline) = self
            && let Some(room) = inline.bytes.get_mut(..bytes.len())
        {
            room.copy_from_slice(bytes);
            inline.len = bytes.len() as u8;
        }
    }

    fn keep_long(&mut self, part: Part<'_>) {
        if !part.is_shared()
            && let Some(pooled) = Pooled::copy_from_slice(part.as_slice())
        {
            *self = Self::Pooled(pooled);
        } else {
            *self = Self::Shared(part.to_bytes());
        }
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline(Inline { bytes, len }) => {
                bytes.get(..usize::from(*len)).unwrap_or_default()
            }
            Self::Pooled(pooled) => pooled.as_slice(),
            Self::Shared(bytes) => bytes,
        }
    }

    pub(crate) fn as_shared(&self) -> Option<&Bytes> {
        match self {
            Self::Inline(..) | Self::Pooled(_) => None,
            Self::Shared(bytes) => Some(bytes),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Inline(..) => Bytes::copy_from_slice(self.as_slice()),
            Self::Pooled(pooled) => Bytes::from_owner(pooled),
            Self::Shared(bytes) => bytes,
        }
    }
}

impl Default for Chunk {
    fn default() -> Self {
        Self::Inline(Inline::EMPTY)
    }
}

impl PartialEq for Chunk {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Chunk {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_48_bytes_and_keeps_a_32_byte_request_inline() {
        assert_eq!(size_of::<Chunk>(), 48);
        let chunk = Chunk::copy_from_slice(&[7; 32]);
        assert!(chunk.as_shared().is_none());
        assert_eq!(chunk.as_slice(), [7; 32]);
    }

    #[test]
    fn parts_of_every_length_around_the_inline_limit_come_back_whole() {
        for len in 0..=Chunk::INLINE_LEN + 2 {
            let bytes: Vec<u8> = (0..=u8::MAX).take(len).collect();
            let chunk = Chunk::copy_from_slice(&bytes);
            assert_eq!(chunk.as_slice(), bytes);
            let is_inline = matches!(chunk, Chunk::Inline(_));
            assert_eq!(is_inline, len <= Chunk::INLINE_LEN);
            assert_eq!(chunk.into_bytes(), bytes);
        }
    }

    // [C035]
    #[test]
    fn empty_metadata_is_not_absent_metadata() {
        let absent = Payload::new("x");
        let empty = Payload::new("x").with_metadata("");
        assert_eq!(absent.metadata(), None);
        assert_eq!(empty.metadata(), Some(&[][..]));
        assert_ne!(absent, empty);
    }

    #[test]
    fn debug_output_shows_lengths_and_no_secrets() {
        let payload = Payload::new("password").with_metadata("token");
        let shown = format!("{payload:?}");
        assert!(
            !shown.contains("password") && !shown.contains("token"),
            "{shown}"
        );
    }
}
