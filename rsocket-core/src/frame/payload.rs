//! PAYLOAD: carries a payload, the end of a stream, or both.

use super::HEADER_LEN;
use super::error::DecodeError;
use super::head::Head;
use super::header::{Flags, FrameType, Header};
use super::read::Reader;
use super::value::StreamId;

/// Metadata and data of one frame, borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PayloadRef<'a> {
    /// `Some` of nothing is "present but empty", which is not `None`: the
    /// difference is on the wire.
    pub metadata: Option<&'a [u8]>,
    /// Everything after the metadata; may be empty.
    pub data: &'a [u8],
}

impl PayloadRef<'_> {
    /// Bytes of data and metadata together.
    #[inline]
    pub(crate) fn content_len(&self) -> usize {
        self.data.len() + self.metadata.map_or(0, <[u8]>::len)
    }

    /// Bytes on the wire, the length field of the metadata included.
    #[inline]
    pub(super) fn encoded_len(&self) -> usize {
        self.metadata.map_or(0, |metadata| 3 + metadata.len()) + self.data.len()
    }
}

/// PAYLOAD: an answer, a further payload of a channel, or a later fragment.
///
/// Wire: `header | [metadata_len:u24 | metadata] | data`, at least 6 bytes.
///
/// Spec: "PAYLOAD Frame (0x0A)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadFrame<'a> {
    /// The stream that it belongs to.
    pub stream_id: StreamId,
    /// Whether more fragments of this payload follow. Never together with
    /// `complete`: a peer that sets both flags has `follows` ignored.
    pub follows: bool,
    /// Whether the sender has nothing more to send.
    pub complete: bool,
    /// Whether there is a payload at all; it may be empty.
    pub next: bool,
    /// The payload, or a piece of it.
    pub payload: PayloadRef<'a>,
}

impl<'a> PayloadFrame<'a> {
    #[inline]
    pub(super) fn decode(header: Header, body: Reader<'a>) -> Result<Self, DecodeError> {
        let complete = header.flags.contains(Flags::COMPLETE);
        Ok(Self {
            stream_id: header.stream(FrameType::Payload)?,
            follows: header.flags.contains(Flags::FOLLOWS) && !complete,
            complete,
            next: header.flags.contains(Flags::NEXT),
            payload: body.payload(header.flags.contains(Flags::METADATA))?,
        })
    }

    #[inline]
    pub(super) fn encoded_len(&self) -> usize {
        HEADER_LEN + self.payload.encoded_len()
    }

    #[inline]
    pub(super) fn head(&self) -> Head {
        Head::payload(
            self.stream_id,
            self.follows,
            self.complete,
            self.next,
            self.payload.metadata.map(<[u8]>::len),
        )
    }
}
