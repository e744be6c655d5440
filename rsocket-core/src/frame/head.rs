//! The layouts of the frames that streams send, each written down once.

use super::HEADER_LEN;
use super::error::ErrorCode;
use super::header::{Flags, FrameType};
use super::payload::PayloadRef;
use super::request::Interaction;
use super::value::{Demand, StreamId};
use super::write::metadata_length;

/// The first bytes of a frame that belongs to a stream: all that comes before
/// the metadata, its length field included.
///
/// It lives on the stack; metadata and data are written behind it from where
/// they are. [`Frame::encode`](super::Frame::encode) writes these frames
/// through it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Zeros behind `len`.
    bytes: [u8; Self::ROOM],
    /// 6..=13.
    len: u8,
}

impl Head {
    const ROOM: usize = 16;

    /// The head of a request.
    ///
    /// `metadata_len` is in bytes; `None` means that there is no metadata,
    /// `Some(0)` that it is present but empty.
    ///
    /// # Panics
    ///
    /// When `initial_n` is missing on a stream or channel or given otherwise,
    /// when `complete` is set on anything but a channel, and when the metadata
    /// is longer than a frame.
    #[inline]
    pub fn request(
        stream_id: StreamId,
        interaction: Interaction,
        initial_n: Option<Demand>,
        follows: bool,
        complete: bool,
        metadata_len: Option<usize>,
    ) -> Self {
        assert!(
            initial_n.is_some() == interaction.has_initial_n(),
            "streams and channels, and only they, have an initial request-n"
        );
        assert!(
            !complete || matches!(interaction, Interaction::RequestChannel),
            "only a channel's request completes"
        );
        let flags = Flags::default()
            .with(Flags::FOLLOWS, follows)
            .with(Flags::COMPLETE, complete);
        let mut builder = Builder::new(stream_id.get(), interaction.into(), flags, metadata_len);
        if let Some(n) = initial_n {
            builder.u32(n.get());
        }
        builder.finish(metadata_len)
    }

    /// The head of a PAYLOAD.
    ///
    /// `metadata_len` as in [`request`](Self::request).
    ///
    /// # Panics
    ///
    /// When both `follows` and `complete` are set, since the receiver would
    /// ignore the first, and when the metadata is longer than a frame.
    #[inline]
    pub fn payload(
        stream_id: StreamId,
        follows: bool,
        complete: bool,
        next: bool,
        metadata_len: Option<usize>,
    ) -> Self {
        assert!(
            !(follows && complete),
            "a fragment that others follow completes nothing"
        );
        let flags = Flags::default()
            .with(Flags::FOLLOWS, follows)
            .with(Flags::COMPLETE, complete)
            .with(Flags::NEXT, next);
        Builder::new(stream_id.get(), FrameType::Payload, flags, metadata_len).finish(metadata_len)
    }

    /// A whole REQUEST_N.
    #[inline]
    pub fn request_n(stream_id: StreamId, n: Demand) -> Self {
        let mut builder = Builder::plain(stream_id.get(), FrameType::RequestN);
        builder.u32(n.get());
        builder.finish(None)
    }

    /// A whole CANCEL.
    #[inline]
    pub fn cancel(stream_id: StreamId) -> Self {
        Builder::plain(stream_id.get(), FrameType::Cancel).finish(None)
    }

    /// The head of an ERROR, on the connection if there is no stream id. The
    /// message goes behind it as data.
    #[inline]
    pub fn error(stream_id: Option<StreamId>, code: ErrorCode) -> Self {
        let stream_id = stream_id.map_or(0, StreamId::get);
        let mut builder = Builder::plain(stream_id, FrameType::Error);
        builder.u32(code.get());
        builder.finish(None)
    }

    /// The bytes to send: 6 to 13.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or(&self.bytes)
    }

    /// Fills `out` with this head and the payload that it was made for.
    ///
    /// # Panics
    ///
    /// When `out` is not as long as the frame.
    #[inline]
    pub(super) fn write(self, payload: &PayloadRef<'_>, out: &mut [u8]) {
        match out.first_chunk_mut() {
            // One store of fixed length instead of a call to copy a few bytes;
            // what it writes behind the head is overwritten by the data.
            Some(front) if payload.metadata.is_none() => *front = self.bytes,
            _ => return write_parts(u128::from_ne_bytes(self.bytes), self.len, payload, out),
        }
        let (_, rest) = out.split_at_mut(self.len());
        rest.copy_from_slice(payload.data);
    }

    /// Fills `out` with a head that is a whole frame of `LEN` bytes.
    ///
    /// # Panics
    ///
    /// When either is not that long.
    #[inline]
    pub(super) fn write_all<const LEN: usize>(self, out: &mut [u8]) {
        assert!(
            self.len() == LEN && out.len() == LEN,
            "buffer of another length"
        );
        if let (Some(to), Some(from)) = (out.first_chunk_mut::<LEN>(), self.bytes.first_chunk()) {
            *to = *from;
        }
    }

    #[inline]
    fn len(&self) -> usize {
        usize::from(self.len)
    }
}

/// Fills `out` with a head of `len` bytes and what comes behind it.
///
/// Not inlined and without a reference to the head, so that the caller's head
/// stays in registers.
#[inline(never)]
fn write_parts(bytes: u128, len: u8, payload: &PayloadRef<'_>, out: &mut [u8]) {
    let head = Head {
        bytes: bytes.to_ne_bytes(),
        len,
    };
    match out.first_chunk_mut() {
        // As above: metadata and data overwrite what is written too far.
        Some(front) => *front = head.bytes,
        None => out
            .split_at_mut(head.len())
            .0
            .copy_from_slice(head.as_slice()),
    }
    let (_, mut rest) = out.split_at_mut(head.len());
    if let Some(metadata) = payload.metadata {
        let front;
        (front, rest) = rest.split_at_mut(metadata.len());
        front.copy_from_slice(metadata);
    }
    rest.copy_from_slice(payload.data);
}

/// A head as one number, filled from its top byte on. With arguments known at
/// the call this folds into a few shifts.
struct Builder {
    bits: u128,
    len: u8,
}

impl Builder {
    #[expect(clippy::cast_possible_truncation, reason = "it is 6")]
    const HEADER_LEN: u8 = HEADER_LEN as u8;

    #[inline]
    fn new(
        stream_id: u32,
        frame_type: FrameType,
        flags: Flags,
        metadata_len: Option<usize>,
    ) -> Self {
        let flags = flags.with(Flags::METADATA, metadata_len.is_some());
        let word = (frame_type as u16) << 10 | flags.bits();
        Self {
            bits: u128::from(stream_id) << 96 | u128::from(word) << 80,
            len: Self::HEADER_LEN,
        }
    }

    #[inline]
    fn plain(stream_id: u32, frame_type: FrameType) -> Self {
        Self::new(stream_id, frame_type, Flags::default(), None)
    }

    #[inline]
    fn u32(&mut self, value: u32) {
        self.len += 4;
        self.bits |= u128::from(value) << (128 - 8 * u32::from(self.len));
    }

    #[inline]
    fn finish(mut self, metadata_len: Option<usize>) -> Head {
        if let Some(len) = metadata_len {
            self.len += 3;
            self.bits |= u128::from(metadata_length(len)) << (128 - 8 * u32::from(self.len));
        }
        Head {
            bytes: self.bits.to_be_bytes(),
            len: self.len,
        }
    }
}
